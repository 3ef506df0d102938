"""Where the answer is, for friendly and for hostile text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.errors import UserError
from cib_rl.grading.answers import extract_answer

STYLES = ["tag", "boxed", "hash", "last_line", r"regex:answer is (\S+)"]


@pytest.mark.parametrize(
    "style, text, answer",
    [
        ("tag", "<answer>1</answer> no, <answer> 2 </answer>", "2"),
        ("tag", "<answer>1</answer><answer>2", "1"),
        ("tag", "</answer><answer>1", None),
        ("tag", "<answer></answer>", None),
        ("tag", "no answer", None),
        ("tag", "<answer>1</answer> and </answer>", "1</answer> and"),
        ("boxed", r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("boxed", r"\boxed {x^{2}}", "x^{2}"),
        ("boxed", r"\\boxed{7}", "7"),
        ("boxed", r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        ("boxed", r"\boxed{\boxed{3}}", r"\boxed{3}"),
        ("boxed", r"\boxed{1} \boxed{2", "1"),
        ("boxed", r"\boxed{\boxed{5}", "5"),
        ("boxed", r"} { \boxed{4} }", "4"),
        ("boxed", "boxed{4}", None),
        ("hash", "12 #### 3\n#### 1,000 \nmore", "1,000"),
        ("hash", "### 3", None),
        ("last_line", "first\nlast \n\n", "last"),
        ("last_line", " \n ", None),
        (r"regex:answer is (\S+)", "the answer is 4, no: the answer is 5", "5"),
        (r"regex:\d+", "1 and 22", "22"),
        (r"regex:a(b)?c", "ac", None),
    ],
)
def test_the_last_answer_is_found(style, text, answer):
    assert extract_answer(text, style) == answer


def test_what_is_reasoned_is_no_answer():
    assert extract_answer(r"<think>\boxed{1}</think> so \boxed{2}", "boxed") == "2"
    assert extract_answer("<think><answer>1</answer></think> hm", "tag") is None
    assert extract_answer(r"\boxed{1}</think> so nothing", "boxed") is None
    assert extract_answer(r"<think> never closed \boxed{3}", "boxed") == "3"


def test_special_tokens_are_no_part_of_the_last_line():
    text = "#### 72 <|im_end|>\n<|endoftext|>"
    assert extract_answer(text, "hash", special_tokens=["<|im_end|>", "<|endoftext|>", ""]) == "72"
    assert extract_answer("<s> 5 </s></s>", "last_line", special_tokens=["<s>", "</s>"]) == "5"


@pytest.mark.parametrize(
    "style, message",
    [
        ("boxd", "unknown style 'boxd'; known: tag, boxed"),
        ("regex:(", "not a valid pattern"),
    ],
)
def test_a_wrong_style_is_an_error(style, message):
    with pytest.raises(UserError, match=message):
        extract_answer("text", style)


HOSTILE = {
    "opened boxes": r"\boxed{" * 150_000,
    "opened and closed": r"\boxed{" * 70_000 + "}" * 70_000,
    "closed": "}" * 1_000_000,
    "backslashes": "\\" * 1_000_000,
    "box and space": r"\boxed" + " " * 1_000_000,
    "opened tags": "<answer>" * 120_000,
    "closed tags": "</answer>" * 110_000,
    "hashes": "#" * 1_000_000,
    "lines": "\n" * 1_000_000,
    "null bytes": "\0" * 1_000_000,
    "surrogates": "\ud800" * 100_000,
    "thoughts": "</think>" * 125_000,
}


@pytest.mark.timeout(60)  # quadratic time would need hours: a limit for hanging, not a measurement
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_read_in_linear_time(style, name):
    answer = extract_answer(HOSTILE[name], style, special_tokens=["</s>"])
    assert answer is None or answer in HOSTILE[name]


@pytest.mark.timeout(60)
def test_a_pattern_that_explodes_is_an_error():
    with pytest.raises(UserError, match="took more than 2 s"):
        extract_answer("a" * 60 + "b", "regex:^(a|aa)+$")


@given(st.text(alphabet="ab\\{}$#<>/boxedanswer \n"), st.sampled_from(STYLES))
def test_an_answer_is_always_a_stripped_piece_of_the_text(text, style):
    answer = extract_answer(text, style)
    assert answer is None or (answer and answer in text and answer == answer.strip())


BALANCED = st.recursive(
    st.sampled_from(["1", "x", r"\{", r"\}", ""]),
    lambda inner: st.tuples(inner, inner).map(lambda pair: f"{pair[0]}{{{pair[1]}}}"),
)


@given(BALANCED, st.text("ab }", max_size=5))
def test_a_balanced_box_is_found_whole(content, tail):
    found = extract_answer(rf"so \boxed{{{content}}}{tail}", "boxed")
    assert found == (content.strip() or None)
