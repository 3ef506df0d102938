"""The parts of a completion that probes are put together from: opening tag, reasoning, closing tag, answer, end."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from cib_rl.samples.answers import statement
from cib_rl.spans import THINK_CLOSE, THINK_OPEN, Span, decode, token_spans
from cib_rl.trajectory import Trajectory

SHORTEST = 8  # tokens of reasoning below which nothing can be left out or shuffled (ours)


@dataclass(frozen=True)
class Parts:
    """Token ids. `opening + body + rest` is the completion; `rest` starts with the closing tag or the answer, and the
    white space before it.

    Attributes:
        opening: up to and including `<think>`, where the completion opens the reasoning itself.
        body: the reasoning.
        rest: everything behind it.
        closing: the `</think>` alone; answer: what states the answer alone; end: the end-of-sequence token. Each may be
            empty but the answer.
    """

    opening: list[int]
    body: list[int]
    rest: list[int]
    closing: list[int]
    answer: list[int]
    end: list[int]


def take_apart(trajectory: Trajectory, tokenizer: Any, style: str, end_ids: Collection[int]) -> Parts | None:
    """The parts of a completion, or None where it has none: several turns, no answer to cut out, no reasoning."""
    if len(trajectory.segments) != 1 or not all(trajectory.policy_mask):
        return None
    ids = trajectory.policy_ids
    end = [ids[-1]] if ids and ids[-1] in end_ids else []
    ids = ids[: len(ids) - len(end)]
    text = decode(tokenizer, ids)
    said = _statement(text, style)
    if said is None:
        return None
    spans = token_spans(tokenizer, ids, text)
    opened = text.find(THINK_OPEN, 0, said[0])
    start = opened + len(THINK_OPEN) if opened >= 0 else 0
    closed = text.rfind(THINK_CLOSE, start, said[0])
    stop = closed if closed >= 0 else said[0]
    first = next((i for i, (a, _) in enumerate(spans) if a >= start), len(ids))
    last = next((i for i in range(len(ids), first, -1) if spans[i - 1][1] <= stop), first)
    while last > first and not text[slice(*spans[last - 1])].strip():
        last -= 1  # the line break before the answer belongs to the answer
    if last - first < SHORTEST:
        return None
    closing = _touching(ids, spans, (closed, closed + len(THINK_CLOSE))) if closed >= 0 else []
    return Parts(ids[:first], ids[first:last], [*ids[last:], *end], closing, _touching(ids, spans, said), end)


def _statement(text: str, style: str) -> Span | None:
    """Where the answer is stated; the search starts behind the reasoning where it is closed by a tag."""
    offset = text.rfind(THINK_CLOSE)
    offset = offset + len(THINK_CLOSE) if offset >= 0 else 0
    found = statement(text[offset:], style)
    return (found[0] + offset, found[1] + offset) if found is not None else None


def _touching(ids: list[int], spans: list[Span], span: Span) -> list[int]:
    """The tokens that have a character in `span`."""
    return [i for i, (a, b) in zip(ids, spans, strict=True) if a < span[1] and b > span[0]]
