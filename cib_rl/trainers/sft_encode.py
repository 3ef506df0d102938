"""Rows as token ids with what is learned of them: what the policy wrote, and its ends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from cib_rl.environments.base import encode_prompt, with_suffix
from cib_rl.environments.calls_recorded import RecordedCalls
from cib_rl.environments.search_recorded import RecordedSearch
from cib_rl.errors import UserError
from cib_rl.spans import decode
from cib_rl.trainers.sft_data import Example, Row
from cib_rl.trainers.sft_messages import Piece, plain_pieces, template_pieces
from cib_rl.trainers.sft_rows import Conversation, Episode, SFTRow
from cib_rl.trajectory import Segment

if TYPE_CHECKING:
    from cib_rl.trainers.sft_settings import SFTModel

_NAN = float("nan")


class Encoder:
    """Makes examples of rows, as the environment of later training would have made the same tokens.

    Prompts are encoded as the environments do it, through the chat template where there is one. What the policy wrote
    and what it did not are encoded apart, so that no token holds some of both. With `blind` the prompt is left out and
    its place taken by one token, bos (eos where the tokenizer has no bos): a prior that never sees a prompt predicts
    the completion's first token from that token alone.

    Raises UserError when the tokenizer has no eos token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: SFTModel) -> None:
        if tokenizer.eos_token_id is None:
            raise UserError(
                "sft: the tokenizer has no eos token, so completions could never end; set one in its folder"
            )
        self.tokenizer, self.settings, self.section = tokenizer, settings, settings.section()
        self.eos: int = tokenizer.eos_token_id
        self.opening = [tokenizer.bos_token_id if tokenizer.bos_token_id is not None else self.eos]
        searches, calls = self.section.name == "search", self.section.kwargs.get("preset") == "tool_calls"
        self.search = RecordedSearch(self.section, tokenizer) if searches and not calls else None
        self.calls = RecordedCalls(self.section, tokenizer) if searches and calls else None
        added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        self.special = sorted({*added, *tokenizer.all_special_tokens} - {tokenizer.unk_token})

    def examples(self, rows: Iterable[SFTRow]) -> tuple[list[Example], int]:
        """Examples no longer than `max_length` tokens, and how many were left out because they were longer.

        Raises:
            UserError: a row, named by its line, with nothing to learn, with text the tokenizer has no tokens for, whose
                trajectory is of another tokenizer, or, with `long_rows: refuse`, that is too long.
        """
        kept, left_out, limit = [], 0, self.settings.max_length
        for row in rows:
            for segment in self.segments(row):
                example = self._example(segment, row.where)
                if len(example.ids) <= limit:
                    kept.append(example)
                elif self.settings.long_rows == "refuse":
                    raise UserError(
                        f"sft data: {row.where}: {len(example.ids):,} tokens, more than max_length {limit:,}; raise "
                        "it, or say long_rows: leave_out"
                    )
                else:
                    left_out += 1
        return kept, left_out

    def segments(self, row: SFTRow) -> list[Segment]:
        """The contexts of a row: one, but of a trajectory as many as it has with words of the policy's."""
        if isinstance(row, Episode):
            return self._of_episode(row)
        if isinstance(row, Conversation):
            return [self._of_messages(row)]
        if not row.completion:
            raise UserError(f"sft data: {row.where}: nothing to learn: the completion is empty")
        return [self._of_texts(row)]

    def _of_texts(self, row: Row) -> Segment:
        if self.calls is not None:
            raise UserError(
                f"sft data: {row.where}: environment: preset tool_calls is for messages, not for prompt and completion"
            )
        if self.search is not None:
            segment = self.search.segment(row.prompt, row.completion, f"sft data: {row.where}")
            if not segment.policy_mask.count(1):
                raise UserError(f"sft data: {row.where}: nothing to learn: the completion is documents alone")
            if self.search.ends_in_search(row.completion):
                return segment
        else:
            if "<information>" in row.completion:
                raise UserError(
                    f"sft data: {row.where}: the completion holds <information>, which the policy did not write; say "
                    "environment: {name: search}, with the preset and protocol of later training"
                )
            segment = Segment(encode_prompt(row.prompt, self.section, self.tokenizer))
            self._append(segment, row.completion, True)
        segment.append_policy([self.eos], [_NAN])
        return segment

    def _of_messages(self, row: Conversation) -> Segment:
        if self.search is not None:
            raise UserError(
                f"sft data: {row.where}: environment: search in tags is for prompt and completion; messages are "
                "rendered by the chat template as they are, or with preset: tool_calls as the environment does it"
            )
        if self.calls is not None:
            return self._of_calls(self.calls, row)
        (prompt, _), *rest = self._pieces(row)
        # As `encode_prompt`: a template writes bos itself, plain text gets it from the tokenizer.
        segment = Segment(list(self.tokenizer.encode(prompt, add_special_tokens=not self._templated)) if prompt else [])
        for text, own in rest:
            self._append(segment, text, own)
            if own and not self._templated:
                segment.append_policy([self.eos], [_NAN])
        return segment

    def _of_calls(self, calls: RecordedCalls, row: Conversation) -> Segment:
        row = replace(row, messages=calls.asked(row.messages, f"sft data: {row.where}"), tools=[calls.protocol.tool])
        (prompt, _), *rest = self._pieces(row)
        segment = Segment(list(self.tokenizer.encode(prompt, add_special_tokens=False)))
        own = [i for i, message in enumerate(row.messages) if message["role"] == "assistant"]
        for at, following, (said, _), (between, _) in zip(
            own, [*own[1:], None], rest[::2], [*rest[1::2], ("", False)], strict=True
        ):
            where = f"sft data: {row.where}: message {at + 1}"
            start = len(segment)
            self._append(segment, said, True)
            calls.check(row.messages[at], segment.completion_ids[start:], where)
            if following is not None:
                segment.append_environment(calls.reply(between, row.messages[at + 1 : following], where))
        return segment

    @property
    def _templated(self) -> bool:
        return self.section.chat_template != "never" and bool(self.tokenizer.chat_template)

    def _pieces(self, row: Conversation) -> list[Piece]:
        first = next(i for i, message in enumerate(row.messages) if message["role"] == "assistant")
        messages = [*with_suffix(row.messages[:first], self.section.suffix), *row.messages[first:]]
        if self.section.system:
            messages = [{"role": "system", "content": self.section.system}, *messages]
        where = f"sft data: {row.where}"
        if not self._templated:
            if self.section.chat_template == "always" or any("tool_calls" in message for message in messages):
                raise UserError(f"{where}: its messages need a chat template, and the tokenizer has none")
            return plain_pieces(messages)

        def render(some: list[Any], add_generation_prompt: bool) -> str:
            return str(
                self.tokenizer.apply_chat_template(
                    some,
                    tools=row.tools,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    **self.section.chat_template_kwargs,
                )
            )

        return template_pieces(messages, render, self.special, where)

    def _of_episode(self, row: Episode) -> list[Segment]:
        ids = [token for segment in row.segments for token in segment.completion_ids]
        largest = max((max(s.context_ids, default=0) for s in row.segments), default=0)
        if largest >= len(self.tokenizer) or decode(self.tokenizer, ids) != row.text:
            raise UserError(
                f"sft data: {row.where}: its tokens are those of another tokenizer (they do not decode to its text); "
                "trajectories train models of the tokenizer they were sampled with: name it, or train on their texts"
            )
        return [segment for segment in row.segments if any(segment.policy_mask)]

    def _append(self, segment: Segment, text: str, own: bool) -> None:
        ids = list(self.tokenizer.encode(text, add_special_tokens=False))
        if own:
            segment.append_policy(ids, [_NAN] * len(ids))
        else:
            segment.append_environment(ids)

    def _example(self, segment: Segment, where: str) -> Example:
        """The segment up to the last token that is learned: what comes after it teaches nothing."""
        prompt = self.opening if self.settings.blind else segment.prompt_ids or self.opening
        spans, at = [], len(prompt)
        for own, run in groupby(segment.policy_mask):
            length = len(list(run))
            if own:
                spans.append((at, at + length))
            at += length
        ids = (*prompt, *segment.completion_ids)[: spans[-1][1]]
        unknown = self.tokenizer.unk_token_id
        lost = sum(ids[start:end].count(unknown) for start, end in spans) if unknown is not None else 0
        if lost:
            raise UserError(
                f"sft data: {where}: the tokenizer has no tokens for {lost} pieces of what the policy wrote there; "
                "take another tokenizer"
            )
        return Example(ids, tuple(spans))
