"""Is the episode well formed: thoughts, searches, one answer, in this order and nothing else?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby

from cib_rl.plugin import PluginError, RewardContext, reward
from cib_rl.spans import decode, run_spans, token_spans
from cib_rl.trajectory import Segment, Trajectory

_PROMPT_TAIL = 32  # tokens: enough for a tag spelled in pieces, and white space after it
_OPENS_THINK = re.compile(r"<think>\s*\Z")

# What a tag of the policy leads to. The environment's text leads from "after search" to "informed". Outside of the
# blocks (states without "in") only white space may stand.
_NEXT = {
    ("start", "<think>"): "in think",
    ("informed", "<think>"): "in think",
    ("in think", "</think>"): "after think",
    ("after think", "<search>"): "in search",
    ("in search", "</search>"): "after search",
    ("after think", "<answer>"): "in answer",
    ("in answer", "</answer>"): "end",
}


@reward("format", kind="shaping")
class Format:
    """1 if the episode is think → (search → documents → think)* → answer and ends right after `</answer>`, else 0.

    The strict state machine of ParallelSearch's released code (arXiv 2508.09303; qa_em_format.py): tags
    balanced and in this order, only white space between blocks. With the weights `qa_em: 0.9` and `format: 0.1` the two
    are that code's answer part: 1 right and well formed, 0.9 right, 0.1 well formed, else 0.

    The documents are judged by who wrote them, not by a tag (ours): text of the environment is allowed exactly between
    `</search>` and the next thought, whatever it contains. A document cannot break the format, and a policy that writes
    an information block of its own has. A `<think>` at the end of the prompt, or of what the environment wrote, opens
    the thought. Special tokens at the end of a turn (end of sequence) count as nothing.

    Args:
        information: name of the tag that only the environment may write.
        search: name of the tag of a search. With another than `search`, such as `tool_call`, several of them may stand
            one behind the other.
    """

    def __init__(self, *, information: str = "information", search: str = "search", context: RewardContext) -> None:
        if context.tokenizer is None:
            raise PluginError("format needs a tokenizer, to tell the policy's text from the environment's")
        self.tokenizer = context.tokenizer
        self.tags = re.compile(rf"</?(?:think|answer|{re.escape(search)}|{re.escape(information)})>")
        self.search = search
        self.ends = [t for t in self.tokenizer.all_special_tokens if t and not self.tags.fullmatch(t)]

    def __call__(self, trajectories: list[Trajectory]) -> list[float]:
        return [float(self.fault(t) is None) for t in trajectories]

    def fault(self, trajectory: Trajectory) -> str | None:
        """What first breaks the format, in words; None where nothing does."""
        return find_fault(self._pieces(trajectory.segments), self.tags, self.search)

    def _pieces(self, segments: list[Segment]) -> Iterator[tuple[bool, str]]:
        """(whether the policy wrote it, text) in order; a segment's prompt is the environment's."""
        for segment in segments:
            yield False, decode(self.tokenizer, segment.prompt_ids[-_PROMPT_TAIL:])
            ids, mask = segment.completion_ids, segment.policy_mask
            text = decode(self.tokenizer, ids)
            spans = token_spans(self.tokenizer, ids, text)
            runs = [(a, b, by) for by in (0, 1) for a, b in run_spans(spans, mask, of=by)]
            for start, end, by_policy in sorted(runs):
                piece = text[start:end]
                yield bool(by_policy), self._without_end(piece) if by_policy else piece

    def _without_end(self, text: str) -> str:
        text = text.rstrip()
        while (end := next((e for e in self.ends if text.endswith(e)), None)) is not None:
            text = text[: -len(end)].rstrip()
        return text


def find_fault(pieces: Iterable[tuple[bool, str]], tags: re.Pattern[str], search: str = "search") -> str | None:
    """Run the state machine over (whether the policy wrote it, text); the first piece is the prompt.

    Neighbouring pieces of the environment are one: documents at a segment's end and the next segment's prompt.

    Returns what first breaks the format, in words, or None.
    """
    state, following = "before", _transitions(search)
    for by_policy, run in groupby(pieces, key=lambda piece: piece[0]):
        text = "".join(text for _, text in run)
        if by_policy:
            state, fault = _read(text, state, tags, following)
        else:
            state, fault = _inform(text, state)
        if fault:
            return fault
    return None if state == "end" else f"the episode ends {state}"


def _inform(text: str, state: str) -> tuple[str, str | None]:
    """The state after text of the environment."""
    if state not in ("before", "after search"):
        return state, f"the environment had to answer {state}"
    if _OPENS_THINK.search(text):
        return "in think", None
    return "start" if state == "before" else "informed", None


def _transitions(search: str) -> dict[tuple[str, str], str]:
    following = {(state, tag.replace("search", search)): after for (state, tag), after in _NEXT.items()}
    return following if search == "search" else following | {("after search", f"<{search}>"): "in search"}


def _read(
    text: str, state: str, tags: re.Pattern[str], following: dict[tuple[str, str], str]
) -> tuple[str, str | None]:
    """The state after text of the policy."""
    at = 0
    for tag in tags.finditer(text):
        if fault := _stray(text[at : tag.start()], state):
            return state, fault
        if (state, tag.group()) not in following:
            return state, f"{tag.group()} {state}"
        state, at = following[state, tag.group()], tag.end()
    return state, _stray(text[at:], state)


def _stray(text: str, state: str) -> str | None:
    return f"text {state}: {text.strip()[:40]!r}" if text.strip() and not state.startswith("in ") else None
