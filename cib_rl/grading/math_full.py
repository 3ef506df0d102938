"""The part of grading mathematics that runs in a worker process: math-verify on two single answers.

Importing this module takes a second and warms math-verify up, so that no answer's time limit pays for it.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic
from sympy.core.function import AppliedUndef

from cib_rl.grading.math import MIXED, clean

# In a box of its own the whole answer is read, or nothing; otherwise any number in it might be taken.
_CONFIG = LatexExtractionConfig(boxed_match_priority=0)
_BASE = re.compile(r"\d_\{?(\d+)\}?")
_TWO_NUMBERS = re.compile(r"\d +[\d.]")


class Unreadable(ValueError):
    """The gold answer cannot be parsed."""


def full_grade(*, gold: str, prediction: str) -> bool:
    """Whether math-verify finds the two equal. Runs in a worker: it may take forever, or all memory.

    A prediction that cannot be parsed is wrong; a gold answer that cannot be parsed raises Unreadable.
    """
    expected = _parse_gold(gold)
    if not expected:
        raise Unreadable(f"the gold answer {gold[:80]!r} cannot be read")
    actual = _parse(prediction)
    if not actual or not _same_bases(gold, prediction):
        return False
    return _equal(expected, actual) and ("=" in gold or _sides_agree(prediction))


def _equal(expected: list[Any], actual: list[Any]) -> bool:
    return bool(verify(expected, actual, timeout_seconds=None, raise_on_error=True))


def _sides_agree(prediction: str) -> bool:
    """False for 5 = 72. Of an equation math-verify compares only the last side: fine for x = 72 and a + b = 72.

    Sides without a variable are compared here; several equations (with a comma) are compared as a set by math-verify.
    """
    *sides, last = prediction.split("=")
    if not sides or "," in prediction:
        return True
    value = _parse(last)
    return all(_equal(value, side) for side in map(_parse, sides) if side and _is_number(side[0]))


def _is_number(value: Any) -> bool:
    return isinstance(value, Basic) and not value.free_symbols and not value.has(AppliedUndef)


def _same_bases(gold: str, prediction: str) -> bool:
    # math-verify drops the subscript of 72_8; only an answer that names another base is another number.
    first, second = _BASE.findall(gold), _BASE.findall(prediction)
    return not first or not second or first == second


def _parse(answer: str) -> list[Any]:
    """The parsed answer in a list, which is empty when it cannot be read."""
    text = clean(answer).replace("$", "")
    text = MIXED.sub(lambda m: m.group(1) + (m.group(4) or f"\\frac{{{m.group(2)}}}{{{m.group(3)}}}"), text)
    if not text or _TWO_NUMBERS.search(text) or not _balanced(text):
        return []  # two numbers side by side would be read as their sum, open braces as anything
    boxed = f"\\boxed{{{text}}}"
    return list(parse(boxed, [_CONFIG], "no_fallback", "first_match", parsing_timeout=None))


_parse_gold = lru_cache(maxsize=4096)(_parse)


def _balanced(text: str) -> bool:
    depth = 0
    for token in re.findall(r"\\.|[{}]", text, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(token, 0)
        if depth < 0:
            return False
    return depth == 0


logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own time limits are off
full_grade(gold="\\frac{1}{2}", prediction="0.5")
