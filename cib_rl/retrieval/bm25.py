"""BM25 over an index on disk: bm25s's scores, memory-mapped."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import numpy as np
from pydantic import Field
from rich.console import Console

from cib_rl.errors import UserError
from cib_rl.fiction.world import make_world
from cib_rl.progress import RunProgress
from cib_rl.recipe import Section
from cib_rl.recipe_problems import validated
from cib_rl.retrieval.base import Document
from cib_rl.retrieval.extra import require
from cib_rl.retrieval.index_io import AGAIN, Manifest, read_manifest
from cib_rl.retrieval.local import LocalRetriever
from cib_rl.retrieval.words import IndexSettings, Words


class BM25Manifest(Manifest):
    """The manifest of a BM25 index."""

    KIND: ClassVar[str] = "bm25"
    VERSION: ClassVar[int] = 1
    bm25s_version: str


class BM25Settings(Section):
    """Keys of the retriever `bm25`."""

    path: Path | None = Field(None, description="folder made by `cib-rl retriever build`")
    corpus: str | None = Field(
        None,
        description="instead: JSON Lines that are indexed at the start, or fiction, the generated world",
    )
    verify: bool = Field(True, description="compare the index's checksums when it is opened (reads all of it once)")
    keep_unmatched: bool = Field(
        False, description="fill up to k with documents that hold none of the query's words, as bm25s does (score 0)"
    )
    threads: int = Field(1, ge=1, description="searches that run at once")


class BM25Retriever(LocalRetriever):
    """Scores and their order are bm25s's; documents with score 0 are left out unless `keep_unmatched`, so a result may
    be shorter than k.

    Raises UserError when the index is missing, damaged or of another version.
    """

    def __init__(self, settings: BM25Settings, base_dir: Path) -> None:
        require("retriever bm25", "bm25s")
        import bm25s

        self._built: TemporaryDirectory[str] | None = None
        folder = self._folder(settings, base_dir)
        self.manifest = read_manifest(folder, BM25Manifest, verify=settings.verify)
        built_with = self.manifest.bm25s_version
        if built_with.split(".")[:2] != bm25s.__version__.split(".")[:2]:
            raise UserError(f"{folder} was built with bm25s {built_with}, installed is {bm25s.__version__}; {AGAIN}")
        self._words = Words(validated(IndexSettings, self.manifest.settings, f"{folder}/manifest.json"))
        self._index = bm25s.BM25.load(folder, mmap=True)
        # Plain views of the same memory: slices of np.memmap are slow to make, and a search makes two for each word.
        self._index.scores |= {name: np.asarray(self._index.scores[name]) for name in ("data", "indices", "indptr")}
        self._keep_unmatched = settings.keep_unmatched
        super().__init__(folder, settings.threads)

    def _folder(self, settings: BM25Settings, base_dir: Path) -> Path:
        """Where the index is. That of a corpus is built now, in a folder that goes with the retriever."""
        from cib_rl.retrieval.build import build_index

        if settings.path is None and settings.corpus is None:
            raise UserError("retriever: neither `path` (an index) nor `corpus` (what to index at the start) is there")
        if settings.path is not None and settings.corpus is not None:
            raise UserError(
                f"retriever: both `path` ({settings.path}) and `corpus` ({settings.corpus}) are there; empty the one "
                "that is not meant, e.g. `corpus: null` where another recipe is extended"
            )
        if settings.path is not None:
            return base_dir / settings.path.expanduser()
        assert settings.corpus is not None
        self._built = TemporaryDirectory(prefix="cib-rl-bm25-")
        corpus, index = base_dir / Path(settings.corpus).expanduser(), Path(self._built.name) / "index"
        if settings.corpus == "fiction":
            corpus = make_world(0).write(Path(self._built.name) / "corpus.jsonl")
        build_index(corpus, index, progress=RunProgress(Console(quiet=True, emoji=False)))
        return index

    async def close(self) -> None:
        await super().close()
        if self._built is not None:
            self._built.cleanup()

    def _search(self, queries: list[str], k: int) -> list[list[Document]]:
        numbers, scores = self._index.retrieve(
            self._words(queries), k=min(k, len(self)), show_progress=False, backend_selection="numpy"
        )
        get, keep = self._documents.get, self._keep_unmatched
        return [
            [get(number, score) for number, score in zip(*row, strict=True) if score > 0 or keep]
            for row in zip(numbers.tolist(), scores.tolist(), strict=True)
        ]
