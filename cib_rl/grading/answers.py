"""Finding the answer in a completion. Only the completion is ever read, never the prompt, which may show an example.

Every style takes time linear in the text, whatever the text is; a pattern of the recipe's own has a time limit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

import regex

from cib_rl.errors import UserError

PATTERN_SECONDS = 2.0

# \boxed{ (one or two backslashes: models copy escaped text), an escaped character, or a brace.
_BOX_TOKENS = re.compile(r"\\{1,2}boxed[ \t]*\{|\\.|[{}]", re.DOTALL)


def extract_answer(text: str, style: str, *, special_tokens: Sequence[str] = ()) -> str | None:
    """The last answer in `text`, stripped, or None when there is none or it is empty.

    What stands before the last `</think>` is reasoning, not answer, and is not read where there is one.

    Args:
        text: what the policy wrote.
        style: `tag` (last `<answer>...</answer>`), `boxed` (last \\boxed{...}, braces balanced), `hash` (rest of the
            line after the last `####`), `last_line` (last line that is not empty) or `regex:PATTERN` (last match; its
            first group if it has one).
        special_tokens: cut off both ends of the text first (an end-of-sequence token is not part of the last line).

    Raises:
        UserError: an unknown style, an invalid pattern, or one that takes longer than `PATTERN_SECONDS` on this text.
    """
    find = finder(style)
    answer = find(_trim(text, special_tokens).rpartition("</think>")[2])
    return (answer.strip() or None) if answer is not None else None


@lru_cache(maxsize=64)
def finder(style: str) -> Callable[[str], str | None]:
    """The function behind a style. Raises UserError for an unknown style or an invalid pattern."""
    if style in _FINDERS:
        return _FINDERS[style]
    if style.startswith("regex:"):
        try:
            compiled = regex.compile(style.removeprefix("regex:"))
        except regex.error as error:
            raise UserError(f"environment.answer: {style!r} is not a valid pattern: {error}") from error
        return lambda text: _last_match(compiled, text)
    raise UserError(f"environment.answer: unknown style {style!r}; known: {', '.join(_FINDERS)}, regex:PATTERN")


def _trim(text: str, special_tokens: Sequence[str]) -> str:
    start, end = 0, len(text)
    marks = [token for token in special_tokens if token]
    changed = bool(marks)
    while changed:
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        changed = False
        for mark in marks:
            if text.startswith(mark, start, end):
                start, changed = start + len(mark), True
            if start < end and text.endswith(mark, start, end):
                end, changed = end - len(mark), True
    return text[start:end]


def _tag(text: str) -> str | None:
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    return text[start + len("<answer>") : end] if start >= 0 else None


def _boxed(text: str) -> str | None:
    # One pass with a stack, so that thousands of unclosed boxes cost no more than their length.
    opened: list[int | None] = []  # where a box's content starts; None for a plain brace
    found = None
    for token in _BOX_TOKENS.finditer(text):
        kind = token.group()
        if kind == "{":
            opened.append(None)
        elif kind == "}":
            start = opened.pop() if opened else None
            if start is not None:
                found = (start, token.start())
        elif kind.endswith("{") and "boxed" in kind:
            opened.append(token.end())
    return text[found[0] : found[1]] if found else None


def _hash(text: str) -> str | None:
    start = text.rfind("####")
    return text[start + 4 :].split("\n", 1)[0] if start >= 0 else None


def _last_line(text: str) -> str | None:
    return text.rstrip().rpartition("\n")[2]


def _last_match(pattern: regex.Pattern[str], text: str) -> str | None:
    last = None
    try:
        for match in pattern.finditer(text, timeout=PATTERN_SECONDS):
            last = match
    except TimeoutError as error:
        raise UserError(
            f"environment.answer: the pattern {pattern.pattern!r} took more than {PATTERN_SECONDS:g} s on one "
            "completion; write it without nested repetition"
        ) from error
    if last is None:
        return None
    group: str | None = last.group(1) if pattern.groups else last.group()
    return group


_FINDERS: dict[str, Callable[[str], str | None]] = {
    "tag": _tag,
    "boxed": _boxed,
    "hash": _hash,
    "last_line": _last_line,
}
