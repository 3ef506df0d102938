"""The first pass of every build: a corpus is read, checked and stored as documents."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

from cib_rl.errors import UserError
from cib_rl.progress import RunProgress
from cib_rl.retrieval.base import Document
from cib_rl.retrieval.corpus import CorpusProblems, read_corpus
from cib_rl.retrieval.documents import DocumentStore, DocumentWriter
from cib_rl.retrieval.index_io import CorpusEntry

CHUNK = 2000  # documents handed on at once
MEGABYTE = 1_000_000


def store_documents(
    corpus: Path,
    folder: Path,
    progress: RunProgress,
    on_chunk: Callable[[list[Document]], object] = lambda chunk: None,
) -> tuple[CorpusEntry, int]:
    """Store the documents of `corpus` in `folder`, for `DocumentStore`. Returns the corpus's entry and their number.

    Args:
        on_chunk: is given the documents, in order, up to `CHUNK` at once.

    Raises UserError that names file and line for rows that are broken, empty or have an id that stood before.
    """
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
            on_chunk([document for _, document in chunk])
        bar.update(bar.total, f"{len(writer):,} documents")
    writer.close()
    if not problems.found and not len(writer):
        raise UserError(f"{corpus} holds no rows")
    problems.raise_any()
    seen.find_duplicates(folder)
    return CorpusEntry(name=corpus.name, bytes=size, sha256=checksum.hexdigest()), len(writer)


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
