"""Builds a BM25 index from a corpus in two passes: rows to word numbers on disk, word numbers to scores by bm25s.

Memory is bounded by the index, not by the texts: documents and word numbers go to disk as they are read. What grows
with the corpus is bm25s's own sorting of (word, document, score) triples.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cib_rl.errors import UserError
from cib_rl.progress import RunProgress
from cib_rl.retrieval.bm25 import BM25Manifest
from cib_rl.retrieval.corpus_store import CHUNK, store_documents
from cib_rl.retrieval.extra import require
from cib_rl.retrieval.index_io import new_index_folder, write_manifest
from cib_rl.retrieval.words import IndexSettings, Words

BM25S_PASSES = 3  # over the word numbers: lengths, document frequencies, scores


def build_index(
    corpus: Path, out: Path, settings: IndexSettings | None = None, progress: RunProgress | None = None
) -> BM25Manifest:
    """Build the index of `corpus` (JSON Lines, may be .gz) in the new folder `out`, and return its manifest.

    Needs disk for the index and, while it builds, 4 bytes for each word of the corpus.
    Raises UserError that names file and line for rows that are broken, empty or have an id that stood before.
    """
    require("building an index", "bm25s", "scipy")
    import bm25s

    settings = settings or IndexSettings()
    progress = progress or RunProgress()
    words = Words(settings)
    with new_index_folder(out) as folder:
        numbers = _WordNumbers(folder / "words.part")
        entry, documents = store_documents(
            corpus, folder, progress, lambda chunk: numbers.append(words([document.contents for document in chunk]))
        )
        numbers.close()
        if not numbers.vocabulary:
            raise UserError(f"{corpus}: no row has a word that can be indexed")
        with progress.track("scoring words", BM25S_PASSES * len(numbers)) as bar:
            numbers.on_row = lambda done: bar.update(min(done, bar.total))
            # scipy's conversion to columns sorts in linear time and in half of the memory; its result is the same.
            index = bm25s.BM25(k1=settings.k1, b=settings.b, method=settings.method, csc_backend="scipy")
            index.index(_Corpus(numbers, numbers.vocabulary), show_progress=False)
        numbers.remove()
        index.save(folder, show_progress=False)
        own = {"settings": settings.model_dump(), "documents": documents, "corpus": entry}
        manifest = BM25Manifest.of(folder, bm25s_version=bm25s.__version__, **own)
        write_manifest(folder, manifest)
    return manifest


class _WordNumbers:
    """The corpus as numbers of words: a file of int32, and a sequence of lists once `close` is called."""

    def __init__(self, path: Path) -> None:
        self.vocabulary: dict[str, int] = {}
        self.on_row: Callable[[int], object] = lambda done: None
        self._path, self._file = path, path.open("wb")
        self._ends = array("q", [0])
        self._rows_given = 0

    def append(self, documents: list[list[str]]) -> None:
        """Add documents, given as their words."""
        vocabulary = self.vocabulary
        for words in documents:
            row = array("i", [vocabulary.setdefault(word, len(vocabulary)) for word in words])
            row.tofile(self._file)
            self._ends.append(self._ends[-1] + len(row))

    def close(self) -> None:
        self._file.close()
        words = self._ends[-1]
        self._flat = np.memmap(self._path, np.int32, "r", shape=(words,)) if words else np.zeros(0, np.int32)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[list[int]]:
        for i in range(len(self)):
            self._rows_given += 1
            if self._rows_given % CHUNK == 0:
                self.on_row(self._rows_given)
            yield self._flat[self._ends[i] : self._ends[i + 1]].tolist()

    def remove(self) -> None:
        """Delete the file; the numbers are gone, their count stays."""
        del self._flat
        self._path.unlink()


class _Corpus:
    """What bm25s takes as a corpus of numbers: any object with `ids` and `vocab`."""

    def __init__(self, ids: Any, vocab: dict[str, int]) -> None:
        self.ids, self.vocab = ids, vocab


__all__ = ["build_index"]
