"""Recorded conversations with tool calls as the tokens that the environment would have made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from cib_rl.engines.base import Generation
from cib_rl.environments.foreign_text import ForeignText
from cib_rl.environments.search import make_dialogue
from cib_rl.environments.search_dialogue import interleaved
from cib_rl.environments.search_keys import read_keys
from cib_rl.environments.search_recorded import Pieces
from cib_rl.environments.tool_calls import ToolCalls
from cib_rl.errors import UserError
from cib_rl.recipe import EnvironmentSection
from cib_rl.trajectory import StopReason


class RecordedCalls:
    """Messages as they would stand in an episode with `preset: tool_calls`.

    The prompt is the environment's (its template around the question, its description of the tool); results are encoded
    in the pieces in which `Search` encodes them: what the chat template puts around them, each header and document by
    itself. So the tokens are those of a rollout in which the policy sampled the tokenizer's own encoding of its words,
    unless a document was cut within a token.
    """

    def __init__(self, section: EnvironmentSection, tokenizer: PreTrainedTokenizerBase) -> None:
        dialogue = make_dialogue(section, tokenizer, read_keys({"retriever": {}, **section.kwargs}))
        assert isinstance(dialogue, ToolCalls)
        self.dialogue, self.protocol = dialogue, dialogue.protocol
        # Without the forms of headers: in a recorded text they are the environment's own.
        self._foreign = ForeignText(tokenizer, dialogue.tags, escape=dialogue.chat.escape)
        self._pieces = Pieces(self.protocol.query_header, self.protocol.document)

    def asked(self, messages: Sequence[Mapping[str, Any]], where: str) -> list[dict[str, Any]]:
        """The messages, those before the first of the assistant's being the environment's prompt."""
        first = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
        return [*self.dialogue.asked(messages[:first], where), *map(dict, messages[first:])]

    def check(self, message: Mapping[str, Any], ids: Sequence[int], where: str) -> None:
        """Raises UserError for calls, or their absence, that the environment would read otherwise than recorded."""
        action = self.dialogue.read(Generation(list(ids), [], StopReason.STOP_STRING))
        recorded = len(message.get("tool_calls") or [])
        if faults := [call.fault for call in action.calls if call.fault]:
            raise UserError(f"{where}: the environment could not carry out a call of it: {faults[0]}")
        if action.surplus:
            raise UserError(f"{where}: {recorded} calls, more than environment.max_queries or the template allow")
        if recorded != len(action.calls):
            raise UserError(f"{where}: {recorded} calls are recorded, the environment reads {len(action.calls)} there")

    def reply(self, text: str, messages: Sequence[Mapping[str, Any]], where: str) -> list[int]:
        """Token ids of what the chat template makes, in `text`, of the messages between two of the assistant's."""
        foreign, chat = self._foreign, self.dialogue.chat
        if not messages or any(message["role"] != "tool" for message in messages):
            return foreign.encode_own(text)
        around, contents = chat.results(len(messages)), [message["content"] for message in messages]
        shown = (
            part for content, after in zip(contents, around[1:], strict=True) for part in (chat.escape(content), after)
        )
        if text != around[0] + "".join(shown):
            raise UserError(f"{where}: the chat template writes these results otherwise than the environment would")
        replies = [
            [token for piece in self._pieces.split(content) for token in foreign.fill("{text}", text=piece)]
            for content in contents
        ]
        return interleaved([foreign.encode_own(part) for part in around], replies)
