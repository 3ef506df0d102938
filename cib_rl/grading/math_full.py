"""The part of grading mathematics that runs in a worker process: math-verify on two single answers.

Importing this module takes a second or two and warms math-verify up, so that no answer's time limit pays for it.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from itertools import pairwise
from typing import Any

from latex2sympy2_extended.math_normalization import NormalizationConfig
from math_verify import LatexExtractionConfig, parse

from cib_rl.grading import converter
from cib_rl.grading.compare import equal, is_number, same
from cib_rl.grading.latex import clean, different_words, for_parser, normalise, same_words, without_label
from cib_rl.grading.marks import TooDeep, balanced, check_nesting, same_marks
from cib_rl.grading.units import different_units, has_bare_letters, without_unit

# In a box of its own the whole answer is read, or nothing; otherwise any number in it might be taken. Its units are
# off: it takes the t of 3t and everything behind the first \text{} for one.
_CONFIG = LatexExtractionConfig(
    boxed_match_priority=0,
    normalization_config=NormalizationConfig(units=False, malformed_operators=True, nits=True),
)
_EQUALS = re.compile(r"==|=|\\equiv(?![a-zA-Z])")
_ABOUT = 0.1  # relative; how far the sides of ≈ may be apart

# One of each form that answers take: the parser learns its grammar from them.
_WARM_UP = (
    r"\frac{1}{2}", "0.5", r"-\frac{\sqrt{3}}{2}", r"2\sqrt{3}-1", r"(3,\frac{\pi}{2})", r"[0,1)\cup(2,\infty)", "x=5",
    "x^2+3x-1", r"\{1,2\}", "1,2", r"3\pm2\sqrt{2}", r"\text{word}", "a+b", "(a+5)(b+2)", r"30^\circ", "5x^{n+1}",
    r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\log_{2}3", r"\sin{x}", "y=2x+3", r"x\in[1,2]", "2+7i", r"\$5", "m^2",
    r"10\%", "1<x<2", r"\frac{x+1}{y}", r"2^{10}", "5!", r"\binom{n}{k}", r"x\le3", "f(x)=x+1", r"e^{\pi}",
    r"5\text{ m}",
)  # fmt: skip


class Unreadable(ValueError):
    """The gold answer cannot be parsed."""


def full_grade(*, gold: str, prediction: str) -> bool:
    """Whether math-verify finds the two equal. Runs in a worker: it may take forever, or all memory.

    A prediction that cannot be parsed is wrong.

    Raises:
        Unreadable: the gold answer cannot be parsed.
        TooDeep: one of them nests too deep to be parsed.
    """
    if without_label(gold) == gold:
        prediction = without_label(prediction)
    variables = has_bare_letters(gold)
    expected = _parse_gold(gold, bare_units=False, kept=gold)
    if not expected:
        raise Unreadable(f"the gold answer {gold[:80]!r} cannot be read")
    words = normalise(gold), normalise(prediction)
    if same_words(*words):
        return True
    if different_words(*words) or not same_marks(gold, prediction) or different_units(clean(gold), clean(prediction)):
        return False
    actual = _parse(prediction, bare_units=not variables, kept=gold)
    return bool(actual) and same(expected[0], actual[0]) and _sides_agree(prediction, "=" in gold)


def _sides_agree(prediction: str, gold_is_equation: bool) -> bool:
    """False for 5 = 72. Of an equation math-verify compares only the last side: fine for x = 72 and a + b = 72.

    Sides without a variable are compared here; those that cannot be read are passed over.
    """
    for part in re.split("[,;]", clean(prediction)):
        *sides, last = _EQUALS.split(part)
        value = _parse(last) if sides else []
        if value and (is_number(value[0]) or not gold_is_equation):
            numbers = [side[0] for side in map(_parse, sides) if side and is_number(side[0])]
            if not all(equal(value[0], number) for number in numbers):
                return False
        if not all(_about_the_same(a, b) for a, b in pairwise(part.split("\\approx"))):
            return False
    return True


def _about_the_same(before: str, after: str) -> bool:
    sides = [_parse(_EQUALS.split(before)[-1]), _parse(_EQUALS.split(after)[0])]
    if not all(side and is_number(side[0]) for side in sides):
        return True
    a, b = (side[0].evalf(15) for side in sides)
    return bool(abs(a - b) <= _ABOUT * max(abs(a), abs(b)))


def _parse(answer: str, *, bare_units: bool = True, kept: str = "") -> list[Any]:
    """The parsed answer in a list, which is empty when it cannot be read."""
    text = for_parser(without_unit(clean(answer), bare=bare_units, kept=kept))
    if not text or not balanced(text):
        return []  # open braces would be read as anything
    check_nesting(text)
    try:
        return list(parse(f"\\boxed{{{text}}}", [_CONFIG], "no_fallback", "first_match", parsing_timeout=None))
    except converter.Exhausted as limit:
        if isinstance(limit.__cause__, MemoryError):
            raise MemoryError from None
        raise TooDeep("it nests too deep for the parser") from None


_parse_gold = lru_cache(maxsize=4096)(_parse)

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own time limits are off
converter.install()
for form in _WARM_UP:
    full_grade(gold=form, prediction="1/3")
