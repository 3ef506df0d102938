"""The task repeated is no answer: math-verify solves x + 3 = 8 and x^2 < 4 itself where it compares them with a result.

x = 5, x < 2 and -2 < x < 2 are solved: a variable stands alone on one side.
"""

from __future__ import annotations

from typing import Any

from latex2sympy2_extended.logic import And
from sympy import Eq, Set, Symbol
from sympy.core.relational import Relational


def only_restates(gold: Any, prediction: Any) -> bool:
    """Whether the gold answer is a result (a set, an interval, x = 5) and the prediction equations still to be solved.

    Args:
        gold, prediction: what math-verify has parsed.
    """
    return _is_result(gold) and isinstance(prediction, (Relational, And)) and not _is_solved(prediction)


def _is_result(value: Any) -> bool:
    if isinstance(value, Eq):
        return isinstance(value.lhs, Symbol) and not value.rhs.free_symbols
    return isinstance(value, Set)


def _is_solved(relation: Any) -> bool:
    if isinstance(relation, And):
        return all(map(_is_solved, relation.args))
    if not isinstance(relation, Relational) or not relation.free_symbols:
        return True
    sides = (relation.lhs, relation.rhs), (relation.rhs, relation.lhs)
    return any(isinstance(a, Symbol) and a not in b.free_symbols for a, b in sides)
