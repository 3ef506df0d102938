"""The contract of a retriever."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Reason = Literal["refused", "timeout", "status", "not_json", "wrong_shape", "too_large", "circuit_open", "closed"]


@dataclass(frozen=True, slots=True)
class Document:
    """One passage. `score` is the retriever's own, higher is better; None where it tells none, as `url`."""

    id: str
    title: str
    text: str
    score: float | None = None
    url: str | None = None

    @property
    def contents(self) -> str:
        """Title in quotes, a line break, text: the form of Search-R1's corpora, and what BM25 indexes."""
        return f'"{" ".join(self.title.split())}"\n{self.text}'


def split_contents(contents: str) -> tuple[str, str]:
    """Title and text of Search-R1's `contents`: the first line, without the quotes around it, and the rest.

    Without a line break all of it is text and the title is empty.
    """
    head, line_break, rest = contents.partition("\n")
    if not line_break:
        return "", contents
    quoted = len(head) >= 2 and head[0] == head[-1] == '"'
    return (head[1:-1] if quoted else head), rest


def encodable(query: str) -> str:
    """Half of a surrogate pair can be neither encoded nor sent, and would fail a whole batch: it becomes a `?`."""
    return query.encode(errors="replace").decode()


class RetrievalError(Exception):
    """A search failed. `reason` says how, the message says where and what was seen; retrying later may help."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


class Retriever(ABC):
    """Finds documents. Many callers may search at once, from one event loop or from one after the other.

    A class of your own is made as `Class(base_dir=..., **keys)` with the recipe's keys; raise UserError for wrong ones.
    """

    @abstractmethod
    async def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """For each query, in order, at most `k` documents, the best first. `queries` may be empty, `k` is at least 1.

        Does not block the event loop. Raises RetrievalError when the search fails.
        """

    async def check(self) -> None:
        """Raise UserError when searching cannot work (a wrong address, say). Called once, before training."""
        return None

    async def close(self) -> None:
        """Release files, threads and connections. Searching afterwards raises RetrievalError."""
        return None
