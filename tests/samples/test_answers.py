"""Finding the style of answers, and the shortest piece of a completion that states its answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.grading.answers import extract_answer
from cib_rl.samples.answers import likely_style, statement

GSM = r"regex:(?m)^A: *(.+)$"
STATED = {
    "tag": ("<answer> 42 </answer>", "tag"),
    "boxed": (r"\boxed{42}", "boxed"),
    "hash": ("#### 42", "hash"),
    "line": ("A: 42", GSM),
    "react": ("Action: finish[42]", r"regex:(?m)finish\[(.*)\]"),
    "words": ("So the answer is: 42.", r"regex:(?im)\banswer is:? *(.+?)\.?$"),
}
# What of a statement is needed to read its answer.
NEEDED = {name: stated for name, (stated, _) in STATED.items()} | {"react": "finish[42]", "words": "answer is: 42"}


@pytest.mark.parametrize("name", STATED)
def test_the_style_is_the_one_that_finds_most_answers(name):
    stated, style = STATED[name]
    texts = [f"Some steps.\n{stated}", f"Other steps.\n{stated}", "cut off in the mid"]
    assert likely_style(texts) == (style, pytest.approx(2 / 3))


def test_without_any_known_mark_the_last_line_is_the_answer():
    assert likely_style(["so it is\n42", "I say\n43"]) == ("last_line", 1.0)


@pytest.mark.parametrize("name", STATED)
def test_the_statement_is_cut_out_exactly(name):
    stated, style = STATED[name]
    text = f"First 40 + 2 = 42.\n{stated}\n"
    start, end = statement(text, style)
    assert text[start:end] == NEEDED[name]


def test_an_answer_in_words_is_read_only_where_marks_are_rare():
    both = [rf"The answer is \boxed{{{i}}}" for i in range(3)]
    assert likely_style([*both, "The answer is 4", "The answer is 5"]) == ("boxed", pytest.approx(0.6))
    style, share = likely_style([both[0], "the answer is 4", "The answer is 5", "none"])
    assert style == STATED["words"][1] and share == pytest.approx(0.75)


def test_of_several_statements_it_is_the_one_that_counts():
    text = r"so \boxed{41}, no: \boxed{\frac{84}{2}} indeed"
    start, end = statement(text, "boxed")
    assert text[start:end] == r"\boxed{\frac{84}{2}}"


def test_there_is_no_statement_without_an_answer():
    assert statement("nothing here", "boxed") is None


@given(
    before=st.text(alphabet="ab 12.\n#{}\\", max_size=40),
    answer=st.text(alphabet="0123456789/x", min_size=1, max_size=8),
    after=st.text(alphabet="ab 12.\n", max_size=20),
    name=st.sampled_from(sorted(STATED)),
)
def test_a_statement_says_the_answer_of_the_whole_and_no_shorter_end_does(before, answer, after, name):
    stated, style = STATED[name]
    text = f"{before}\n{stated.replace('42', answer)}\n{after}"
    found = statement(text, style)
    read = extract_answer(text, style)
    assert (found is None) == (read is None)
    start, end = found
    assert extract_answer(text[start:end], style) == read
    assert extract_answer(text[start + 1 : end], style) != read
    assert extract_answer(text[start : end - 1], style) != read
