"""A library without books: the baseline that shows what a policy answers from memory or by chance."""

from __future__ import annotations

from collections.abc import Sequence

from cib_rl.recipe import Section
from cib_rl.retrieval.base import Document, Retriever


class EmptySettings(Section):
    """The retriever `empty` has no keys."""


class EmptyRetriever(Retriever):
    """Every search finds nothing, and says so."""

    async def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        return [[] for _ in queries]
