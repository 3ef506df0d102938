"""What the tokens of a trace are spent on: search, planning, or one of the kinds of waste.

Works on the text alone, so on traces that a model wrote as well as on demonstrations.  A trace is cut into sentences
(up to `.` or `:`); a sentence is classified by its words and by what has been written before it.

    planning    a strategy announced or left            restate    the problem said again
    try         a complete new try that failed          recheck    a line doubted and confirmed
    abandoned   a try left half-way                     duplicate  a failed try made again, in any order of its numbers
    solution    the try that hit the target             list       earlier misses listed
    answer      </think> and the tagged answer          verify     the solution gone through again
    other       words that fit none of these            statement  closing words
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from cib_rl.countdown import phrases

WASTE = ("restate", "recheck", "duplicate", "list", "verify", "statement")
SEARCH = ("planning", "try", "abandoned", "solution", "answer")
KINDS = (*SEARCH, *WASTE, "other")

_STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
_SENTENCE = re.compile(r"[^.:]*[.:]|[^.:]+\Z", re.DOTALL)
# Cue phrases decide the kind of the sentence that follows them.
_CUES = {
    **{phrase: "recheck" for phrase in phrases.DOUBTS},
    **{phrase: "duplicate" for phrase in phrases.REPEATS},
    **{phrase: "list" for phrase in phrases.LISTS},
    **{phrase: "verify" for phrase in phrases.VERIFIES},
}
_PLANNING = {phrase for group in phrases.STRATEGIES.values() for phrase in group} | set(phrases.RETREATS)
_RESTATING = re.compile(r"\b(need|needs|target|goal|given|want|numbers)\b")

StepKey = tuple[str, ...]


@dataclass(frozen=True)
class TraceSpan:
    """Characters `start` to `end` of a trace and their kind."""

    kind: str
    start: int
    end: int


def _ends_with(words: str, endings: Iterable[str]) -> bool:
    return any(words == ending or words.endswith(f" {ending}") for ending in endings)


def _step_keys(sentence: str) -> StepKey:
    """The sentence's lines with the operands of + and * in a fixed order: equal for near-duplicates."""
    keys = []
    for left, op, right, result in _STEP.findall(sentence):
        a, b = sorted((int(left), int(right))) if op in "+*" else (int(left), int(right))
        keys.append(f"{a} {op} {b} = {result}")
    return tuple(keys)


def _arithmetic_kind(sentence: str, cue: str, solved: bool, seen: set[StepKey]) -> str:
    """The kind of a sentence that holds lines of arithmetic."""
    if cue in ("recheck", "verify", "list"):
        return cue
    words = sentence.rstrip(".: ")
    if solved:
        return "recheck"
    if _ends_with(words, phrases.VERDICTS_RIGHT):
        return "solution"
    if _ends_with(words, phrases.VERDICTS_CHECKED):
        return "recheck"
    if _ends_with(words, phrases.VERDICTS_ABANDONED):
        return "abandoned"
    return "duplicate" if _step_keys(sentence) in seen else "try"


def classify(completion: str) -> list[TraceSpan]:
    """Spans that cover `completion` without gap or overlap, in order; see the module's table for the kinds."""
    closing = completion.find("</think>")
    thought = completion if closing < 0 else completion[:closing]
    spans: list[TraceSpan] = []
    seen: set[StepKey] = set()
    cue, solved = "", False
    for match in _SENTENCE.finditer(thought):
        sentence = match.group()
        words = sentence.strip().rstrip(".:")
        next_cue = ""
        if "=" in sentence:
            kind = _arithmetic_kind(sentence, cue, solved, seen)
            solved = solved or kind == "solution"
            seen.add(_step_keys(sentence))
        elif words in _CUES:
            kind = next_cue = _CUES[words]
        elif words in _PLANNING:
            kind = "planning"
        elif words in phrases.CLOSINGS:
            kind = "statement"
        elif cue == "list":
            kind = "list"
        elif any(character.isdigit() for character in words):
            kind = "restate" if _RESTATING.search(words) else "other"
        elif not words:
            kind = "answer" if closing >= 0 else "other"  # the space before the closing tag
        else:
            # A phrase mixed from known words: with a colon it opens something, so it is planning all the same.
            kind = "planning" if sentence.endswith(":") else "other"
        spans.append(TraceSpan(kind, *match.span()))
        cue = next_cue
    if closing >= 0:
        spans.append(TraceSpan("answer", closing, len(completion)))
    return spans


def count_tokens(completion: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Tokens of `completion` by kind (every kind of `KINDS` present); they sum to the tokens of the whole text.

    A token that crosses a border counts for the span in which it ends, so a space before a word goes with the word.
    Needs a fast tokenizer (character offsets).
    """
    counts = dict.fromkeys(KINDS, 0)
    spans = classify(completion)
    at = 0
    for _, end in tokenizer(completion, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]:
        while at < len(spans) - 1 and end > spans[at].end:
            at += 1
        counts[spans[at].kind] += 1
    return counts
