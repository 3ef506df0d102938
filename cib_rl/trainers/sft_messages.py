"""Conversations as pieces of text: what the assistant wrote, and what a chat template and the others did."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from cib_rl.errors import UserError

ROLES = ("system", "user", "assistant", "tool")
Piece = tuple[str, bool]  # text, and whether the assistant wrote it


def check_messages(messages: Any, where: str) -> list[dict[str, Any]]:
    """The messages without empty keys. Raises UserError for what is no list of messages, naming the first wrong one."""
    if not isinstance(messages, list):
        raise UserError(f"{where}: messages must be a list, not {type(messages).__name__}")
    checked = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            role = message.get("role") if isinstance(message, Mapping) else message
            raise UserError(f"{where}: message {number}: the role must be one of {', '.join(ROLES)}; it is {role!r}")
        kept = {key: value for key, value in message.items() if value is not None}  # tables fill up with None
        if not isinstance(kept.setdefault("content", "" if kept.get("tool_calls") else None), str):
            raise UserError(f"{where}: message {number} ({kept['role']}): the content must be a text")
        checked.append(kept)
    return checked


def plain_pieces(messages: Sequence[Mapping[str, Any]]) -> list[Piece]:
    """For tokenizers without a chat template: the texts one below the other. The first piece is the prompt."""
    pieces: list[Piece] = [("", False)]
    for message in messages:
        if message["role"] == "assistant":
            pieces += [(message["content"], True), ("", False)]
        else:
            text = pieces[-1][0] or ("\n" if len(pieces) > 1 else "")
            pieces[-1] = (f"{text}{message['content']}\n", False)
    return pieces[:-1]  # the last message is the assistant's


def template_pieces(
    messages: Sequence[Mapping[str, Any]], render: Callable[..., str], special: Sequence[str], where: str
) -> list[Piece]:
    """What a chat template makes of the messages; the assistant's pieces end with its end-of-turn token.

    Each message of the assistant is found as the difference of two renderings: of the messages before it with the
    generation prompt, and of those up to it. The first piece is the prompt.

    Args:
        render: `apply_chat_template` without tokenizing; of messages and `add_generation_prompt`.
        special: texts of the tokenizer's special tokens.

    Raises:
        UserError: the template refuses the messages, renders earlier ones otherwise when later ones follow (what the
            policy wrote would not be what it had read), or ends a message with no special token.
    """
    pieces: list[Piece] = []
    done = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(render, messages[:index], True, where)
        whole = _render(render, messages[: index + 1], False, where)
        for longer, shorter in ((before, done), (whole, before)):
            if not longer.startswith(shorter):
                raise UserError(
                    f"{where}: the chat template does not only append: with message {index + 1} what stands before it "
                    f"is rendered otherwise ({_difference(shorter, longer)}), so it is not known what the policy read "
                    "and wrote. Templates that take earlier reasoning out do this. Give another one (chat_template), "
                    "change it by environment.chat_template_kwargs, or cut the row into one for each turn"
                )
        own = whole[len(before) :]
        end = _end_of_turn(own, "" if "tool_calls" in message else message["content"], special)
        if end is None:
            raise UserError(
                f"{where}: message {index + 1}: the chat template ends it with no special token, so a policy could not "
                "learn to end its turn; give another one (chat_template)"
            )
        pieces += [(before[len(done) :], False), (own[:end], True)]
        done = before + own[:end]
    return pieces


def _end_of_turn(own: str, content: str, special: Sequence[str]) -> int | None:
    """Where the end-of-turn token of the assistant's rendering ends: the special token right after its content (the
    last such, where reasoning says the same), or the last of all, where the template changes the content (tool calls).
    """
    longest_first = sorted(special, key=len, reverse=True)
    found = list(re.finditer("|".join(re.escape(token) for token in longest_first), own))
    after = [m for m in found if content.strip() and own[: m.start()].rstrip().endswith(content.strip())]
    return (after or found)[-1].end() if found else None


def _render(render: Callable[..., str], messages: Sequence[Mapping[str, Any]], generate: bool, where: str) -> str:
    try:
        return render(list(messages), add_generation_prompt=generate)
    except (TemplateError, TypeError, KeyError, ValueError) as error:
        raise UserError(f"{where}: the chat template cannot render its messages: {error}") from error


def _difference(one: str, other: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    start = max(0, at - 10)
    return f"{one[start : at + 20]!r} became {other[start : at + 20]!r}"
