"""The documents of an index: a JSON Lines file and where each row begins, both memory-mapped."""

from __future__ import annotations

import json
import mmap
from array import array
from pathlib import Path

import numpy as np

from cib_rl.errors import UserError
from cib_rl.retrieval.base import Document

TEXTS, OFFSETS = "documents.jsonl", "documents.offsets.npy"
_parse = json.JSONDecoder().raw_decode  # json.loads also looks for white space, which takes a third of its time


class DocumentWriter:
    """Appends documents to a new store in `folder`; `close` finishes it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = (folder / TEXTS).open("wb")
        self._offsets = array("q", [0])

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def append(self, document: Document) -> None:
        row = {"id": document.id, "title": document.title, "text": document.text}
        row |= {} if document.url is None else {"url": document.url}
        written = self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._offsets.append(self._offsets[-1] + written)

    def close(self) -> None:
        self._file.close()
        np.save(self._folder / OFFSETS, np.frombuffer(self._offsets, dtype=np.int64))


class DocumentStore:
    """Documents by number. Only what is read comes into memory, and the system may drop it again."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / TEXTS
        # A memoryview gives plain numbers; every access through np.memmap costs a microsecond more.
        self._offsets = memoryview(np.load(folder / OFFSETS, mmap_mode="r", allow_pickle=False))
        with (folder / TEXTS).open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def get(self, number: int, score: float | None = None) -> Document:
        """Document `number` (from 0) with `score`. Raises UserError where the file is damaged (see `verify`)."""
        try:
            row, _ = _parse(self._map[self._offsets[number] : self._offsets[number + 1]].decode())
            return Document(row["id"], row["title"], row["text"], score, row.get("url"))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self._file}: row {number + 1} cannot be read; build the index again") from error

    def close(self) -> None:
        self._map.close()
