"""Formulas are read as a reader would, in the process that has the converter installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sympy
from latex2sympy2_extended import latex2sympy2
from math_verify import grader

from cib_rl.grading import converter, math_full
from cib_rl.grading.marks import TooDeep

A, X = sympy.symbols("A x", real=True)


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    before = latex2sympy2._Latex2Sympy
    converter.install()
    yield
    latex2sympy2._Latex2Sympy = before


@pytest.mark.parametrize(
    "text, value",
    [
        ("2(3)", 6),
        ("(2)(3)", 6),
        ("2(3)(4)", 24),
        (r"2\frac{1}{2}", sympy.Rational(5, 2)),
        (r"-2\frac{1}{2}", sympy.Rational(-5, 2)),
        (r"2\frac{x}{2}", X),
        ("8(1/2)", 4),
        (r"2\binom{3}{1}", 6),
        ("2(3)x", 6 * X),
        ("2A-2a", 2 * A - 2 * sympy.Symbol("a", real=True)),
    ],
)
def test_products_without_a_sign(text, value):
    (found,) = math_full._parse(text)
    assert sympy.simplify(found.doit() - value) == 0


@pytest.mark.parametrize("text", ["7 2", "7{2}", r"7\ldots2", r"x+7\,2"])
def test_two_numbers_side_by_side_are_nothing(text):
    assert math_full._parse(text) == []


def test_the_parser_converts_each_level_once():
    """Twice at each level would be a million times here."""
    assert math_full._parse("(" * 20 + "x" + ")" * 20) == [X]


def test_what_runs_out_in_the_parser_is_no_unreadable_answer(monkeypatch):
    for error, told in ((MemoryError, MemoryError), (RecursionError, TooDeep)):
        monkeypatch.setattr(converter.Converter, "convert_add", lambda *_, e=error: (_ for _ in ()).throw(e))
        with pytest.raises(told):
            math_full._parse(f"{error.__name__}+1")


def test_equations_without_solutions_are_not_compared():
    x = sympy.Symbol("x")
    assert grader.solve(sympy.Eq(x, 2), [x]) == [2] or grader.solve(sympy.Eq(x, 2), [x]) == [{x: 2}]
    with pytest.raises(ValueError, match="no solutions"):
        grader.solve(sympy.Eq(x, x + 1, evaluate=False), [x])
