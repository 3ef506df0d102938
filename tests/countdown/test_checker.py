"""The checker: exact, each number once, and no text can hurt it."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.countdown.checker import MAX_DEPTH, answer_text, check, check_completion


@pytest.mark.parametrize(
    ("expression", "numbers", "target"),
    [
        ("(12 - 3) * 8", [3, 8, 12], 72),
        ("12-3*8+20", [3, 8, 12, 20], 8),
        ("8 / 3 * 3", [3, 3, 8], 8),  # rational on the way
        ("8 / (3 - 8 / 3)", [3, 3, 8, 8], 24),
        ("1 - (2 - 3)", [1, 2, 3], 2),
        ("20 - 5 - 3", [20, 5, 3], 12),  # left to right
        ("24 / 4 / 2", [24, 4, 2], 3),
        ("((7))", [7], 7),
        ("2 + 3 * 4", [2, 3, 4], 14),  # precedence
    ],
)
def test_right_answers(expression, numbers, target):
    assert check(expression, numbers, target).right


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("3 + 8 + 12", "result 23 is not the target 72"),
        ("(12 - 3) * 8 * 1", "numbers not given or used too often: 1"),
        ("(12 - 3) * 8 + 8 - 8", "used too often: 8, 8"),
        ("9 * 8", "numbers not used: 3, 12; not given or used too often: 9"),
        ("12 * 8", "not used: 3"),
        ("", "malformed: empty"),
        ("   ", "malformed: empty"),
        ("(12 - 3 * 8", "malformed: a '(' is not closed"),
        ("12 - 3) * 8", "malformed: ')' after the end"),
        ("12 -", "malformed: it ends too early"),
        ("12 3 8", "malformed: '3' after the end"),
        ("-3 + 12 * 8", "malformed: expected a number or '(', found '-'"),
        ("12 ** 3 - 8", "malformed: expected a number or '(', found '*'"),
        ("12 // 3 + 8", "malformed"),
        ("8 / (12 - 12) + 3", "malformed: division by zero"),
        ("(12 - 3) * 8 = 72", "malformed: '=' is not part"),
        ("(12 - 3) * 8.0", "malformed: '.' is not part"),
        ("__import__('os')", "malformed: '__import__"),
        ("(12 - 3) × 8", "malformed: '×' is not part"),
        ("(12 - 3) * ٨", "malformed: '٨' is not part"),  # a digit, but not one of ours
        ("1" * 500, "malformed: longer than 200"),
        ("(" * 99 + "3" + ")" * 99, f"malformed: more than {MAX_DEPTH} nested"),
    ],
)
def test_wrong_answers_say_why(expression, reason):
    verdict = check(expression, [3, 8, 12], 72)
    assert not verdict.right and reason in verdict.reason


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> tuple[str, Fraction | None]:
    """A random expression and the value that Python's own fractions give it (None: division by zero)."""
    if depth == 0 or draw(st.booleans()):
        number = draw(st.integers(0, 20))
        return str(number), Fraction(number)
    (left, a), (right, b) = draw(expressions(depth - 1)), draw(expressions(depth - 1))
    op = draw(st.sampled_from("+-*/"))
    text = f"({left}) {op} ({right})" if draw(st.booleans()) else f"({left}){op}({right})"
    if a is None or b is None or (op == "/" and b == 0):
        return text, None
    return text, {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else Fraction(0)}[op]


@given(expressions())
def test_values_are_those_of_exact_arithmetic(case):
    text, value = case
    verdict = check(text, [], 10**6)
    if len(text) > 200:
        assert "longer" in verdict.reason
    else:
        assert verdict.value == value


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(0, 4), st.data())
def test_no_expression_that_uses_a_number_twice_is_right(numbers, index, data):
    twice = [*numbers, numbers[index % len(numbers)]]
    signs = data.draw(st.lists(st.sampled_from("+-*/"), min_size=len(numbers), max_size=len(numbers)))
    text = str(twice[0]) + "".join(f" {sign} {number}" for sign, number in zip(signs, twice[1:], strict=True))
    value = check(text, twice, 0).value
    target = int(value) if value is not None and value.denominator == 1 else 7
    verdict = check(text, numbers, target)
    assert not verdict.right and "used too often" in verdict.reason
    assert Counter(twice) != Counter(numbers)


@given(st.text(max_size=300), st.lists(st.integers(0, 99), max_size=5), st.integers(0, 99))
def test_no_text_raises(text, numbers, target):
    check(text, numbers, target)
    check_completion(text, numbers, target)


@given(st.text(alphabet="0123456789+-*/() ", max_size=60))
def test_no_arithmetic_looking_text_raises(text):
    check(text, [1, 2, 3], 6)


def test_the_answer_is_the_last_one_after_the_reasoning():
    assert answer_text(" x </think> <answer> 1 + 2 </answer>") == "1 + 2"
    assert answer_text(" <answer> 9 </answer> </think> <answer> 1 </answer> <answer> 2 </answer>") == "2"


@pytest.mark.parametrize(
    "completion",
    ["", "12 * 3", " <answer> 3 + 9 </answer>", " </think> <answer> 3 + 9", " <answer> 3 + 9 </answer> </think>"],
)
def test_without_a_closed_answer_after_the_reasoning_a_completion_is_wrong(completion):
    verdict = check_completion(completion, [3, 9], 12)
    assert not verdict.right and verdict.reason.startswith("no answer")
