"""Two-stage parsing reads what the plain parser reads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sympy
from antlr4.atn.PredictionMode import PredictionMode
from hypothesis import given
from hypothesis import strategies as st
from latex2sympy2_extended import latex2sympy2
from math_verify.parser import extract_latex, parse_latex_cached

from cib_rl.grading import fast_parser, math_full

PLAIN = fast_parser._Converter


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    before = latex2sympy2._Latex2Sympy
    yield
    latex2sympy2._Latex2Sympy = before


def read(text: str, converter: type) -> list[str]:
    """What math-verify makes of the text with this converter, without its memory of earlier ones."""
    latex2sympy2._Latex2Sympy = converter
    extract_latex.cache_clear()
    parse_latex_cached.cache_clear()
    try:
        return [sympy.srepr(part) for part in math_full._parse(text)]
    except Exception as error:
        return [type(error).__name__]


ATOMS = st.sampled_from(["1", "2.5", "x", "y", r"\pi", "n_1", "0", "t"])
FORMS = [
    "{}+{}", "{}-{}", "{}{}", r"{}\cdot {}", "{}^{{{}}}", r"\frac{{{}}}{{{}}}", r"\sqrt[{}]{{{}}}", "({},{})",
    "[{},{})", "{}={}", r"{}\le {}", "{},{}", r"\{{{},{}\}}", r"({},{})\cup(5,6)", r"\binom{{{}}}{{{}}}", r"{}\pm {}",
    "f({})={}",
    r"\begin{{pmatrix}}{}\\{}\end{{pmatrix}}", r"|{}|+{}", r"\log_{{{}}}{{{}}}", "{}({}", r"\sin{{{}}}{}", "-{}/{}",
]  # fmt: skip
TEXTS = st.recursive(
    ATOMS, lambda inner: st.builds(lambda f, a, b: f.format(a, b), st.sampled_from(FORMS), inner, inner), max_leaves=4
)


@given(TEXTS)
def test_it_reads_what_the_plain_parser_reads(text):
    assert read(text, fast_parser.TwoStage) == read(text, PLAIN)


def test_full_prediction_follows_an_error_and_only_then():
    modes = []

    class Watched(fast_parser.TwoStage):
        def create_parser(self, latex_str):
            parser = super().create_parser(latex_str)
            modes.append(parser._interp.predictionMode)
            return parser

    Watched().parse(r"\frac{1}{2}+x")
    assert modes == [PredictionMode.SLL]
    with pytest.raises(Exception, match=r"expected|understand"):
        Watched().parse(r"\frac{1}{")
    assert modes[1:] == [PredictionMode.SLL, PredictionMode.LL]
