"""The Search-R1 retrieval API: `POST /retrieve` with `queries`, `topk`, `return_scores`.

The answer is `{"result": [one list per query]}`. With scores an entry is `{"document": {"id", "contents"}, "score"}`,
without them it is the document itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from cib_rl.retrieval.base import Document, RetrievalError, split_contents


def to_wire(results: Sequence[Sequence[Document]], *, scores: bool) -> dict[str, Any]:
    """The answer of a server."""
    return {"result": [[_entry(document, scores) for document in found] for found in results]}


def _entry(document: Document, scores: bool) -> dict[str, Any]:
    own = {"id": document.id, "contents": document.contents}
    own |= {} if document.url is None else {"url": document.url}
    return {"document": own, "score": document.score} if scores else own


def from_wire(answer: Any, queries: int, k: int) -> list[list[Document]]:
    """The documents of an answer to `queries` queries, at most `k` for each; both shapes are read.

    Raises RetrievalError (`wrong_shape`) that says what does not fit.
    """
    results = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(results, list):
        raise RetrievalError("wrong_shape", 'the answer is no object with a list "result"')
    if len(results) != queries:
        raise RetrievalError("wrong_shape", f"{queries} queries were sent, {len(results)} results came back")
    for found in results:
        if not isinstance(found, list):
            raise RetrievalError("wrong_shape", f"a query's result is a {type(found).__name__}, not a list")
    return [[_document(entry) for entry in found[:k]] for found in results]


def _document(entry: Any) -> Document:
    score = outer = None
    if isinstance(entry, dict) and "document" in entry:
        score, outer, entry = entry.get("score"), entry.get("url"), entry["document"]
    if isinstance(entry, str):
        entry = {"contents": entry}
    if not isinstance(entry, dict):
        raise RetrievalError("wrong_shape", f"a document is a {type(entry).__name__}, not an object")
    contents, text, title = entry.get("contents"), entry.get("text"), entry.get("title")
    if isinstance(contents, str):
        own_title, own_text = split_contents(contents)
        title, text = own_title or title, own_text
    if not isinstance(text, str):
        raise RetrievalError("wrong_shape", 'a document has neither "contents" nor "text"')
    name = entry.get("id")
    url = entry.get("url", outer)
    return Document(
        _made_id(title, text) if name is None or name == "" else str(name),
        title if isinstance(title, str) else "",
        text,
        _score(score),
        url if isinstance(url, str) else None,
    )


def _made_id(title: Any, text: str) -> str:
    """For documents without one (Search-R1's servers of web searches): equal where title and text are."""
    return "text-" + hashlib.blake2b(f"{title}\n{text}".encode(errors="replace"), digest_size=8).hexdigest()


def _score(score: Any) -> float | None:
    if isinstance(score, bool) or not isinstance(score, int | float | None):
        raise RetrievalError("wrong_shape", f"a score is a {type(score).__name__}, not a number")
    try:
        return None if score is None else float(score)
    except OverflowError:
        raise RetrievalError("wrong_shape", "a score is too large for a number") from None
