"""Answers that are numbers: exact values of the plain forms, approximate values of constants with roots and powers.

Both read text that `latex.clean` has been over, in this process and in microseconds, and give None for whatever they
are not certain of. They spare most answers the way to a worker; tests hold them to what math-verify says.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

from cib_rl.grading.latex import SCIENTIFIC, for_parser

MAX_LENGTH = 200  # longer texts are not read as constants
MAX_DEPTH = 12
CERTAIN = 1e-5  # relative; math-verify takes decimals for equal that agree in six decimal places

_DECIMAL = re.compile(r"[-+]?([0-9]{1,2000}(?:\.[0-9]{0,50})?|\.[0-9]{1,50})")
_RATIO = re.compile(r"([-+]?)(?:\\frac\{([-+]?[0-9]{1,50})\}\{([-+]?[0-9]{1,50})\}|([0-9]{1,50})/([0-9]{1,50}))")
_MIXED = re.compile(r"([-+]?)([0-9]{1,50})\\frac\{([0-9]{1,50})\}\{([0-9]{1,50})\}")
_TOKEN = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)|\\(cdot|times|sqrt|frac|pi)(?![a-zA-Z])|([-+*/^(){}\[\]])| ")


def exact(text: str) -> Fraction | None:
    """The value of an integer, decimal (1.5e3 too), fraction or mixed number; None for anything else."""
    if SCIENTIFIC.fullmatch(text):
        return Fraction(text)
    text = for_parser(text)
    if _DECIMAL.fullmatch(text):
        digits = text.lstrip("+-")
        return Fraction(digits) * (-1) ** text[: len(text) - len(digits)].count("-")
    if ratio := _RATIO.fullmatch(text):
        sign, a, b, c, d = ratio.groups()
        return _fraction(sign, 0, int(a or c), int(b or d))
    if mixed := _MIXED.fullmatch(text):
        sign, whole, a, b = mixed.groups()
        return _fraction(sign, int(whole), int(a), int(b))
    return None


def _fraction(sign: str, whole: int, numerator: int, denominator: int) -> Fraction | None:
    if denominator == 0:
        return None
    return (whole + Fraction(numerator, denominator)) * (-1 if sign == "-" else 1)


def approximate(text: str) -> float | None:
    """The value of a real constant of numbers, π, fractions, roots, powers and the four operations, else None.

    None too where the text can be read in two ways (a product without a sign behind a division, a tower of powers) and
    where the value is not a finite number.
    """
    if len(text) > MAX_LENGTH:
        return None
    try:
        value = _Reader(text).read()
    except (_Unclear, ArithmeticError):
        return None
    return value if math.isfinite(value) else None


def surely_different(a: float, b: float) -> bool:
    """Whether two approximate values are so far apart that no rounding makes them equal."""
    return abs(a - b) > CERTAIN * max(1.0, abs(a), abs(b))


class _Unclear(Exception):
    """The text is no constant of the known kind."""


class _Reader:
    """Recursive descent over the tokens of one constant."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        at = 0
        for match in _TOKEN.finditer(text):
            if match.start() != at:
                raise _Unclear
            at = match.end()
            if token := match.group(1) or match.group(2) or match.group(3):
                self.tokens.append(token)
        if at != len(text):
            raise _Unclear
        self.tokens.append("")  # the end
        self.at, self.depth = 0, 0

    def read(self) -> float:
        value = self.sum()
        self.expect("")
        return value

    def peek(self) -> str:
        return self.tokens[self.at]

    def expect(self, token: str) -> None:
        if self.tokens[self.at] != token:
            raise _Unclear
        self.at += 1

    def take(self, *tokens: str) -> str:
        """The next token, consumed, if it is one of these; else an empty text."""
        found = self.tokens[self.at]
        if found not in tokens:
            return ""
        self.at += 1
        return found

    def sum(self) -> float:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Unclear
        value = self.product()
        while sign := self.take("+", "-"):
            value += self.product() if sign == "+" else -self.product()
        self.depth -= 1
        return value

    def product(self) -> float:
        sign = -1.0 if self.take("+", "-") == "-" else 1.0
        value, divided = self.power(), False
        while True:
            if self.take("*", "cdot", "times"):
                value *= self.power()
            elif self.take("/"):
                divided, value = True, value / self.power()
            elif self.peek() in ("sqrt", "pi", "("):  # a product without a sign; not 2\frac12, which is a sum
                if divided:
                    raise _Unclear
                value *= self.power()
            else:
                return sign * value

    def power(self) -> float:
        base = self.atom()
        if not self.take("^"):
            return base
        if self.peek() == "{":
            exponent = self.group("{", "}")
        else:
            digits = self.tokens[self.at]  # x^23 is x², then 3: not clear
            if len(digits) != 1 or not digits.isdigit():
                raise _Unclear
            exponent, self.at = float(digits), self.at + 1
        if self.peek() == "^" or (base < 0 and not exponent.is_integer()):
            raise _Unclear
        return float(base**exponent)

    def atom(self) -> float:
        token = self.tokens[self.at]
        if token[:1].isdigit() or token[:1] == ".":
            self.at += 1
            if self.tokens[self.at] and (self.tokens[self.at][0].isdigit() or self.tokens[self.at] in ("frac", ".")):
                raise _Unclear
            return float(token)
        if token == "(":
            return self.group("(", ")")
        if token == "{":
            return self.group("{", "}")
        self.at += 1
        if token == "pi":
            return math.pi
        if token == "frac":
            return self.group("{", "}") / self.group("{", "}")
        if token == "sqrt":
            return self.root()
        raise _Unclear

    def root(self) -> float:
        degree = self.group("[", "]") if self.peek() == "[" else 2.0
        if self.peek() == "{":
            value = self.group("{", "}")
        else:
            digits = self.tokens[self.at]
            if len(digits) != 1 or not digits.isdigit():
                raise _Unclear
            value, self.at = float(digits), self.at + 1
        if value < 0 or degree <= 0:
            raise _Unclear
        return float(value ** (1 / degree))

    def group(self, opening: str, closing: str) -> float:
        self.expect(opening)
        value = self.sum()
        self.expect(closing)
        return value
