"""Where the answer stands in completions of unknown origin, and where in one completion it is stated."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cib_rl.grading.answers import extract_answer

# Tried in this order. The last two: "A: 42" on a line of its own, as in the GSM8K model solutions; ReAct's last action.
STYLES = ("tag", "boxed", "hash", r"regex:(?m)^A: *(.+)$", r"regex:(?m)finish\[(.*)\]")
# "So the answer is: 42." Words that also stand in reasoning, and before other marks: only where those are rare.
IN_WORDS = r"regex:(?im)\banswer is:? *(.+?)\.?$"
Span = tuple[int, int]


def likely_style(texts: Sequence[str]) -> tuple[str, float]:
    """The style that finds an answer in most of the texts, and in which share of them; `last_line` where none does."""
    found = {style: share_found(texts, style) for style in STYLES}
    best = max(found, key=lambda style: found[style])
    if found[best] < 0.5 and (share := share_found(texts, IN_WORDS)) > found[best]:
        return IN_WORDS, share
    return (best, found[best]) if found[best] else ("last_line", share_found(texts, "last_line"))


def share_found(texts: Sequence[str], style: str) -> float:
    """The share of the texts that have an answer in this style."""
    return sum(extract_answer(text, style) is not None for text in texts) / max(len(texts), 1)


def statement(text: str, style: str) -> Span | None:
    """The shortest piece of `text` that says its answer: `<answer>42</answer>`, `\\boxed{42}`, `#### 42`.

    For any style, by bisection: the latest start, and then the earliest end, from which the same answer is still read.
    None where there is no answer, or none can be cut out this way (a pattern that looks around its match).
    """
    answer = extract_answer(text, style)
    if answer is None:
        return None
    start = _last(0, len(text), lambda at: extract_answer(text[at:], style) == answer)
    end = len(text) - _last(0, len(text) - start, lambda cut: _reads(text[start : len(text) - cut], style, answer))
    return (start, end) if _reads(text[start:end], style, answer) else None


def _reads(text: str, style: str, answer: str) -> bool:
    return extract_answer(text, style) == answer


def _last(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The largest number from `low` to `high` for which `holds`, which holds at `low` and up to one point."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
