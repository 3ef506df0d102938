"""BM25 over an index on disk: bm25s's scores, memory-mapped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pydantic import Field
from rich.console import Console

from cib_rl.errors import UserError
from cib_rl.fiction.world import make_world
from cib_rl.progress import RunProgress
from cib_rl.recipe import Section
from cib_rl.retrieval.base import Document, RetrievalError, Retriever
from cib_rl.retrieval.batching import Batcher
from cib_rl.retrieval.build import build_index
from cib_rl.retrieval.documents import DocumentStore
from cib_rl.retrieval.extra import require
from cib_rl.retrieval.factory import validated
from cib_rl.retrieval.index_io import read_manifest
from cib_rl.retrieval.words import IndexSettings, Words

BATCH = 64  # queries that one passage to the thread takes along


class BM25Settings(Section):
    """Keys of the retriever `bm25`."""

    path: Path | None = Field(None, description="folder made by `cib-rl retriever build`")
    corpus: str | None = Field(
        None, description="instead: JSON Lines that are indexed at the start, in memory's time; or fiction"
    )
    verify: bool = Field(True, description="compare the index's checksums when it is opened (reads all of it once)")
    keep_unmatched: bool = Field(
        False, description="fill up to k with documents that hold none of the query's words, as bm25s does (score 0)"
    )
    threads: int = Field(1, ge=1, description="searches that run at once")


class BM25Retriever(Retriever):
    """Searches in threads of its own. Scores and their order are bm25s's; documents with score 0 are left out unless
    `keep_unmatched`, so a result may be shorter than k.

    Raises UserError when the index is missing, damaged or of another version.
    """

    def __init__(self, settings: BM25Settings, base_dir: Path) -> None:
        require("retriever bm25", "bm25s")
        import bm25s

        self._built: TemporaryDirectory[str] | None = None
        folder = self._folder(settings, base_dir)
        self.manifest = read_manifest(folder, bm25s.__version__, verify=settings.verify)
        self._words = Words(validated(IndexSettings, self.manifest.settings, f"{folder}/manifest.json"))
        self._index = bm25s.BM25.load(folder, mmap=True)
        # Plain views of the same memory: slices of np.memmap are slow to make, and a search makes two for each word.
        self._index.scores |= {name: np.asarray(self._index.scores[name]) for name in ("data", "indices", "indptr")}
        self._documents = DocumentStore(folder)
        self._keep_unmatched = settings.keep_unmatched
        self._concurrency = settings.threads
        self._batcher: Batcher | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: ThreadPoolExecutor | None = ThreadPoolExecutor(settings.threads, "bm25")

    def _folder(self, settings: BM25Settings, base_dir: Path) -> Path:
        """Where the index is; that of a `corpus` is built first, in a folder which goes when the retriever does."""
        if (settings.path is None) == (settings.corpus is None):
            raise UserError("retriever bm25 needs either `path` (an index) or `corpus` (what to index at the start)")
        if settings.path is not None:
            return base_dir / settings.path.expanduser()
        assert settings.corpus is not None
        self._built = TemporaryDirectory(prefix="cib-rl-bm25-")
        place = Path(self._built.name)
        corpus = base_dir / Path(settings.corpus).expanduser()
        if settings.corpus == "fiction":
            corpus = place / "corpus.jsonl"
            documents = make_world(0).documents()
            corpus.write_text("".join(json.dumps(row) + "\n" for row in documents), encoding="utf-8")
        build_index(corpus, place / "index", progress=RunProgress(Console(quiet=True)))
        return place / "index"

    def __len__(self) -> int:
        return len(self._documents)

    async def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        if self._threads is None:
            raise RetrievalError("closed", "the retriever is closed")
        return await self._batches().search(queries, k)

    def _batches(self) -> Batcher:
        """The batches of the running loop: searches that run at once share one passage to the thread and back."""
        loop = asyncio.get_running_loop()
        if self._batcher is None or self._loop is not loop:
            self._loop = loop
            self._batcher = Batcher(self._in_thread, window=0.0, size=BATCH, concurrency=self._concurrency)
        return self._batcher

    async def _in_thread(self, queries: list[str], k: int) -> list[list[Document]]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._search, queries, k)

    def _search(self, queries: list[str], k: int) -> list[list[Document]]:
        numbers, scores = self._index.retrieve(
            self._words(queries), k=min(k, len(self)), show_progress=False, backend_selection="numpy"
        )
        get, keep = self._documents.get, self._keep_unmatched
        return [
            [get(number, score) for number, score in zip(*row, strict=True) if score > 0 or keep]
            for row in zip(numbers.tolist(), scores.tolist(), strict=True)
        ]

    async def close(self) -> None:
        threads, self._threads = self._threads, None
        if threads is not None:
            if self._batcher is not None and self._loop is asyncio.get_running_loop():
                await self._batcher.close()
            await asyncio.to_thread(threads.shutdown)
            self._documents.close()
            if self._built is not None:
                self._built.cleanup()
