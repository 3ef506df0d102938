"""What latex2sympy passes over is compared as text."""

from __future__ import annotations

import pytest

from cib_rl.grading.marks import MAX_NESTING, TooDeep, balanced, check_nesting, same_marks


def test_nesting_is_counted_over_all_brackets():
    check_nesting("([{" * (MAX_NESTING // 3) + "}])" * (MAX_NESTING // 3) + "()" * 500)
    with pytest.raises(TooDeep, match=f"more than {MAX_NESTING} brackets"):
        check_nesting("([{" * MAX_NESTING)


@pytest.mark.parametrize("text, so", [("{a}{b}", True), (r"\{a", True), ("{", False), ("}{", False), (r"{\}", False)])
def test_braces_are_balanced_in_order(text, so):
    assert balanced(text) is so


@pytest.mark.parametrize(
    "gold, prediction, agree",
    [
        ("72_8", "72_{8}", True),
        ("72_8", r"(72)_{\text{eight}}", True),
        ("72_8", "72", True),
        ("72", "72_8", True),
        ("72_8", "72_9", False),
        ("72", "72_x", False),
        ("x_1", "x_2", True),
        ("y'", "y''", False),
        (r"\text{Bob's}", r"\text{Bobs}", True),
        ("f'(2)=3", "3", True),
        ("(1,2)", "[1,2]", False),
        ("(1,2]", r"x\in(1,2]", True),
        (r"x=\{1,2\}", "(1,2)", False),
        (r"\{1,2\}", "1,2", True),
        (r"\{1,2\}", "{1,2}", True),
        ("(1)", "[1]", True),
        (r"\{(1,2),(3,4)\}", "(1,2),(3,4)", True),
        ("f(1,2)", "[1,2]", True),
    ],
)
def test_bases_primes_and_outer_brackets(gold, prediction, agree):
    assert same_marks(gold, prediction) is agree
