"""What the retrievers that search an index on this machine share."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cib_rl.retrieval.base import Document, RetrievalError, Retriever, encodable
from cib_rl.retrieval.batching import Batcher
from cib_rl.retrieval.documents import DocumentStore

BATCH = 64  # queries that one passage to the thread takes along


class LocalRetriever(Retriever):
    """Searches in threads of its own; what is asked while they are busy is searched together.

    Args:
        folder: of an index that has been checked.
        threads: searches that run at once.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        self._documents = DocumentStore(folder)
        self.concurrency = threads
        self._batcher: Batcher | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: ThreadPoolExecutor | None = ThreadPoolExecutor(threads, "retriever")

    def __len__(self) -> int:
        return len(self._documents)

    @abstractmethod
    def _search(self, queries: list[str], k: int) -> list[list[Document]]:
        """For each query at most `k` documents, the best first; called in a thread, `queries` is not empty."""

    async def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        if self._threads is None:
            raise RetrievalError("closed", "the retriever is closed")
        return await self._batches().search([encodable(query) for query in queries], k)

    def _batches(self) -> Batcher:
        """The batches of the running loop: searches that run at once share one passage to the thread and back."""
        loop = asyncio.get_running_loop()
        if self._batcher is None or self._loop is not loop:
            self._loop = loop
            self._batcher = Batcher(self._in_thread, window=0.0, size=BATCH, concurrency=self.concurrency)
        return self._batcher

    async def _in_thread(self, queries: list[str], k: int) -> list[list[Document]]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._search, queries, k)

    async def close(self) -> None:
        threads, self._threads = self._threads, None
        if threads is not None:
            if self._batcher is not None and self._loop is asyncio.get_running_loop():
                await self._batcher.close()
            await asyncio.to_thread(threads.shutdown)
            self._documents.close()
