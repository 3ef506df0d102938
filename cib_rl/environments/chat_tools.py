"""What a chat template makes of tool calls and of their results, found out by rendering a made-up conversation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError

from cib_rl.environments.foreign_text import marks_of
from cib_rl.errors import UserError

_ASKED, _SAID = "made0up1question", "made0up1statement"
_PROBE = 'begin"\\\n\té<&>end'
Message = dict[str, Any]


def _in_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


_ESCAPES: list[Callable[[str], str]] = [str, _in_json, lambda text: json.dumps(text)[1:-1]]


@dataclass(frozen=True)
class CallForm:
    """How a call is written: a JSON object with `name` and `arguments` (the key's name) between two texts."""

    before: str
    after: str
    arguments: str


class ChatTools:
    """A tokenizer's chat template, as far as tools are concerned.

    The policy's message is never rendered: what is wanted is what comes *after* it. A conversation is rendered twice,
    with and without what follows a message, and the second must begin as the first does, from the message on; the rest
    is what follows.

    Attributes:
        end: the token that ends an assistant's message.
        call: how calls are written.
        escape: what becomes of a result's text (JSON in some templates).
        parallel: whether a message may hold several calls.

    Raises:
        UserError: no template, one that ignores tools, or one of which the above cannot be found out; with the reason.
    """

    def __init__(self, tokenizer: Any, tool: Message, kwargs: Mapping[str, Any]) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise _unfit("the tokenizer has none")
        self._tokenizer, self._tool, self._kwargs = tokenizer, tool, dict(kwargs)
        self._name, (self._argument, *_) = tool["function"]["name"], tool["function"]["parameters"]["properties"]
        if self._rendered([], tools=None) == self._rendered([]):
            raise _unfit("it does not show the tools to the model")
        self._results: dict[int, list[str]] = {}
        self._closing = _after(self._rendered([_said()]), _SAID)
        self.end = self._found_end()
        self.call = self._found_call()
        self.results(1)
        self.escape = self._found_escape()
        self.parallel = self._allows_two()

    def results(self, number: int) -> list[str]:
        """The texts around the results of `number` calls, from behind the end of the message that called to where the
        next one begins: one text more than there are results."""
        if number not in self._results:
            contents = [f"made0up{i}result" for i in range(number)]
            messages = [self._result(i, content) for i, content in enumerate(contents)]
            following = self._following(self._calls(number), messages, _query(number - 1))
            self._results[number] = _split(self._behind_end(following), contents)
            if any(_id(i) in text for text in self._results[number] for i in range(number)):
                raise _unfit("it repeats the ids of calls, which a policy makes up")
        return self._results[number]

    def user(self) -> list[str]:
        """The two texts around a user's message that follows on an assistant's, from behind the end of that."""
        content = "made0up1user"
        following = self._following(_said(), [{"role": "user", "content": content}], _SAID)
        return _split(self._behind_end(following), [content])

    # ---- finding out ------------------------------------------------------------------------------------------------

    def _rendered(self, messages: Sequence[Message], prompt: bool = False, **changes: Any) -> str:
        conversation = [{"role": "user", "content": _ASKED}, *messages]
        keys: dict[str, Any] = {"tools": [self._tool], **self._kwargs, **changes}
        try:
            return str(
                self._tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=prompt, **keys)
            )
        except (TemplateError, TypeError, KeyError, AttributeError) as error:
            raise _unfit(f"it does not take a conversation with tool calls: {error}") from error

    def _calls(self, number: int) -> Message:
        calls = [
            {
                "id": _id(i),
                "type": "function",
                "function": {"name": self._name, "arguments": {self._argument: _query(i)}},
            }
            for i in range(number)
        ]
        return {"role": "assistant", "content": "", "tool_calls": calls}

    def _result(self, number: int, content: str) -> Message:
        return {"role": "tool", "name": self._name, "tool_call_id": _id(number), "content": content}

    def _following(self, message: Message, others: Sequence[Message], last_words: str) -> str:
        """What the template adds behind the message's last words when others follow."""
        alone = _after(self._rendered([message]), last_words)
        whole = _after(self._rendered([message, *others], prompt=True), last_words)
        if not whole.startswith(alone):
            raise _unfit(
                f"it ends an assistant's message with {alone!r}, but writes {whole[: len(alone)]!r} there when a "
                "message follows: what was sampled would have to be changed"
            )
        if not alone.endswith(self._closing):
            raise _unfit(f"a message with a call ends in {alone!r}, another one in {self._closing!r}")
        return self._closing + whole[len(alone) :]

    def _behind_end(self, text: str) -> str:
        return text.lstrip()[len(self.end) :]

    def _found_end(self) -> str:
        ends = [mark for mark in marks_of(self._tokenizer) if self._closing.lstrip().startswith(mark)]
        if not ends:
            raise _unfit(f"an assistant's message ends in {self._closing!r}, which is no special token to stop at")
        return max(ends, key=len)

    def _found_call(self) -> CallForm:
        text = self._rendered([self._calls(1)])
        text = text[: len(text) - len(self._closing)] if text.endswith(self._closing) else text
        start, decoder = text.rfind("{", 0, text.rfind(_query(0))), json.JSONDecoder()
        while start >= 0:
            try:
                found, end = decoder.raw_decode(text, start)
            except ValueError:
                found, end = None, 0
            if isinstance(found, dict) and found.get("name") == self._name:
                break
            start = text.rfind("{", 0, start)
        keys = [key for key, value in found.items() if value == {self._argument: _query(0)}] if start >= 0 else []
        if not keys:
            raise _unfit("it does not write a call as a JSON object with a name and arguments")
        header = re.sub(r"\s*<think>\s*\Z", "", self._rendered([], prompt=True)).rstrip()
        if not text.startswith(header):
            raise _unfit(f"it asks for a message by {header[-40:]!r}, but does not begin one with a call like that")
        before, after = text[len(header) : start].rpartition("</think>")[2].strip(), text[end:].strip()
        if (after and not before) or "[" in before[-1:]:
            raise _unfit(f"it writes calls as a list, between {before!r} and {after!r}")
        return CallForm(before, after, keys[0])

    def _found_escape(self) -> Callable[[str], str]:
        text = self._rendered([self._calls(1), self._result(0, _PROBE)], prompt=True)
        for escape in _ESCAPES:
            if escape(_PROBE) in text:
                return escape
        raise _unfit("it changes the text of a tool's result in a way that is not known here")

    def _allows_two(self) -> bool:
        try:
            self.results(2)
        except UserError:
            return False
        return True


def _said() -> Message:
    return {"role": "assistant", "content": _SAID}


def _id(number: int) -> str:
    return f"call{number:05}"


def _query(number: int) -> str:
    return f"made0up{number}query"


def _after(text: str, words: str) -> str:
    _, found, after = text.rpartition(words)
    if not found:
        raise _unfit(f"it leaves out what a message says ({words!r})")
    return after


def _split(text: str, contents: Sequence[str]) -> list[str]:
    texts = []
    for content in contents:
        before, found, text = text.partition(content)
        if not found:
            raise _unfit("it does not show the result of every call, in order")
        texts.append(before)
    return [*texts, text]


def _unfit(reason: str) -> UserError:
    return UserError(f"environment.preset tool_calls needs another chat template: {reason}; or use tags")
