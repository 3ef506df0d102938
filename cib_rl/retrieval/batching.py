"""Joins the queries of callers that run at once into batches; the server and the remote client both use it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from cib_rl.retrieval.base import Document, RetrievalError

Answer = list[Document] | RetrievalError  # of one query
Search = Callable[[list[str], int], Awaitable[Sequence[Answer]]]


@dataclass
class _Waiting:
    query: str
    k: int
    answer: asyncio.Future[list[Document]]


class Batcher:
    """Batches within one event loop.

    Args:
        search: answers one batch: queries and k to one list per query, or the error that this query alone has.
        window: seconds the first query of a batch waits for others. With 0 it goes out at once while less than
            `concurrency` batches are under way, and what comes meanwhile is the next batch.
        size: queries in a batch, at most.
        concurrency: batches under way at once.
    """

    def __init__(self, search: Search, *, window: float, size: int, concurrency: int) -> None:
        self._search, self._window, self._size = search, window, size
        self._free = asyncio.Semaphore(concurrency)
        self._waiting: deque[_Waiting] = deque()
        self._pump: asyncio.Task[None] | None = None
        self._running: dict[asyncio.Task[None], list[_Waiting]] = {}

    @property
    def pending(self) -> int:
        """Queries that wait for a batch."""
        return len(self._waiting)

    async def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """The answers to `queries`, in order. A failed batch raises its exception in all callers it answers.

        A caller that is cancelled takes its waiting queries with it.
        """
        entries = [_Waiting(query, k, asyncio.get_running_loop().create_future()) for query in queries]
        self._waiting.extend(entries)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._send_all())
        try:
            return [await entry.answer for entry in entries]
        finally:
            for entry in entries:
                if not entry.answer.done():
                    entry.answer.cancel()
                elif not entry.answer.cancelled():
                    entry.answer.exception()  # seen: another of this caller's queries failed first

    async def _send_all(self) -> None:
        while self._waiting:
            await asyncio.sleep(self._window)
            await self._free.acquire()
            batch = self._next_batch()
            if not batch:
                self._free.release()
                continue
            task = asyncio.create_task(self._send(batch))
            self._running[task] = batch
            task.add_done_callback(self._ended)

    def _next_batch(self) -> list[_Waiting]:
        """The first waiting queries that ask for the same k; those nobody waits for any more are dropped."""
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < self._size:
            entry = self._waiting[0]
            if not entry.answer.done():
                if batch and entry.k != batch[0].k:
                    break
                batch.append(entry)
            self._waiting.popleft()
        return batch

    async def _send(self, batch: list[_Waiting]) -> None:
        try:
            answers = await self._search([entry.query for entry in batch], batch[0].k)
            for entry, answer in zip(batch, answers, strict=True):
                if isinstance(answer, RetrievalError):
                    _fail([entry], answer)
                elif not entry.answer.done():
                    entry.answer.set_result(answer)
        except Exception as error:
            _fail(batch, error)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """In a callback and not in `_send`, which never runs where its task is cancelled before it began."""
        self._free.release()
        _fail(self._running.pop(task), RetrievalError("closed", "the retriever was closed during the search"))

    async def close(self) -> None:
        """Give up what waits or is under way; its callers get RetrievalError (`closed`)."""
        tasks = [*self._running, *([self._pump] if self._pump is not None else [])]
        for task in tasks:
            task.cancel()
        _fail(self._waiting, RetrievalError("closed", "the retriever was closed before the search"))
        await asyncio.gather(*tasks, return_exceptions=True)


def _fail(entries: Iterable[_Waiting], error: Exception) -> None:
    for entry in entries:
        if not entry.answer.done():
            entry.answer.set_exception(error)
