"""Every way to combine a handful of numbers into one value by exact, positive, whole-number steps.

This is the exact solver behind the problem generator (is a target reachable at all?) and the pool from which the
demonstrations draw their tries.  Steps are kept to positive whole numbers so that each one can be written out in
digits; the *checker* accepts any rational arithmetic, so a model may find solutions that are not listed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
LARGEST_STEP = 999  # results above this are never written down; they only lengthen the digit strings


@dataclass(frozen=True)
class Step:
    """One line of arithmetic, `left op right = result`."""

    left: int
    op: str
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left} {self.op} {self.right} = {self.result}"


@dataclass(frozen=True)
class Term:
    """A value together with the expression (minimal parentheses) that makes it; `precedence` is 3 for a bare number."""

    value: int
    expression: str
    precedence: int = 3


@dataclass(frozen=True)
class Derivation:
    """A complete way to use all numbers once: the steps in order, the value they end in, the whole expression."""

    steps: tuple[Step, ...]
    value: int
    expression: str


def apply(left: int, op: str, right: int) -> int | None:
    """The positive whole result of `left op right`, or None where there is none (or it passes `LARGEST_STEP`)."""
    if op == "+":
        result = left + right
    elif op == "-":
        result = left - right
    elif op == "*":
        result = left * right
    else:
        if right == 0 or left % right:
            return None
        result = left // right
    return result if 0 < result <= LARGEST_STEP else None


def join(left: Term, op: str, right: Term, result: int) -> Term:
    """The term `left op right`, with parentheses only where precedence or the left-to-right rule needs them."""
    level = PRECEDENCE[op]
    left_text = f"({left.expression})" if left.precedence < level else left.expression
    tight = right.precedence < level or (right.precedence == level and op in "-/")
    right_text = f"({right.expression})" if tight else right.expression
    return Term(result, f"{left_text} {op} {right_text}", level)


def _combine(terms: tuple[Term, ...], steps: tuple[Step, ...], found: dict[str, Derivation]) -> None:
    if len(terms) == 1:
        found.setdefault(terms[0].expression, Derivation(steps, terms[0].value, terms[0].expression))
        return
    for i in range(len(terms)):
        for j in range(i + 1, len(terms)):
            # Larger operand first: one written form per commutative step, and differences stay positive.
            high, low = (terms[i], terms[j]) if terms[i].value >= terms[j].value else (terms[j], terms[i])
            rest = tuple(term for k, term in enumerate(terms) if k not in (i, j))
            for op in "+-*/":
                if op == "/" and low.value == 1:
                    continue  # the same as multiplying by 1
                result = apply(high.value, op, low.value)
                if result is None:
                    continue
                step = Step(high.value, op, low.value, result)
                _combine((*rest, join(high, op, low, result)), (*steps, step), found)


@lru_cache(maxsize=4096)
def derivations(numbers: tuple[int, ...]) -> tuple[Derivation, ...]:
    """All derivations that use each of `numbers` exactly once, one per distinct expression.

    About 30 for three numbers, 1,000 for four, 60,000 for five; the cache is keyed by the tuple, so pass it sorted.
    """
    found: dict[str, Derivation] = {}
    _combine(tuple(Term(number, str(number)) for number in numbers), (), found)
    return tuple(found.values())


def solutions(numbers: tuple[int, ...], target: int) -> list[Derivation]:
    """The derivations of `numbers` whose value is `target` (empty when it cannot be reached by whole-number steps)."""
    return [way for way in derivations(tuple(sorted(numbers))) if way.value == target]
