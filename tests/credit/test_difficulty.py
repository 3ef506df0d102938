"""GRPO-LEAD's difficulty weighting, by hand and against its formula; alone and as a stage of a recipe."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.credit.assign import Credit
from cib_rl.credit.difficulty import difficulty
from cib_rl.errors import UserError
from cib_rl.plugin import RewardContext
from cib_rl.recipe import CreditSection
from tests.rewards.support import Row, batches, completion, score

OUTCOME_ALONE = {"name": "soft_overlong", "limit": 1000, "cache": 1}  # 0 for all rows here


def weight(share, low=0.4, high=1.5, middle=0.75, steepness=10.0):
    return low + (high - low) / (1 + math.exp(steepness * (share - middle)))


def judged(rows):
    made = [completion(row) for row in rows]
    return made, score(OUTCOME_ALONE, made)


def test_hand_worked():
    """One of four right: w(1/4) = 0.4 + 1.1/(1 + e^-5) = 1.49264 for the right one, w(3/4) = 0.95 for others."""
    made, scores = judged([Row(0, True, 2), Row(0, False, 1), Row(0, False, 1), Row(0, False, 1)])
    start = [np.array([2.0, 2.0, 0.0]), *([np.array([-1.0, 0.0])] * 3)]
    got = difficulty(made, scores, start)
    np.testing.assert_allclose(got[0], [2 * 1.492638, 2 * 1.492638, 0], rtol=1e-6)
    np.testing.assert_allclose(got[1], [-0.95, 0])
    assert start[0][0] == 2.0, "what it was given stays as it was"


@given(batches(longest=4), st.randoms())
def test_the_formula_token_by_token(rows, random):
    made, scores = judged(rows)
    start = [np.array([random.uniform(-2, 2) for _ in t.completion_ids]) for t in made]
    keys = {"low": 0.2, "high": 2.5, "middle": 0.4, "steepness": 6.0}
    for row, before, after in zip(rows, start, difficulty(made, scores, start, **keys), strict=True):
        group = [r.right for r in rows if r.group == row.group]
        share = sum(group) / len(group)
        expected = [a * weight(share if a > 0 else 1 - share, **keys) for a in before]
        np.testing.assert_allclose(after, expected)
        assert (np.sign(after) == np.sign(before)).all()


def test_failed_completions_do_not_count_in_the_share():
    made, scores = judged([Row(0, True, 1), Row(0, False, 1), Row(0, False, 1)])
    scores.valid[2] = False
    got = difficulty(made, scores, [np.array([1.0])] * 3)
    np.testing.assert_allclose(got[0], [weight(1 / 2)])


def test_a_right_answer_counts_more_on_a_hard_prompt_and_a_wrong_one_on_an_easy_prompt():
    credit = Credit(
        [CreditSection(name="group", scale="reward_std"), CreditSection(name="difficulty")], RewardContext()
    )
    plain = Credit([CreditSection(name="group", scale="reward_std")], RewardContext())
    rows = [Row(0, i < 1, 1) for i in range(8)] + [Row(1, i < 7, 1) for i in range(8)]
    made, scores = judged(rows)
    factor = [
        after[0] / before[0]
        for after, before in zip(credit.assign(made, scores), plain.assign(made, scores), strict=True)
    ]
    hard_right, hard_wrong, easy_right, easy_wrong = factor[0], factor[1], factor[8], factor[15]
    np.testing.assert_allclose([hard_right, hard_wrong], [weight(1 / 8), weight(7 / 8)])
    assert hard_right == pytest.approx(easy_wrong) and hard_right > 6 / 5 > easy_right == pytest.approx(hard_wrong)


@pytest.mark.parametrize("keys", [{"lowest": 1.0}, {"low": "a little"}, {"high": float("nan")}])
def test_unknown_keys_and_values_that_are_no_numbers_are_refused_before_any_rollout(keys):
    with pytest.raises(UserError, match=r"credit\[1\].*difficulty"):
        Credit([CreditSection(name="group"), CreditSection(name="difficulty", **keys)], RewardContext())


# ---------------------------------------------------------------- DLER's advantage is the scale `batch_std`


@given(batches(longest=40), st.integers(1, 40))
def test_batch_std_with_truncation_is_dlers_advantage(rows, limit):
    """arXiv 2510.15110, eq. 3: A = R' − mean of the group, then (A − mean of the batch)/std of the batch."""
    made = [completion(row) for row in rows]
    scores = score({"name": "truncation", "limit": limit}, made)
    got = Credit([CreditSection(name="group", scale="batch_std", epsilon=1e-8)], RewardContext()).assign(made, scores)
    reward = np.array([float(row.right and not row.cut and row.tokens <= limit) for row in rows])
    groups = np.array([row.group for row in rows])
    used = [i for i in range(len(rows)) if (groups == groups[i]).sum() > 1]  # a lone completion has no baseline
    advantage = np.array([reward[i] - reward[groups == groups[i]].mean() for i in used])
    spread = advantage.std(ddof=1) if len(used) > 1 else 0.0
    wanted = np.zeros(len(rows))
    if spread > 0:
        wanted[used] = (advantage - advantage.mean()) / spread
    for row, value, own in zip(rows, wanted, got, strict=True):
        np.testing.assert_allclose(own, [value] * row.tokens + [0.0], atol=1e-5)
