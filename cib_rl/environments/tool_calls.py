"""Searching by native tool calls: JSON in the form of the tokenizer's chat template, results as tool messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from cib_rl.engines.base import Generation
from cib_rl.environments.base import encode_prompt
from cib_rl.environments.chat_tools import CallForm, ChatTools
from cib_rl.environments.folding import visible
from cib_rl.environments.foreign_text import ForeignText
from cib_rl.environments.search_block import Shown
from cib_rl.environments.search_protocol import Action, Call, changed, tag_names
from cib_rl.errors import UserError
from cib_rl.grading.answers import extract_answer
from cib_rl.recipe import EnvironmentSection
from cib_rl.spans import THINK_CLOSE, decode
from cib_rl.trajectory import StopReason

_SPACE = re.compile(r"[\s;,]*")
_TAGS = ("think", "answer", "tools", "tool_call", "tool_response")  # also where the template at hand has others


@dataclass(frozen=True)
class ToolProtocol:
    """Texts of an episode with tool calls.

    Attributes:
        template: the user's message; `{question}` stands for the task's prompt.
        name, description: of the tool.
        query, query_description: the name of its argument, and what it is.
        queries: whether a call has one query (`one`: several calls in a message are the parallel form) or a list of
            them (`list`: for templates that take one call in a message).
        invalid: the user's message after one that was cut off before it called or ended.
        document, query_header: as in `Protocol`; the header stands in replies to calls with several queries.
    """

    template: str = (
        "Answer the question. You can search first, as often as you need; searches that do not depend on each other "
        "can be made at once. When you know the answer, give it between <answer> and </answer>, in a few words, "
        "without calling a tool. Question: {question}"
    )
    name: str = "search"
    description: str = "Finds passages of text about a query."
    query: str = "query"
    query_description: str = "What to search for."
    queries: Literal["one", "list"] = "one"
    invalid: str = "Your message was cut off. Call the tool, or give the answer."
    document: str = "Doc {number}(Title: {title}) {text}\n"
    query_header: str = "Results {number} for: {query}\n"

    @property
    def tool(self) -> dict[str, Any]:
        """The description that chat templates show to a model."""
        one = {"type": "string", "description": self.query_description}
        many = {"type": "array", "items": {"type": "string"}, "description": self.query_description}
        properties = {self.query: one if self.queries == "one" else many}
        parameters = {"type": "object", "properties": properties, "required": [self.query]}
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


class ToolCalls:
    """Messages, some of which call a tool.

    A message with calls is replied to by a tool message each, in order, in the text that the chat template puts
    between the two assistants' messages; the sampled tokens stay as they are. One without calls ends the episode, and
    `environment.answer` says where its answer is. What stands before the last `</think>` is thought: neither is read
    there. A call that is no JSON object, names another tool, or has arguments of another type is replied to with what
    is wrong with it.
    """

    def __init__(
        self,
        section: EnvironmentSection,
        tokenizer: PreTrainedTokenizerBase,
        changes: Mapping[str, Any],
        longest: int,
        max_calls: int,
    ) -> None:
        self.section, self.tokenizer = section, tokenizer
        p = self.protocol = changed(ToolProtocol(), changes)
        if p.queries not in ("one", "list"):
            raise UserError(f"environment.protocol.queries: {p.queries!r}; known: one, list")
        if section.chat_template == "never":
            raise UserError(
                "environment.preset tool_calls needs the chat template, which `chat_template: never` turns off"
            )
        chat = self.chat = ChatTools(tokenizer, p.tool, section.chat_template_kwargs)
        self.max_calls = max_calls if chat.parallel else 1
        self.stops = [chat.end]
        own = tag_names(chat.call.before, chat.call.after, *chat.results(1), p.document, p.query_header)
        self.tags = [*_TAGS, *own]
        foreign = ForeignText(tokenizer, self.tags, (p.document, p.query_header), longest, chat.escape)
        self.shown = Shown(foreign, p.document, p.query_header, None if chat.escape is str else _can_be_read)
        self._end = foreign.encode_own(chat.end)
        before, after = chat.user()
        self._invalid = [token for text in (before, p.invalid, after) for token in foreign.encode_own(text)]

    def prompt(self, task: Mapping[str, Any]) -> list[int]:
        """Token ids of the prompt: the question as text, or messages, the last of the user's being the question."""
        prompt = task["prompt"]
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return encode_prompt(
            self.asked(messages, f"row {task.get('id')!r}"), self.section, self.tokenizer, tools=[self.protocol.tool]
        )

    def asked(self, messages: Sequence[Mapping[str, Any]], where: str) -> list[dict[str, Any]]:
        """The messages of a prompt, the question put into the protocol's template. Raises UserError without one."""
        copied = [dict(message) for message in messages]
        last = max((i for i, m in enumerate(copied) if m.get("role") == "user"), default=None)
        if last is None or not isinstance(copied[last].get("content"), str):
            raise UserError(f"{where}: prompt has no message of the user's with a text")
        copied[last]["content"] = self.protocol.template.replace("{question}", copied[last]["content"])
        return copied

    def read(self, generation: Generation) -> Action:
        """The calls of a message, or its end."""
        text = decode(self.tokenizer, generation.ids)
        if self._ended(generation):
            text = text.rstrip().removesuffix(self.chat.end)
        said = text.rpartition(THINK_CLOSE)[2]
        calls = [self._call(value) if fault is None else Call(fault=fault) for value, fault in self._found(said)]
        if calls:
            return Action("search", calls[: self.max_calls], surplus=len(calls[self.max_calls :]))
        if generation.stop_reason is StopReason.LENGTH:
            return Action("none")
        marks = self.tokenizer.all_special_tokens  # an end of sequence that is not the template's
        answer = extract_answer(text, self.section.answer, special_tokens=marks)
        return Action("answer", answer=answer, reason=StopReason.EOS)

    def frame(self, generation: Generation, replies: int) -> list[list[int]]:
        """What the template puts around so many tool messages, and the end of the message if it was cut off."""
        first, *rest = (self.shown.foreign.encode_own(text) for text in self.chat.results(replies))
        return [self._closing(generation) + first, *rest]

    def invalid(self, generation: Generation) -> list[int]:
        """A message of the user's."""
        return self._closing(generation) + self._invalid

    def _ended(self, generation: Generation) -> bool:
        return generation.ids[-1:] == self._end[-1:]

    def _closing(self, generation: Generation) -> list[int]:
        return [] if self._ended(generation) else self._end

    def _found(self, text: str) -> list[tuple[Any, str | None]]:
        return list(read_calls(text, self.chat.call))

    def _call(self, found: Any) -> Call:
        p, key = self.protocol, self.chat.call.arguments
        if not isinstance(found, dict) or not isinstance(found.get(key), dict):
            return Call(fault=f'A call is an object with "name" and "{key}", and "{key}" is an object.')
        if found.get("name") != p.name:
            return Call(fault=f"There is no such tool; there is {p.name}.")
        queries = found[key].get(p.query)
        if p.queries == "one":
            queries = [queries]
        if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
            wanted = "a text" if p.queries == "one" else "a list of texts"
            return Call(fault=f'"{p.query}" must be {wanted}.')
        return Call([" ".join(visible(query).split()) for query in queries])


def read_calls(text: str, form: CallForm) -> Iterator[tuple[Any, str | None]]:
    """Every call in a text: its JSON value, and what is wrong with how it is written, in words.

    Where calls stand between no texts, a message that begins with a brace is calls, one behind the other.
    """
    if not form.before and not text.lstrip().startswith("{"):
        return
    at = 0
    while (at := text.find(form.before, at)) >= 0:
        start = _SPACE.match(text, at + len(form.before)).end()  # type: ignore[union-attr]
        if start == len(text) and not form.before:
            return
        try:
            value, at = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            yield None, "The call is not valid JSON."
            at = start if form.before else len(text)
            continue
        closed = not form.after or text[at:].lstrip().startswith(form.after)
        yield value, None if closed else f"The call does not end in {form.after}."


def _can_be_read(text: str) -> bool:
    """Whether the inside of a JSON string that was cut is still one, without half of a surrogate pair at its end."""
    try:
        json.loads(f'"{text}"').encode()
    except ValueError:
        return False
    return True
