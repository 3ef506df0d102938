"""Demonstrations as rows for supervised training: an endless stream, in worlds that no later training sees."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory

from cib_rl.environments.search import SearchKeys
from cib_rl.environments.search_protocol import Protocol
from cib_rl.fiction.demonstrations import Habits, demonstrate
from cib_rl.fiction.questions import question_stream
from cib_rl.fiction.world import make_world
from cib_rl.retrieval.bm25 import BM25Retriever, BM25Settings

PER_WORLD = 700  # questions of a world, then another one: nothing is worth knowing by heart


def demonstrations(protocol: Protocol, keys: SearchKeys, habits: Habits, seed: int) -> Iterator[tuple[str, str]]:
    """Question and completion in tags, without end. A demonstration that does not find what it needs is left out.

    Worlds are numbered from 1 on; world 0 is that of the tasks.
    """
    rng = random.Random(f"fiction-demonstrations-{seed}")
    for number in count(1 + 1000 * seed):
        world = make_world(number)
        with TemporaryDirectory(prefix="cib-rl-fiction-") as folder:
            corpus = world.write(Path(folder) / "corpus.jsonl")
            blocks = _Blocks(BM25Retriever(BM25Settings(corpus=str(corpus)), Path()), protocol, keys.k)
            try:
                for question in islice(question_stream(world, "train", number), PER_WORLD):
                    texts = demonstrate(question, blocks.find, rng, habits)
                    if all(any(fact.title in some for some in blocks.seen) for fact in question.facts):
                        yield question.text, "".join(texts)
                    blocks.seen.clear()
            finally:
                asyncio.run(blocks.retriever.close())


class _Blocks:
    """The environment's blocks of documents, and the titles that were in them."""

    def __init__(self, retriever: BM25Retriever, protocol: Protocol, k: int) -> None:
        self.retriever, self.protocol, self.k = retriever, protocol, k
        self.seen: list[set[str]] = []

    def find(self, queries: list[str]) -> str:
        found = asyncio.run(self.retriever.search(queries, self.k))
        p, text = self.protocol, ""
        for number, (query, documents) in enumerate(zip(queries, found, strict=True), 1):
            self.seen.append({d.title for d in documents})
            if p.query_header and len(queries) > 1:
                text += p.query_header.replace("{number}", str(number)).replace("{query}", query)
            for place, d in enumerate(documents, 1):
                form = p.document.replace("{number}", str(place)).replace("{title}", d.title)
                text += form.replace("{text}", d.text)
        return f"{p.before}<{p.information}>{text}</{p.information}>{p.after}"
