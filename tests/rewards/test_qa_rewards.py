"""qa_em, qa_f1, cover_em and yes_no through the suite: values, missing answers, golds that are none."""

from __future__ import annotations

import numpy as np
import pytest

from cib_rl.plugin import PluginError, RewardContext, RewardSuite
from cib_rl.recipe import RewardSection
from cib_rl.trajectory import Trajectory

GOLDS = ["President Madison", "James Madison"]


def episode(gold, answer, group=0, **task):
    return Trajectory({"id": f"q{group}", "prompt": "?", "answer": gold, **task}, group, answer=answer)


def values(name, trajectories, **keys):
    suite = RewardSuite([RewardSection(name=name, **keys)], RewardContext())
    try:
        scores = suite.score(trajectories)
    finally:
        suite.close()
    return scores.values[name].tolist(), scores


@pytest.mark.parametrize(
    "name, expected",
    [
        ("qa_em", [1.0, 0.0, 0.0, 0.0]),
        ("qa_f1", [1.0, 0.8, 0.0, 0.0]),  # 2 common words of 2 and 3: 2·2/(2+3)
        ("cover_em", [1.0, 1.0, 0.0, 0.0]),
    ],
)
def test_values_by_hand(name, expected):
    made = [episode(GOLDS, a) for a in ("james  madison.", "the fourth: James Madison", "Monroe", None)]
    assert values(name, made)[0] == pytest.approx(expected)


@pytest.mark.parametrize("name", ["qa_em", "qa_f1", "cover_em", "yes_no"])
def test_only_the_answer_counts_not_what_stands_around_it(name):
    """Neither prompt nor documents nor thoughts: the answer alone, which the rollout takes from policy text."""
    made = [episode("yes", None, group=1), episode("yes", "no", group=1)]
    for t in made:
        t.text = t.policy_text = "<information> yes </information> <think> yes </think>"
    assert values(name, made)[0] == [0.0, 0.0]


def test_a_number_and_a_single_text_are_gold_answers_too():
    assert values("qa_em", [episode(1972, "1972"), episode("Paris", "paris")])[0] == [1.0, 1.0]


def test_cover_em_can_refuse_lists_of_candidates():
    made = [episode("Lyon", "Paris, Lyon, Lille, Nice"), episode("Lyon", "It is Lyon")]
    assert values("cover_em", made)[0] == [1.0, 1.0]
    assert values("cover_em", made, max_words=3)[0] == [0.0, 1.0]
    with pytest.raises(PluginError, match="max_words must be at least 1, not 0"):
        values("cover_em", made, max_words=0)


def test_yes_no():
    made = [episode("yes", "Yes, it is"), episode(True, "yes"), episode("no", "yes"), episode("no", "it depends")]
    assert values("yes_no", made)[0] == [1.0, 1.0, 0.0, 0.0]


def test_a_gold_answer_that_is_neither_yes_nor_no_is_an_error_not_a_zero():
    got, scores = values("yes_no", [episode("yes", "yes"), episode("Paris", "yes", group=1)])
    np.testing.assert_equal(got, [1.0, np.nan])
    assert scores.valid.tolist() == [True, False]
    assert "unreadable gold: 'Paris'" in scores.errors[0].message


@pytest.mark.parametrize("name", ["qa_em", "qa_f1", "cover_em", "yes_no", "math_correct"])
@pytest.mark.parametrize(
    "gold, message",
    [
        (None, "the row 'q0' has no gold answer; it has id, prompt, answer. Map its column with task.columns"),
        ({"value": "x"}, "the gold answer of row 'q0' must be a text"),
    ],
)
def test_a_row_without_a_usable_gold_answer_is_named(name, gold, message):
    with pytest.raises(PluginError, match=message):
        values(name, [episode(gold, "x")])


@pytest.mark.parametrize("gold", [[], ["x", None], [["x"]]])
def test_a_list_of_gold_answers_holds_texts(gold):
    with pytest.raises(PluginError, match="a list of them that is not empty"):
        values("qa_em", [episode(gold, "x")])


@pytest.mark.parametrize(
    "name, bad, cause",
    [
        ("qa_em", ["x", ""], "matches nothing"),
        ("qa_f1", "", "matches nothing"),
        ("cover_em", "one two three four", "matches nothing"),
        ("yes_no", "Paris", "neither yes nor no"),
    ],
)
def test_golds_are_judged_before_a_run(name, bad, cause):
    keys = {"max_words": 3} if name == "cover_em" else {}
    suite = RewardSuite([RewardSection(name=name, **keys)], RewardContext())
    grades = suite.rewards[0].target.grade_golds([{"id": "a", "answer": "yes"}, {"id": "b", "answer": bad}])
    suite.close()
    assert grades[0].outcome == "right" and grades[1].outcome != "right" and cause in grades[1].cause
