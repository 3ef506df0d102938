"""A circuit breaker: a server that keeps failing is left alone for a while, then tried with one request."""

from __future__ import annotations

import time
from collections.abc import Callable


class CircuitBreaker:
    """Closed (requests go out) until `failures` in a row; then open for `seconds`; then one trial decides.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, failures: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._seconds, self._clock = failures, seconds, clock
        self._failed = 0
        self._opened: float | None = None
        self._trying = False

    def wait(self) -> float:
        """Seconds until a request may go out; 0: now."""
        if self._opened is None:
            return 0.0
        left = self._opened + self._seconds - self._clock()
        return left if left > 0 else (self._seconds if self._trying else 0.0)

    def begin(self) -> None:
        """A request goes out: after an open time it is the trial."""
        self._trying = self._opened is not None

    def succeeded(self) -> None:
        """The server answered: closed."""
        self._failed, self._opened, self._trying = 0, None, False

    def failed(self) -> None:
        """The server did not: open after `failures` in a row, and again after a failed trial (still in a row)."""
        self._failed += 1
        if self._failed >= self._limit:
            self._opened, self._trying = self._clock(), False

    def abandoned(self) -> None:
        """A request was given up without a verdict; the next one may be the trial."""
        self._trying = False
