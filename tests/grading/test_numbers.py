"""Plain numbers are read exactly, constants approximately, and nothing else; math-verify agrees."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.grading.latex import normalise
from cib_rl.grading.math import MathGrader, quick_grade
from cib_rl.grading.numbers import MAX_DEPTH, approximate, exact, surely_different


@pytest.mark.parametrize(
    "text, value",
    [
        ("72", 72),
        ("-072", -72),
        ("+7", 7),
        ("0.50", Fraction(1, 2)),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("3/4", Fraction(3, 4)),
        ("-3/4", Fraction(-3, 4)),
        (r"\frac{-3}{4}", Fraction(-3, 4)),
        (r"-\frac{3}{-4}", Fraction(3, 4)),
        (r"2\frac{1}{2}", Fraction(5, 2)),
        (r"-2\frac{1}{2}", Fraction(-5, 2)),
        ("1 1/2", Fraction(3, 2)),
        ("1.5e3", 1500),
        ("2E-3", Fraction(1, 500)),
        (r"0.\overline{3}", Fraction(1, 3)),
        (r"0.1\overline{6}", Fraction(1, 6)),
        (r"1.\overline{27}", Fraction(14, 11)),
        (r".\overline{9}", 1),
        (r"\approx 8.24", Fraction(206, 25)),
        ("9" * 2000, 10**2000 - 1),
    ],
)
def test_exact_values(text, value):
    assert exact(text) == value


NO_NUMBER = [
    "", "x", "1,2", "7 2", r"\frac{1}{0}", "1/0", "1/2/3", "10\\%", "72_8", "7²", "٧٢", "７２", "nan", "inf", "1e9999",
    "1_000", "0x48", "--5", "1.2.3", r"\frac{1}{x}", r"\pi", "2^2", "5!", "1e", "e5", "NaN", "9" * 2001,
]  # fmt: skip


@pytest.mark.parametrize("text", NO_NUMBER)
def test_what_is_no_plain_number(text):
    assert exact(text) is None


@pytest.mark.parametrize(
    "text, value",
    [
        (r"2\sqrt{3}-1", 2 * math.sqrt(3) - 1),
        (r"\frac{\sqrt{3}}{2}\pi", math.sqrt(3) / 2 * math.pi),
        (r"\sqrt[3]{8}+2^{10}", 1026),
        ("-2^2", -4),
        ("(-2)^2", 4),
        (r"6\cdot12/9", 8),
        (r"3(1+\sqrt2)", 3 + 3 * math.sqrt(2)),
        (r"\pi^2", math.pi**2),
        ("2^{-1}", 0.5),
    ],
)
def test_constants(text, value):
    assert approximate(normalise(text)) == pytest.approx(value, rel=1e-12)


NO_CONSTANT = [
    "x", "2x", r"1/2\pi", r"2\frac{x}{2}", r"2\frac{1}{2}", "2^3^2", "9^{9^{9}}", "9^{9^{9^{9}}}", "2^23", "7 2", "5!",
    "1/0", r"\frac{1}{0}", r"\sqrt{-1}", "(-8)^{1/3}", "0^{-1}", "1+", "(1", "1)", "{1", "1}", "[1]", "", "1,2", "e",
    "((((((((((((((1))))))))))))))", "1" * 201, r"\sin{1}", "10\\%", "30^\\circ", "1_2", r"\pi\%", "１", "2²",
]  # fmt: skip


@pytest.mark.parametrize("text", NO_CONSTANT)
def test_what_is_no_clear_constant(text):
    assert approximate(text) is None


def test_depth_is_bounded_not_the_interpreters_problem():
    assert approximate("(" * (MAX_DEPTH - 1) + "5" + ")" * (MAX_DEPTH - 1)) == 5
    assert approximate("(" * 99 + "5" + ")" * 99) is None
    assert approximate("-" * 199 + "5") is None


CONSTANTS = st.recursive(
    st.one_of(
        st.integers(0, 60).map(lambda n: (str(n), sympy.Integer(n))),
        st.sampled_from([(r"\pi", sympy.pi), ("2.5", sympy.Rational(5, 2))]),
    ),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: (f"({p[0][0]}+{p[1][0]})", p[0][1] + p[1][1])),
        st.tuples(inner, inner).map(lambda p: (f"({p[0][0]}-{p[1][0]})", p[0][1] - p[1][1])),
        st.tuples(inner, inner).map(lambda p: (rf"({p[0][0]}\cdot {p[1][0]})", p[0][1] * p[1][1])),
        st.tuples(inner, inner)
        .filter(lambda p: p[1][1] != 0)
        .map(lambda p: (rf"\frac{{{p[0][0]}}}{{{p[1][0]}}}", p[0][1] / p[1][1])),
        inner.filter(lambda x: x[1] >= 0).map(lambda x: (rf"\sqrt{{{x[0]}}}", sympy.sqrt(x[1]))),
        inner.map(lambda x: (f"({x[0]})^{{2}}", x[1] ** 2)),
    ),
    max_leaves=5,
)


@given(CONSTANTS)
def test_constants_have_the_value_that_sympy_gives_them(constant):
    text, value = constant
    found = approximate(normalise(text))
    assert found is None or found == pytest.approx(float(value), rel=1e-9, abs=1e-9)
    assert found is not None or len(text) > 60, text  # refusing everything would satisfy the line above


@given(st.fractions(max_denominator=500), st.fractions(max_denominator=500))
def test_fractions_are_right_exactly_when_they_are_equal(a, b):
    gold, prediction = rf"\frac{{{a.numerator}}}{{{a.denominator}}}", f"{b.numerator}/{b.denominator}"
    assert quick_grade(gold=gold, prediction=prediction) is (a == b)
    assert quick_grade(gold=gold, prediction=f"{a.numerator}/{a.denominator}") is True


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    made = MathGrader(workers=1, timeout=60.0)
    yield made
    made.close()


FORMS = [
    "0.5",
    "1/2",
    r"\frac{2}{4}",
    "0.500001",
    "0.5000001",
    "-1/2",
    r"\frac{\sqrt{4}}{4}",
    "2^{-1}",
    "5e-1",
    "50/100",
]
FORMS += [
    "0.333333",
    "1/3",
    r"0.\overline{3}",
    "0.33333",
    r"\frac{\pi}{6}",
    "0.523599",
    "0.5236",
    r"\sqrt{2}",
    "1.414214",
]
FORMS += [
    "0.0000001",
    "0.0000002",
    "1e-7",
    "10^{-7}",
    "0",
    "1 1/2",
    r"1\frac{1}{2}",
    "1.5",
    "3/2",
    r"\sqrt{9}/2",
    "-0.0",
]


def test_what_is_decided_here_is_what_math_verify_decides(grader):
    """Every pair of these: where the fast path has an opinion, the worker has the same."""
    pairs = [(a, b) for a in FORMS for b in FORMS]
    quick = [quick_grade(gold=a, prediction=b) for a, b in pairs]
    assert sum(q is not None for q in quick) > len(pairs) * 0.7
    full = grader.grade(golds=[a for a, _ in pairs], predictions=[b for _, b in pairs], fast=False)
    assert [
        (p, q, f.outcome)
        for p, q, f in zip(pairs, quick, full, strict=True)
        if q is not None and q != (f.outcome == "right")
    ] == []


@given(st.floats(0.01, 1e6), st.floats(0.0, 1e-3))
def test_values_that_agree_in_six_places_are_never_surely_different(value, error):
    assert surely_different(value, value * (1 + 10 * error)) <= (error > 1e-6)
