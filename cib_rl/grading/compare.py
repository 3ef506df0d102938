"""Are two parsed answers the same? math-verify's judgement, where kind, value and form do not already say no."""

from __future__ import annotations

import cmath
from typing import Any

from latex2sympy2_extended.logic import And
from math_verify import verify
from sympy import Basic, Eq, Expr, FiniteSet, Float, Interval, MatrixBase, Symbol, Tuple, UnevaluatedExpr, Union
from sympy import preorder_traversal as parts
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

from cib_rl.grading.numbers import CERTAIN
from cib_rl.grading.solved import only_restates

EXACT = 1e-9  # relative; expressions without decimals that differ by more are different
DIGITS = 60  # math-verify takes what is smaller than 10 to minus so many for 0
DECIMAL_DIGITS = 15  # the same where there are decimals, which are not exact to more digits


def same(gold: Any, prediction: Any) -> bool:
    """Whether the two are the same answer. May take forever, or all memory.

    Raises:
        Exception: whatever math-verify raises where it cannot compare them.
    """
    gold, prediction = _in_order(gold, prediction)
    if apart(gold, prediction) or _only_a_statement(gold, prediction):
        return False
    return equal(gold, prediction) and _equations_hold(prediction)


def equal(gold: Any, prediction: Any) -> bool:
    """math-verify's judgement, but for numbers that it takes for equal because both are close to zero."""
    digits = DECIMAL_DIGITS if _has_decimals(gold, prediction) else DIGITS
    right = verify(
        gold,
        prediction,
        numeric_precision=digits,
        allow_set_relation_comp=True,
        timeout_seconds=None,
        raise_on_error=True,
    )
    return bool(right) and not _apart_in_size(gold, prediction)


def apart(gold: Any, prediction: Any) -> bool:
    """Whether kind or value shows that they are not equal; spares the attempt to make them so by algebra."""
    gold, prediction = _one_sided(gold, prediction)
    for a, b in ((gold, prediction), (prediction, gold)):
        if _has_interval(a) and isinstance(b, (Expr, MatrixBase)):
            return True
        if isinstance(a, Union) and _has_interval(a) and isinstance(b, (FiniteSet, Tuple)):
            return True  # not for one interval: (1, 2) is read as one and may be a point
        if _is_inequality(a) and isinstance(b, (FiniteSet, Tuple)):
            return True  # 1 < x < 2 becomes the interval (1, 2), and that would equal the set of 1 and 2
    if isinstance(gold, Tuple) and len(getattr(prediction, "_unsorted_args", gold)) != len(gold):
        return True  # 3,2,2 for the point (3, 2)
    if only_restates(gold, prediction):
        return True
    values = _values(gold, prediction)
    return values is not None and abs(values[0] - values[1]) > CERTAIN * max(1.0, *map(abs, values))


def is_number(value: Any) -> bool:
    """Whether it stands for one number."""
    if not isinstance(value, Basic) or value.is_Matrix:  # (6, 3) above each other may be meant as a binomial
        return False
    return not value.free_symbols and not value.has(AppliedUndef)


def _one_sided(gold: Any, prediction: Any) -> tuple[Any, Any]:
    """Where only one of them is an equation, math-verify compares the other with y of x = y."""
    if isinstance(gold, Eq) != isinstance(prediction, Eq):
        gold, prediction = (e.rhs if isinstance(e, Eq) else e for e in (gold, prediction))
    return gold, prediction


def _in_order(gold: Any, prediction: Any) -> tuple[Any, Any]:
    """For x = 5, y = 6 the values alone must come in this order; as sets, which they are read as, they have none."""
    if isinstance(gold, FiniteSet) and isinstance(prediction, FiniteSet) and len(gold) > 1:
        named, values = gold._unsorted_args, prediction._unsorted_args
        names = {e.lhs for e in named if isinstance(e, Eq)}
        if len(names) == len(named) and not any(isinstance(e, Eq) for e in values):
            return Tuple(*(e.rhs for e in named)), Tuple(*values)
    return gold, prediction


def _only_a_statement(gold: Any, prediction: Any) -> bool:
    """5 = 6 and 1 < 2 are no sets of solutions, though SymPy reads the empty set and all numbers from them."""
    return isinstance(prediction, (Relational, And)) and not prediction.free_symbols and not isinstance(gold, Expr)


def _equations_hold(prediction: Any) -> bool:
    """False for 5 = 72, also within a set: of an equation math-verify compares only one side with a number."""
    equations = [e for e in parts(prediction) if isinstance(e, Eq)] if isinstance(prediction, Basic) else []
    return all(equal(e.lhs, e.rhs) for e in equations if is_number(e.lhs) and is_number(e.rhs))


def _values(gold: Any, prediction: Any) -> tuple[complex, complex] | None:
    """Both at one point, where both are expressions whose value decides; else None."""
    found = _at_a_point(gold, prediction)
    try:
        values = [complex(value) for value in found or ()]
    except (TypeError, ValueError, ArithmeticError):
        return None
    return (values[0], values[1]) if found and all(map(cmath.isfinite, values)) else None


def _at_a_point(gold: Any, prediction: Any) -> tuple[Expr, Expr] | None:
    both = (gold, prediction)
    if not all(isinstance(e, Expr) and not e.has(UnevaluatedExpr, AppliedUndef) for e in both):
        return None  # of sets and relations, of 10% (which math-verify takes for 10 too) and of f(x) it does not
    if any(isinstance(e, Symbol) and len(e.name) > 1 for e in both):
        return None  # text
    symbols = gold.free_symbols | prediction.free_symbols
    names = sorted({s.name for s in symbols})
    point = {s: Float(0.37 + 0.29 * names.index(s.name)) for s in symbols}
    try:
        return gold.evalf(15, subs=point), prediction.evalf(15, subs=point)
    except (TypeError, ValueError, ArithmeticError, AttributeError, NotImplementedError):
        return None  # it has no value there, as 72 mod 5 has none to sympy: nothing is known


def _apart_in_size(gold: Any, prediction: Any) -> bool:
    """Whether values differ relative to their size: math-verify takes 2^{-60} for 2^{-61}, 0.0000001 for 0.0000002."""
    found = _at_a_point(*_one_sided(gold, prediction))
    if found is None:
        return False
    if any(number._prec == 1 for value in found for number in value.atoms(Float)):
        return False  # a hidden zero, √2·√3 - √6: no digit of it is certain
    a, b = found
    tolerance = CERTAIN if _has_decimals(gold, prediction) else EXACT
    try:
        return bool(abs(a - b) > tolerance * max(abs(a), abs(b)))
    except TypeError:  # no number came out
        return False


def _has_decimals(*values: Any) -> bool:
    return any(isinstance(value, (Basic, MatrixBase)) and value.has(Float) for value in values)


def _has_interval(value: Any) -> bool:
    return isinstance(value, Interval) or (isinstance(value, Union) and any(map(_has_interval, value.args)))


def _is_inequality(value: Any) -> bool:
    if isinstance(value, And):
        return any(map(_is_inequality, value.args))
    return isinstance(value, Relational) and not isinstance(value, Eq)
