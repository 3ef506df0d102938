"""What latex2sympy passes over but a reader does not: bases, primes, kinds of brackets, how deep it nests.

Only the text is looked at, in time linear in its length.
"""

from __future__ import annotations

import re

MAX_NESTING = 20  # gold answers nest 4 deep; ANTLR takes seconds for 20 levels of powers, and minutes for 100


class TooDeep(ValueError):
    """The answer nests too deep to be parsed."""


_BASE = re.compile(r"\d\)? ?_ ?(\{(?:[^{}]|\{[^{}]*\})*\}|\\?[a-zA-Z0-9]+)")
_BASE_WORDS = dict(two="2", three="3", four="4", five="5", six="6", seven="7", eight="8", nine="9", ten="10")
_PRIMES = re.compile(r"[A-Za-z)]('+)")
_TEXT = re.compile(r"\\(?:text|mathrm|mbox)\{[^{}]*\}")
_NAMED = re.compile(r"^[^()\[\]{}]*(?:=|\\in(?![a-z]))")
_PAIRS = {"(": ")", "[": "]", "{": "}"}


def check_nesting(text: str) -> None:
    """Raises TooDeep where more than `MAX_NESTING` brackets, of any kind, stand open at once."""
    depth = 0
    for bracket in re.findall(r"[()\[\]{}]", text):
        depth = depth + 1 if bracket in "([{" else max(0, depth - 1)
        if depth > MAX_NESTING:
            raise TooDeep(f"more than {MAX_NESTING} brackets inside each other")


def balanced(text: str) -> bool:
    """Whether every brace that is not escaped is closed, in order."""
    depth = 0
    for token in re.findall(r"\\.|[{}]", text, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(token, 0)
        if depth < 0:
            return False
    return depth == 0


def same_marks(gold: str, prediction: str) -> bool:
    """Whether bases (72_8), primes (y') and the brackets around all of it ((1,2), [1,2], {1,2}) agree."""
    return (
        _same_bases(gold, prediction)
        and ("=" in gold + prediction or _primes(gold) == _primes(prediction))
        and (None in (around := (_around(gold), _around(prediction))) or around[0] == around[1])
    )


def _same_bases(gold: str, prediction: str) -> bool:
    # Only an answer that names another base is another number; the problem may have said which.
    first, second = (list(map(_base, _BASE.findall(text))) for text in (gold, prediction))
    return second in ([], first) or (not first and all(base.isdigit() for base in second))


def _base(subscript: str) -> str:
    word = re.sub(r"\\(?:text|mathrm|mbox)|[{}\s]", "", subscript).lower()
    return _BASE_WORDS.get(word, word)


def _primes(text: str) -> list[str]:
    return sorted(_PRIMES.findall(_TEXT.sub("", text)))


def _around(text: str) -> str | None:
    """The pair of brackets that encloses a list, as in (1,2] and x = {1,2}; None where there is none."""
    body = _NAMED.sub("", text).strip()
    opened: list[str] = []
    commas = False
    for match in re.finditer(r"\\?[()\[\]{}]|,", body):
        mark = match.group()
        if mark == ",":
            commas |= len(opened) == 1
        elif mark[-1] in _PAIRS:
            if not opened and match.start() > 0:
                return None
            opened.append(mark)
        elif len(opened) > 1:
            opened.pop()
        else:
            whole = match.end() == len(body) and opened not in ([], ["{"])  # {1,2} is shown as 1,2
            return opened[0] + mark if whole and commas else None
    return None
