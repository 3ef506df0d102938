"""Builds a BM25 index from a corpus in two passes: rows to word numbers on disk, word numbers to scores by bm25s.

Memory is bounded by the index, not by the texts: documents and word numbers go to disk as they are read. What grows
with the corpus is bm25s's own sorting of (word, document, score) triples.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from cib_rl.errors import UserError
from cib_rl.progress import RunProgress
from cib_rl.retrieval.corpus import CorpusProblems, read_corpus
from cib_rl.retrieval.documents import DocumentStore, DocumentWriter
from cib_rl.retrieval.extra import require
from cib_rl.retrieval.index_io import CorpusEntry, Manifest, new_index_folder, read_manifest, write_manifest
from cib_rl.retrieval.words import IndexSettings, Words

CHUNK = 2000  # documents cut into words at once
BM25S_PASSES = 3  # over the word numbers: lengths, document frequencies, scores
MEGABYTE = 1_000_000


def build_index(
    corpus: Path, out: Path, settings: IndexSettings | None = None, progress: RunProgress | None = None
) -> Manifest:
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
        entry = _read(corpus, folder, words, numbers, progress)
        if not numbers.vocabulary:
            raise UserError(f"{corpus}: no row has a word that can be indexed")
        with progress.track("scoring words", BM25S_PASSES * len(numbers)) as bar:
            numbers.on_row = lambda done: bar.update(min(done, bar.total))
            # scipy's conversion to columns sorts in linear time and in half of the memory; its result is the same.
            index = bm25s.BM25(k1=settings.k1, b=settings.b, method=settings.method, csc_backend="scipy")
            index.index(_Corpus(numbers, numbers.vocabulary), show_progress=False)
        numbers.remove()
        index.save(folder, show_progress=False)
        write_manifest(folder, bm25s.__version__, settings.model_dump(), len(numbers), entry)
    return read_manifest(out, bm25s.__version__, verify=False)


def _read(corpus: Path, folder: Path, words: Words, numbers: _WordNumbers, progress: RunProgress) -> CorpusEntry:
    """The first pass: documents and their word numbers to disk."""
    problems = CorpusProblems(corpus)
    checksum = hashlib.sha256()
    writer = DocumentWriter(folder)
    seen = _Ids(problems)
    size = corpus.stat().st_size if corpus.is_file() else 0
    with progress.track(f"reading {corpus.name} (MB)", -(-size // MEGABYTE)) as bar:
        rows = read_corpus(corpus, problems, checksum.update, lambda place: bar.update(place // MEGABYTE))
        while chunk := list(islice(rows, CHUNK)):
            for line, document in chunk:
                writer.append(document)
                seen.append(line, document.id)
            numbers.append(words([document.contents for _, document in chunk]))
        bar.update(bar.total, f"{len(writer):,} documents")
    writer.close()
    numbers.close()
    if not problems.found and not len(writer):
        raise UserError(f"{corpus} holds no rows")
    problems.raise_any()
    seen.find_duplicates(folder)
    return CorpusEntry(name=corpus.name, bytes=size, sha256=checksum.hexdigest())


class _Ids:
    """Finds ids that stand twice, with 16 bytes a document: hashes first, then the ids behind equal ones."""

    def __init__(self, problems: CorpusProblems) -> None:
        self._problems = problems
        self._hashes, self._lines = array("Q"), array("q")

    def append(self, line: int, name: str) -> None:
        self._hashes.append(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little"))
        self._lines.append(line)

    def find_duplicates(self, folder: Path) -> None:
        """Raise UserError if there are any; `folder` has the documents."""
        hashes = np.frombuffer(self._hashes, dtype=np.uint64)
        order = np.argsort(hashes, kind="stable")
        again = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]]) + 1
        if not len(again):
            return
        store = DocumentStore(folder)
        first: dict[str, int] = {}
        for place in sorted({int(order[i + step]) for i in again for step in (-1, 0)}):
            name, line = store.get(place).id, self._lines[place]
            if name in first:
                self._problems.add(line, f"id {name!r} stood in line {first[name]} before")
            first.setdefault(name, line)
        store.close()
        self._problems.raise_any()


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
