"""Where an answer first appears, and the tokens that follow it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.audit.after import after_answer
from cib_rl.audit.appearance import first_appearance, given_in
from cib_rl.samples.load import load_samples
from tests.samples.files import write_lines


@pytest.mark.parametrize(
    ("answer", "text", "behind"),
    [
        ("26", "13 * 2 = $<<13*2=26>>26 a day", "13 * 2 = $<<13*2=26"),
        ("26", "126, 261, 2.26 and 26.5 are others; 26.", "126, 261, 2.26 and 26.5 are others; 26"),
        ("26", "26.0 is it", "26.0"),
        ("90000", "so 90,000 dollars", "so 90,000"),
        ("90,000", "so 90000 dollars", "so 90000"),
        ("2.50", "at 2.5 each", "at 2.5"),
        ("-5", "10 - 5 is 5, but 5 - 10 = -5", "10 - 5 is 5, but 5 - 10 = -5"),
        ("$18", "makes 18 a day", "makes 18"),
        (r"\frac{1}{2}", r"the half \frac{1} {2}, or so", r"the half \frac{1} {2}"),
        ("yes", "eyes say yes", "eyes say yes"),
        ("26", "there is none", None),
    ],
)
def test_the_first_place_where_the_answer_stands_by_itself(answer, text, behind):
    assert first_appearance({}, text, answer) == (None if behind is None else len(behind))


def test_a_countdown_answer_appears_where_the_target_is_hit():
    text = " 3 * 4 = 12, 12 + 5 = 17, no. 3 + 4 = 7, 7 + 5 = 12, found it. again: 3 + 4 = 7, fine."
    end = first_appearance({"numbers": [3, 4, 5], "target": 12}, text, "3 + 4 + 5")
    assert text[:end].endswith("found it.")


@given(st.integers(0, 10**7), st.integers(0, 10**7))
def test_a_number_is_found_among_others_only_where_it_is_itself(number, other):
    text = f"we have {other} then {number:,} and {number}{other}"
    expected = f"we have {other}" if other == number else f"we have {other} then {number:,}"
    assert first_appearance({}, text, str(number)) == len(expected)


def test_an_answer_in_the_prompt_is_told():
    assert given_in("Ann has 26 apples.", "26") and not given_in("Ann has 126 apples.", "26")
    assert given_in([{"role": "user", "content": "26?"}], "26")


def after(tmp_path, completion, answer="26", prompt="How many?", **row):
    row = {"prompt": prompt, "completion": completion, "answer": answer} | row
    samples = load_samples(write_lines(tmp_path / "s.jsonl", [row]))
    found = after_answer(samples.trajectories, [True], samples.tokenizer, samples.answer_style)
    return found, samples


def test_tokens_between_the_first_appearance_and_the_statement_are_counted(tmp_path):
    found, samples = after(tmp_path, "So 13 * 2 is 26 here. Let me check: 26 / 2 = 13. #### 26")
    middle = samples.tokenizer.encode(" here. Let me check: 26 / 2 = 13.", add_special_tokens=False)
    # The space before the statement may be a token of its own.
    assert found.looked_at == 1 and round(found.shares[0] * samples.trajectories[0].num_tokens) - len(middle) in (0, 1)


def test_an_answer_that_is_only_stated_has_nothing_after_it(tmp_path):
    found, _ = after(tmp_path, "So 13 * 2 it is. #### 26\n")
    assert found.looked_at == 1 and found.shares.tolist() == [0.0]


def test_a_closing_tag_right_before_the_statement_does_not_count_but_a_summary_does(tmp_path):
    closed, _ = after(tmp_path, "<think>13 * 2 gives 26</think> <answer>26</answer>")
    assert closed.shares.tolist() == [0.0]
    summed, _ = after(tmp_path, "<think>13 * 2 gives 26</think> All in all it is <answer>26</answer>")
    assert summed.shares[0] > 0


def test_answers_of_the_prompt_are_left_out(tmp_path):
    found, _ = after(tmp_path, "So 26 it is, I say. #### 26", prompt="Of 26, how many?")
    assert (found.looked_at, found.in_prompt, found.share.value) == (0, 1, None)
