"""Demonstrations as rows for supervised training: an endless stream, in worlds that no later training sees."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cib_rl.environments.search_protocol import Protocol
from cib_rl.environments.tool_calls import ToolProtocol
from cib_rl.fiction.demonstrations import Habits, Step, demonstrate
from cib_rl.fiction.questions import Question, question_stream
from cib_rl.fiction.world import make_world
from cib_rl.retrieval.base import Document, Retriever
from cib_rl.retrieval.bm25 import BM25Retriever, BM25Settings

PER_WORLD = 700  # questions of a world, then another one: nothing is worth knowing by heart


@dataclass(frozen=True)
class Demonstration:
    """An episode; `found` holds for each step the documents of its queries."""

    question: str
    steps: list[Step]
    found: list[list[list[Document]]]


def demonstrations(k: int, habits: Habits, seed: int) -> Iterator[Demonstration]:
    """Episodes without end, `k` documents a query. One that does not find what it needs is left out.

    Worlds are numbered from 1 on; world 0 is that of the tasks.
    """
    rng = random.Random(f"fiction-demonstrations-{seed}")
    for number in count(1 + 1000 * seed):
        world = make_world(number)
        with TemporaryDirectory(prefix="cib-rl-fiction-") as folder:
            corpus = world.write(Path(folder) / "corpus.jsonl")
            retriever = BM25Retriever(BM25Settings(corpus=str(corpus)), Path())
            try:
                for question in islice(question_stream(world, "train", number), PER_WORLD):
                    made = _played(question, demonstrate(question, rng, habits), retriever, k)
                    if made is not None:
                        yield made
            finally:
                asyncio.run(retriever.close())


def _played(question: Question, steps: list[Step], retriever: Retriever, k: int) -> Demonstration | None:
    found = [asyncio.run(retriever.search(step.queries, k)) for step in steps]
    titles = [{document.title for document in some} for step in found for some in step]
    if not all(any(fact.title in some for some in titles) for fact in question.facts):
        return None
    return Demonstration(question.text, steps, found)


def in_tags(shown: Demonstration, protocol: Protocol) -> str:
    """The episode behind the question, in the tags of a protocol."""
    p, text = protocol, ""
    for step, found in zip(shown.steps, shown.found, strict=True):
        text += f"<{p.think}> {step.thought}</{p.think}>\n"
        if step.answer is not None:
            text += f"<{p.answer}> {step.answer}</{p.answer}>"
            continue
        text += f"<{p.search}> {f' {p.delimiter} '.join(step.queries)}</{p.search}>"
        text += f"{p.before}<{p.information}>"
        for number, (query, documents) in enumerate(zip(step.queries, found, strict=True), 1):
            if p.query_header and len(step.queries) > 1:
                text += p.query_header.replace("{number}", str(number)).replace("{query}", query)
            text += _documents(documents, p.document)
        text += f"</{p.information}>{p.after}"
    return text


def in_calls(shown: Demonstration, protocol: ToolProtocol) -> list[dict[str, Any]]:
    """The episode as messages: a call for each query, all those of a search in one message."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": shown.question}]
    for step, found in zip(shown.steps, shown.found, strict=True):
        said = {"role": "assistant", "content": f"<think> {step.thought}</think>\n"}
        if step.answer is not None:
            messages.append(said | {"content": f"{said['content']}<answer> {step.answer}</answer>"})
            continue
        calls = [{"name": protocol.name, "arguments": {protocol.query: query}} for query in step.queries]
        messages.append(said | {"tool_calls": [{"type": "function", "function": call} for call in calls]})
        messages += [{"role": "tool", "content": _documents(some, protocol.document)} for some in found]
    return messages


def _documents(documents: list[Document], form: str) -> str:
    places = enumerate(documents, 1)
    forms = ((form.replace("{number}", str(place)).replace("{title}", d.title), d.text) for place, d in places)
    return "".join(one.replace("{text}", text) for one, text in forms)
