"""A reward that does not return is told of while it is waited for, instead of a silent run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

FIRST_WARNING = 60.0  # seconds; the next after twice as long, and so on


@contextmanager
def told_while_waiting(label: str) -> Iterator[None]:
    """Warns `still waiting for LABEL after N s` for as long as the block runs.

    From a thread of its own: the block may hold this one, or the event loop.
    """
    done = threading.Event()

    def tell() -> None:
        waited = pause = FIRST_WARNING
        while not done.wait(pause):
            logger.warning("still waiting for reward %s after %g s", label, waited)
            pause, waited = waited, 2 * waited

    threading.Thread(target=tell, name=f"waiting for {label}", daemon=True).start()
    try:
        yield
    finally:
        done.set()
