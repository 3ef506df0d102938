"""The part of grading mathematics that runs in a worker process: math-verify on two single answers.

Importing this module takes a second or two and warms math-verify up, so that no answer's time limit pays for it.
"""

from __future__ import annotations

import cmath
import logging
import re
from functools import lru_cache
from typing import Any

from latex2sympy2_extended.logic import And
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic, Eq, Expr, FiniteSet, Float, Interval, MatrixBase, Symbol, Tuple, UnevaluatedExpr, Union
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

from cib_rl.grading import fast_parser
from cib_rl.grading.latex import clean, different_words, for_parser, normalise, without_label
from cib_rl.grading.numbers import CERTAIN
from cib_rl.grading.solved import only_restates

# In a box of its own the whole answer is read, or nothing; otherwise any number in it might be taken.
_CONFIG = LatexExtractionConfig(boxed_match_priority=0)
_BASE = re.compile(r"\d_\{?(\d+)\}?")
_TWO_NUMBERS = re.compile(r"\d +[\d.]")

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

    A prediction that cannot be parsed is wrong; a gold answer that cannot be parsed raises Unreadable.
    """
    if without_label(gold) == gold:
        prediction = without_label(prediction)
    expected = _parse_gold(gold)
    if not expected:
        raise Unreadable(f"the gold answer {gold[:80]!r} cannot be read")
    actual = _parse(prediction)
    if not actual or not _same_bases(gold, prediction) or different_words(normalise(gold), normalise(prediction)):
        return False
    if all(_apart(g, p) for g in expected for p in actual):
        return False
    return _equal(expected, actual) and ("=" in gold or _sides_agree(prediction))


def _equal(expected: list[Any], actual: list[Any]) -> bool:
    right = bool(verify(expected, actual, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True))
    return right and not any(_apart_in_decimals(g, p) for g in expected for p in actual)


def _values(gold: Any, prediction: Any) -> tuple[complex, complex] | None:
    """Both at one point, where both are expressions whose value decides; else None."""
    both = (gold, prediction)
    if not all(isinstance(e, Expr) and not e.has(UnevaluatedExpr, AppliedUndef) for e in both):
        return None  # of sets and relations, of 10% (which math-verify takes for 10 too) and of f(x) it does not
    if any(isinstance(e, Symbol) and len(e.name) > 1 for e in both):
        return None  # text
    symbols = gold.free_symbols | prediction.free_symbols
    names = sorted({s.name for s in symbols})
    point = {s: Float(0.37 + 0.29 * names.index(s.name)) for s in symbols}
    try:
        values = [complex(e.evalf(15, subs=point)) for e in both]
    except (TypeError, ValueError, ArithmeticError, AttributeError, NotImplementedError):
        return None  # it has no value there, as 72 mod 5 has none to sympy: nothing is known
    return (values[0], values[1]) if all(map(cmath.isfinite, values)) else None


def _apart(gold: Any, prediction: Any) -> bool:
    """Whether kind or value shows that they are not equal; spares the attempt to make them so by algebra."""
    if isinstance(gold, Eq) != isinstance(
        prediction, Eq
    ):  # math-verify compares the other side's value with y of x = y
        gold, prediction = (e.rhs if isinstance(e, Eq) else e for e in (gold, prediction))
    for a, b in ((gold, prediction), (prediction, gold)):
        if _has_interval(a) and isinstance(b, (Expr, MatrixBase)):
            return True
        if isinstance(a, Union) and _has_interval(a) and isinstance(b, (FiniteSet, Tuple)):
            return True  # not for one interval: (1, 2) is read as one and may be a point
        if _is_inequality(a) and isinstance(b, (FiniteSet, Tuple)):
            return True  # 1 < x < 2 becomes the interval (1, 2), and that would equal the set of 1 and 2
    if only_restates(gold, prediction):
        return True
    values = _values(gold, prediction)
    return values is not None and abs(values[0] - values[1]) > CERTAIN * max(1.0, *map(abs, values))


def _has_interval(value: Any) -> bool:
    return isinstance(value, Interval) or (isinstance(value, Union) and any(map(_has_interval, value.args)))


def _is_inequality(value: Any) -> bool:
    if isinstance(value, And):
        return any(map(_is_inequality, value.args))
    return isinstance(value, Relational) and not isinstance(value, Eq)


def _apart_in_decimals(gold: Any, prediction: Any) -> bool:
    """Whether decimals are not the same number: math-verify compares six places, 0.0000001 with 0.0000002 too."""
    if not any(isinstance(e, Basic) and e.has(Float) for e in (gold, prediction)):
        return False
    values = _values(gold, prediction)
    return values is not None and abs(values[0] - values[1]) > CERTAIN * max(map(abs, values))


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
    text = for_parser(clean(answer))
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
fast_parser.install()
for form in _WARM_UP:
    full_grade(gold=form, prediction="1/3")
