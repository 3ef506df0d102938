"""One way of writing: what is taken out, what is written out, and what must stay."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.grading.latex import (
    braced_fractions,
    clean,
    different_words,
    for_parser,
    normalise,
    same_words,
    unboxed,
    without_label,
)
from cib_rl.grading.numbers import exact


@pytest.mark.parametrize(
    "text, clean_text",
    [
        (" $ 72 $ ", "72"),
        (r"\left( 3 , \dfrac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        ("1,234,567.5", "1234567.5"),
        ("1{,}000", "1000"),
        (r"5,\!525", "5525"),
        (r"12\,345", "12345"),
        ("x=58,500", "x=58500"),
        ("f(1,2) = 58,500.", "f(1,2)=58500"),
        (r"x=58{,}500\text{ m}", r"x=58500\text{m}"),
        ("x=5,10", "x=5,10"),
        ("-1 234 567.5", "-1234567.5"),
        ("1 2345", "1 2345"),
        ("1 234/500", "1 234/500"),
        ("1,2", "1,2"),
        ("12,34", "12,34"),
        (r"x\,y", "x y"),
        ("72.", "72"),
        ("(E),", "(E)"),
        ("(-073)", "-073"),
        ("(1,2)", "(1,2)"),
        ("(x)", "(x)"),
        (r"\text{(12)}", "12"),
        (r"\$18.90", "18.90"),
        ("90^{\\circ}", r"90^\circ"),
        ("90 °", r"90^\circ"),
        ("−3×4", r"-3\times 4"),
        (r"\leftarrow", r"\leftarrow"),
        (r"a\rightarrow b", r"a\rightarrow b"),
        ("1 1/2", "1 1/2"),
        ("7 2", "7 2"),
        (r"5\quad 6", "5 6"),
        ("**15**", "15"),
        ("`15`", "15"),
        ("$", ""),
        ("", ""),
    ],
)
def test_clean(text, clean_text):
    assert clean(text) == clean_text


@pytest.mark.parametrize(
    "text, braced",
    [
        (r"\dfrac 3 8", r"\frac{3}{8}"),
        (r"\frac12", r"\frac{1}{2}"),
        (r"\frac\pi 4", r"\frac{\pi}{4}"),
        (r"\frac 1{72}", r"\frac{1}{72}"),
        (r"\frac{1}{2}", r"\frac{1}{2}"),
        (r"\frac\frac12 3", r"\frac\frac{1}{2} 3"),
        (r"\fraction 1", r"\fraction 1"),
        (r"1+\tfrac1x-\frac ab", r"1+\frac{1}{x}-\frac{a}{b}"),
        (r"\frac", r"\frac"),
        (r"\frac1", r"\frac{1}"),
    ],
)
def test_fractions_get_their_braces(text, braced):
    assert braced_fractions(text) == braced


@pytest.mark.parametrize(
    "text, value",
    [
        (r"\textbf{(D) }194", "194"),
        (r"$\text{(A)} \: x+1$", "x+1"),
        (r"\mathrm{(B)}~5", "5"),
        (r"(\textbf{C}) 9", "9"),
        ("(D) 9", "9"),
        (r"9\ \textbf{(D)}", "9"),
        (r"$\frac{1}{2} \implies \text{(Choice D)}.$", r"\frac{1}{2}"),
        ("9 (D)", "9 (D)"),
        (r"\textbf{(D)}", r"\textbf{(D)}"),
        (r"\textbf{(D)}\ .", r"\textbf{(D)}\ ."),
        ("(D)9", "(D)9"),
        ("(D)", "(D)"),
        ("(X) 9", "(X) 9"),
        ("A 9", "A 9"),
    ],
)
def test_a_choices_label_is_taken_off_where_there_is_a_value(text, value):
    assert normalise(without_label(text)) == normalise(value)


@pytest.mark.parametrize(
    "text, written_out",
    [
        (r"0.\overline{3}", r"\frac{3}{9}"),
        (r"2.1\overline{6}", r"\frac{195}{90}"),
        (r".\bar{7}", r"\frac{7}{9}"),
        ("1.5e-3", r"1.5\cdot 10^{-3}"),
        ("2e", "2e"),
        (r"\sin^2 t", r"\sin^2{t}"),
        (r"\sin t\cos t", r"\sin{t}\cos{t}"),
        (r"\sin x^2", r"\sin x^2"),
        (r"\sin(t)", r"\sin(t)"),
        (r"\sin 30^\circ", r"\sin{\frac{30\pi}{180}}"),
        (r"2\cos^{2}(1.5^\circ)", r"2\cos^{2}{\frac{1.5\pi}{180}}"),
        (r"30^\circ", r"30^\circ"),
        (r"1+\ldots+9", r"1+\Xi+9"),
        (r"1,\ldots,9", r"1,\ldots,9"),
        (r"m_{\max}", "m_{max}"),
        (r"a_\min", "a_{min}"),
        (r"\approx 8", "8"),
        ("1 1/2", r"1\frac{1}{2}"),
    ],
)
def test_shorthand_is_written_out(text, written_out):
    assert for_parser(text) == written_out


def test_repeating_decimals_have_the_right_value():
    for whole, fixed, period in [(0, "", "3"), (12, "0", "45"), (3, "17", "006"), (0, "", "142857")]:
        repeated = Fraction(int(f"{whole}{fixed}{period * 30}"), 10 ** (len(fixed) + 30 * len(period)))
        value = exact(rf"{whole}.{fixed}\overline{{{period}}}")
        assert value is not None and 0 < value - repeated < Fraction(1, 10**25)


@pytest.mark.parametrize(
    "a, b, different",
    [
        ("blue", "lueb", True),
        ("no", "on", True),
        ("blue", "Blue", False),
        ("abc", "cab", False),
        ("xy", "yx", False),
        ("x", "y", False),
        ("blue", "2", False),
    ],
)
def test_words_are_no_products(a, b, different):
    assert different_words(a, b) is different and different_words(b, a) is different


@pytest.mark.parametrize(
    "a, b, same",
    [
        ("Evelyn", "evelyn", True),
        ("red dog", "Red Dog", True),
        ("no", "No", True),
        ("B", "b", True),
        ("R", "r", False),
        ("Rr", "rr", False),
        ("AB", "ab", True),
        ("blue", "lueb", False),
        ("1a", "1A", False),
    ],
)
def test_words_are_the_same_in_either_case_and_symbols_are_not(a, b, same):
    assert same_words(a, b) is same and same_words(b, a) is same


@pytest.mark.parametrize(
    "text, left",
    [
        (r"\boxed{72}", "72"),
        (r"The answer is \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\[ \boxed{\boxed{x}} \]", "x"),
        (r"\boxed{1} or \fbox{2}", "1,2"),
        (r"not \boxed{72}", "not {72}"),
        (r"5=\boxed{72}", "5=72"),
        (r"73\boxed{72}", "73{72}"),
        (r"\boxed{72}+1", "{72}+1"),
        (r"\boxed{72", r"\boxed{72"),
        (r"\mbox{four}", r"\mbox{four}"),
    ],
)
def test_boxes_are_taken_off_and_what_stands_around_them_counts(text, left):
    assert unboxed(text) == left


PIECES = [
    "1",
    "23",
    "x",
    " ",
    r"\frac",
    r"\dfrac",
    "{",
    "}",
    "(",
    ")",
    r"\text{",
    r"\left",
    "$",
    r"\$",
    ",",
    ".",
    "^",
    "°",
    r"\!",
    r"\ ",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_cleaning_ends_and_never_makes_a_digit(text):
    digits = [c for c in clean(text) if c.isdigit()]
    assert digits == [c for c in text if c.isdigit()]
