"""The exact checker: does an expression make the target from the given numbers?

*All* given numbers must be used, each exactly as often as it is given.  Arithmetic is rational and exact, so
8 / 3 * 3 is 8.  The parser knows whole numbers, + - * / and parentheses, nothing else (no sign in front of a number);
text is never evaluated as Python.  Whatever cannot be read is wrong, with the reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARACTERS = 200  # an honest expression is far shorter; keeps the parser's depth bounded
MAX_DEPTH = 50  # of parentheses
_TOKEN = re.compile(r"[0-9]+|[-+*/()]")
_FOREIGN = re.compile(r"[^-+*/()0-9 \t\r\n]+")
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


@dataclass(frozen=True)
class Check:
    """The verdict on one answer; `reason` says in words why, `value` is the expression's value where it has one."""

    right: bool
    reason: str
    value: Fraction | None = None


class _Malformed(ValueError):
    """The text is no expression; the message says why."""


class _Parser:
    """Recursive descent: sum := product (+- product)*, product := atom (*/ atom)*, atom := number | ( sum )."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_CHARACTERS:
            raise _Malformed(f"longer than {MAX_CHARACTERS} characters")
        if foreign := _FOREIGN.search(text):
            raise _Malformed(f"{foreign.group()!r} is not part of an expression")
        self.tokens = _TOKEN.findall(text)
        self.at = 0
        self.depth = 0
        self.used: list[int] = []

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def parse(self) -> Fraction:
        if not self.tokens:
            raise _Malformed("empty")
        value = self.sum()
        if self.peek():
            raise _Malformed(f"{self.peek()!r} after the end of the expression")
        return value

    def sum(self) -> Fraction:
        value = self.product()
        while self.peek() in ("+", "-"):
            value = value + self.product() if self.take() == "+" else value - self.product()
        return value

    def product(self) -> Fraction:
        value = self.atom()
        while self.peek() in ("*", "/"):
            value = value * self.atom() if self.take() == "*" else value / self.atom()
        return value

    def atom(self) -> Fraction:
        token = self.take()
        if token.isdigit():
            self.used.append(int(token))
            return Fraction(int(token))
        if token != "(":
            raise _Malformed(f"expected a number or '(', found {token!r}" if token else "it ends too early")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Malformed(f"more than {MAX_DEPTH} nested parentheses")
        value = self.sum()
        if self.take() != ")":
            raise _Malformed("a '(' is not closed")
        self.depth -= 1
        return value


def check(expression: str, numbers: Sequence[int], target: int) -> Check:
    """Whether `expression` uses each of `numbers` exactly once and equals `target`; never raises on any text."""
    try:
        parser = _Parser(expression)
        value = parser.parse()
    except _Malformed as error:
        return Check(False, f"malformed: {error}")
    except ZeroDivisionError:
        return Check(False, "malformed: division by zero")
    missing = Counter(numbers) - Counter(parser.used)
    extra = Counter(parser.used) - Counter(numbers)
    if missing or extra:
        parts = [f"{word} {', '.join(map(str, sorted(some.elements())))}" for word, some in
                 (("not used:", missing), ("not given or used too often:", extra)) if some]  # fmt: skip
        return Check(False, f"numbers {'; '.join(parts)}", value)
    if value != target:
        return Check(False, f"result {value} is not the target {target}", value)
    return Check(True, "right", value)


def answer_text(completion: str) -> str | None:
    """The text of the last `<answer>…</answer>` after the reasoning has been closed by `</think>`, or None."""
    _, closed, rest = completion.partition("</think>")
    found = _ANSWER.findall(rest) if closed else []
    return found[-1].strip() if found else None


def check_completion(completion: str, numbers: Sequence[int], target: int) -> Check:
    """`check` on the completion's answer; a completion without a closed answer is wrong."""
    answer = answer_text(completion)
    if answer is None:
        return Check(False, "no answer: needs </think> and then <answer>…</answer>")
    return check(answer, numbers, target)
