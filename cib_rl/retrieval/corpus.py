"""Reads a corpus: JSON Lines, one passage a row, `id, title, text` or Search-R1's `id, contents`; and `url`."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from cib_rl.errors import UserError
from cib_rl.retrieval.base import Document, split_contents

MOST_PROBLEMS = 10  # named before reading stops


class CorpusProblems:
    """Collects what is wrong with rows, so that one message names several of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: list[str] = []

    def add(self, line: int, what: str) -> None:
        """Note a problem. Raises UserError at the tenth."""
        self.found.append(f"{self.path}:{line}: {what}")
        if len(self.found) >= MOST_PROBLEMS:
            self.found.append("reading stopped here")
            self.raise_any()

    def raise_any(self) -> None:
        """Raise UserError if there is any problem."""
        if self.found:
            raise UserError("the corpus has rows that cannot be indexed:\n" + "\n".join(self.found))


def read_corpus(
    path: Path, problems: CorpusProblems, on_bytes: Callable[[bytes], object], on_place: Callable[[int], object]
) -> Iterator[tuple[int, Document]]:
    """Yield (line number from 1, document) of every good row; note the others. Blank lines are passed over.

    Args:
        on_bytes: is given the file's bytes as stored, in order (for its checksum).
        on_place: is given how many bytes of the file have been read, after each row.

    Raises UserError when the file cannot be read or has too many problems.
    """
    if not path.is_file():
        raise UserError(f"no corpus file {path}")
    with _opened(path) as raw:
        watched = io.BufferedReader(_Watched(raw, on_bytes), 1 << 20)
        lines: IO[bytes] = cast("IO[bytes]", gzip.GzipFile(fileobj=watched)) if path.suffix == ".gz" else watched
        line = 0
        try:
            for line, content in enumerate(lines, 1):
                if content.strip():
                    row = _parse(content)
                    if isinstance(row, str):
                        problems.add(line, row)
                    else:
                        yield line, row
                on_place(raw.tell())
        except (OSError, EOFError, zlib.error) as error:  # not gzip, cut off, damaged
            raise UserError(f"{path}: cannot be read after line {line}: {error}") from error


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


class _Watched(io.RawIOBase):
    """A raw reader that shows every block it reads."""

    def __init__(self, raw: IO[bytes], seen: Callable[[bytes], object]) -> None:
        self._raw, self._seen = raw, seen

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._raw.read(len(buffer))
        self._seen(block)
        buffer[: len(block)] = block
        return len(block)


def _parse(content: bytes) -> Document | str:
    """The document of a row, or what is wrong with it."""
    try:
        row = json.loads(content)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
        return f"not JSON ({error})"
    if not isinstance(row, dict):
        return f"a row must be an object, not {type(row).__name__}"
    name = row.get("id")
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        return "`id` must be a text or a whole number" if "id" in row else f"no `id`; the row has {_keys(row)}"
    if "text" in row:
        title, text = row.get("title", ""), row["text"]
    elif "contents" in row:
        if not isinstance(row["contents"], str):
            return "`contents` must be a text"
        title, text = split_contents(row["contents"])
    else:
        return f"neither `text` nor `contents`; the row has {_keys(row)}"
    if not isinstance(text, str) or not isinstance(title, str):
        return "`title` and `text` must be texts"
    if not text.strip():
        return "empty: no text"
    url = row.get("url")
    if not isinstance(url, str | None):
        return "`url` must be a text"
    try:
        f"{name}{title}{text}{url}".encode()
    except UnicodeEncodeError:
        return "holds half of a surrogate pair (\\ud800 to \\udfff), which is no text"
    return Document(str(name), title, text, url=url)


def _keys(row: dict[str, Any]) -> str:
    return ", ".join(map(str, row)) or "no keys"
