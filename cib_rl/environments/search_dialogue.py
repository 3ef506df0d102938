"""How policy and environment speak: what a prompt is, what a turn asks for, where replies stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from cib_rl.engines.base import Generation
from cib_rl.environments.base import encode_prompt
from cib_rl.environments.foreign_text import ForeignText
from cib_rl.environments.search_block import Shown
from cib_rl.environments.search_protocol import Action, make_protocol
from cib_rl.errors import UserError
from cib_rl.grading.answers import extract_answer
from cib_rl.recipe import EnvironmentSection
from cib_rl.spans import decode


class Dialogue(Protocol):
    """What the environment `search` needs to know of a protocol.

    Attributes:
        protocol: the texts of an episode.
        stops: strings that end a turn.
        shown: writes what searches found.
    """

    protocol: Any
    stops: list[str]
    shown: Shown

    def prompt(self, task: Mapping[str, Any]) -> list[int]:
        """Token ids of the prompt. Raises UserError for tasks that cannot be asked."""

    def read(self, generation: Generation) -> Action:
        """What a turn asks for, from its own tokens."""

    def frame(self, generation: Generation, replies: int) -> list[list[int]]:
        """What stands around the replies to a turn's calls: one list of token ids more than there are replies."""

    def invalid(self, generation: Generation) -> list[int]:
        """The reply to a turn that asks for nothing."""


class Tags:
    """Search-R1, ParallelSearch, InForage: one search in a turn, replied to by one block."""

    def __init__(
        self,
        section: EnvironmentSection,
        tokenizer: PreTrainedTokenizerBase,
        preset: str | None,
        changes: Mapping[str, Any],
        longest: int,
    ) -> None:
        self.section, self.tokenizer = section, tokenizer
        p = self.protocol = make_protocol(preset, changes)
        foreign = ForeignText(tokenizer, [*p.tags, *p.own_tags], (p.document, p.query_header), longest)
        self.shown = Shown(foreign, p.document, p.query_header)
        self.stops = p.stops
        self._open = foreign.encode_own(f"{p.before}<{p.information}>")
        self._close = foreign.encode_own(f"</{p.information}>{p.after}")
        self._invalid = foreign.encode_own(p.invalid)

    def prompt(self, task: Mapping[str, Any]) -> list[int]:
        question = task["prompt"]
        if not isinstance(question, str):
            raise UserError(
                f"row {task.get('id')!r}: to search in tags, prompt must be the question as text, not messages"
            )
        return encode_prompt(self.protocol.asking(question), self.section, self.tokenizer)

    def read(self, generation: Generation) -> Action:
        text = decode(self.tokenizer, generation.ids)
        action = self.protocol.read(text)
        if action.kind == "answer" and self.section.answer != "tag":
            action = replace(action, answer=extract_answer(text, self.section.answer))
        return action

    def frame(self, generation: Generation, replies: int) -> list[list[int]]:
        return [self._open, self._close]

    def invalid(self, generation: Generation) -> list[int]:
        return self._invalid


def interleaved(frame: Sequence[list[int]], replies: Sequence[list[int]]) -> list[int]:
    """The replies in their frame."""
    first, *rest = frame
    return [*first, *(token for reply, after in zip(replies, rest, strict=True) for token in (*reply, *after))]
