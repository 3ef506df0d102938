"""ShorterBetter, and that it is a Laplace prior around a target found in the group."""

import numpy as np
from hypothesis import given

from tests.rewards.support import Row, batches, close, completion, expected, outranked, score, totals

SHORTER = {"name": "shorter_better", "weight": 0.001}


def sol(group):
    """The paper's sample optimal length."""
    right = [r.tokens for r in group if r.right]
    return min(right) if right else sum(r.tokens for r in group) / len(group)


def test_hand_worked():
    """Group 0: shortest right 30. Group 1: none right, mean 15. α = 2 is the outcome's weight."""
    rows = [Row(0, True, 30), Row(0, True, 50), Row(0, False, 10), Row(1, False, 10), Row(1, False, 20)]
    close(totals(SHORTER, rows, weight=2.0), [2, 1.98, -0.02, -0.005, -0.005])
    made = [completion(row) for row in rows]
    score(SHORTER, made)
    assert [t.diagnostics["target_tokens"] for t in made] == [30, 30, 30, 15, 15]


@given(batches())
def test_the_total_is_the_papers_reward(rows):
    def paper(row, group):
        return 2.0 * row.right - 0.001 * abs(row.tokens - sol(group))

    close(totals(SHORTER, rows, weight=2.0), expected(rows, paper))


@given(batches())
def test_within_a_prompt_it_is_the_surprisal_reward_with_a_laplace_prior_on_the_target(tiny_tokenizer_once, rows):
    rows = [r._replace(group=0) for r in rows]
    prior = {"name": "laplace", "target": sol(rows)}
    laplace = score({"name": "surprisal", "prior": prior}, [completion(r) for r in rows], tokenizer=tiny_tokenizer_once)
    ours = score({"name": "shorter_better"}, [completion(r) for r in rows])
    difference = laplace.shaping - ours.shaping
    np.testing.assert_allclose(difference, difference[0], atol=1e-9)


def test_a_wrong_answer_on_target_can_outrank_a_right_one_far_from_it():
    """α/β = 2000 tokens is the distance at which the order turns."""
    for tokens, turned in ((2000, False), (2020, True)):
        rows = [Row(0, True, 10), Row(0, True, tokens), Row(0, False, 10)]
        assert outranked(rows, totals(SHORTER, rows, weight=2.0)) is turned
