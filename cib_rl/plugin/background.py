"""An event loop in a thread of its own: async rewards run on it whatever loop the caller may be in.

One loop for the suite's whole life, so that a reward may keep a client session across steps.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

T = TypeVar("T")
_GRACE = 5.0  # seconds that cancelled tasks get to end


class BackgroundLoop:
    """Started with the first awaitable; a daemon thread, so a forgotten `close` does not hold up the interpreter."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._refusing = False

    def resolve(self, value: Any) -> Any:
        """`value` itself, or what it gives when awaited on the loop. Blocks the calling thread."""
        if not inspect.isawaitable(value):
            return value
        return self.submit(value if inspect.iscoroutine(value) else _await(value)).result()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine on the loop. Raises CancelledError after `cancel`."""
        with self._lock:
            if self._refusing:
                coroutine.close()
                raise CancelledError
            return asyncio.run_coroutine_threadsafe(coroutine, self._started())

    def accept(self) -> None:
        """Take work again after `cancel`."""
        with self._lock:
            self._refusing = False

    def cancel(self) -> None:
        """Cancel everything that runs on the loop, and what other threads are about to submit."""
        with self._lock:
            self._refusing = True
            if self._loop is not None:
                self._loop.call_soon_threadsafe(_cancel_all, self._loop)

    def close(self) -> None:
        """Cancel what runs, let it end, and stop the thread. May be called twice; a later `resolve` starts anew."""
        with self._lock:
            if self._loop is None or self._thread is None:
                return
            asyncio.run_coroutine_threadsafe(_end_all(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._loop = self._thread = None

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="rewards", daemon=True)
            self._thread.start()
        return self._loop


async def _await(value: Awaitable[Any]) -> Any:
    return await value


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()


async def _end_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:  # a cancelled task must run once more to give back what it holds
        await asyncio.wait(others, timeout=_GRACE)
