"""HICRA: worked by hand, its place among the stages, what it refuses."""

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cib_rl.credit.assign import Credit
from cib_rl.credit.hicra import hicra
from cib_rl.errors import UserError
from cib_rl.plugin import RewardContext, RewardSuite, TokenRewards, reward
from cib_rl.recipe import CreditSection, RewardSection
from cib_rl.trajectory import Segment, Trajectory
from tests.trained_tokenizers import byte_level

WAIT = "wait, the answer"


@reward("given", kind="outcome")
def given_outcome(trajectories):
    """What the row says."""
    return [t.task["right"] for t in trajectories]


@reward("rising", kind="shaping")
def rising(trajectories):
    """A reward per token."""
    return [TokenRewards([0.1 * k for k in range(t.num_tokens)]) for t in trajectories]


def made(tokenizer, right, *, group=0):
    """`WAIT`, a document with the same words, `WAIT` again."""
    ids = tokenizer.encode(WAIT)
    segment = Segment([1, 2])
    segment.append_policy(ids, [-1.0] * len(ids))
    segment.append_environment(ids)
    segment.append_policy(ids, [-1.0] * len(ids))
    return Trajectory({"id": "r", "prompt": "q", "right": right}, group, segments=[segment])


def assign(trajectories, tokenizer, *stages, rewards=(f"{__file__}:given",)):
    context = RewardContext(tokenizer=tokenizer)
    suite = RewardSuite([RewardSection(name=name) for name in rewards], context)
    try:
        scores = suite.score(trajectories)
    finally:
        suite.close()
    return Credit([CreditSection(**stage) for stage in stages], context).assign(trajectories, scores)


def test_credit_is_raised_and_blame_dampened_on_planning_tokens_of_the_policy():
    """Two completions, one right: advantages ±½ without a scale; α 0.2 makes them 0.6 and −0.4 on `wait`."""
    tokenizer = byte_level()
    pair = [made(tokenizer, 1.0), made(tokenizer, 0.0)]
    right, wrong = assign(pair, tokenizer, {"name": "group", "scale": "none"}, {"name": "hicra", "grams": ["wait"]})
    n = len(tokenizer.encode("wait"))
    rest = len(tokenizer.encode(WAIT)) - n
    document = [0.0] * (n + rest)
    assert right.tolist() == pytest.approx([0.6] * n + [0.5] * rest + document + [0.6] * n + [0.5] * rest)
    assert wrong.tolist() == pytest.approx([-0.4] * n + [-0.5] * rest + document + [-0.4] * n + [-0.5] * rest)
    assert pair[0].tracks["planning"] == [1] * n + [0] * rest + [0] * (n + rest) + [1] * n + [0] * rest


@pytest.mark.parametrize("token_rewards", ["sum", "reward_to_go"])
def test_alpha_zero_is_the_base_to_the_last_bit(token_rewards):
    tokenizer = byte_level()
    rows = [made(tokenizer, float(i < 2)) for i in range(4)]
    base = {"name": "group", "token_rewards": token_rewards}
    rewards = (f"{__file__}:given", f"{__file__}:rising")
    plain = assign(rows, tokenizer, base, rewards=rewards)
    same = assign(rows, tokenizer, base, {"name": "hicra", "grams": ["wait"], "alpha": 0.0}, rewards=rewards)
    more = assign(rows, tokenizer, base, {"name": "hicra", "grams": ["wait"]}, rewards=rewards)
    assert all(np.array_equal(a, b) for a, b in zip(plain, same, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(plain, more, strict=True))


FINITE = st.floats(-10, 10, allow_nan=False)


@given(
    advantage=arrays(np.float64, 8, elements=FINITE),
    planning=arrays(np.bool_, 8),
    alpha=st.floats(0, 1, allow_nan=False),
)
def test_it_is_the_papers_case_distinction(advantage, planning, alpha):
    naive = [a * (1 + alpha) if p and a > 0 else a * (1 - alpha) if p else a for a, p in zip(advantage, planning)]  # noqa: B905
    assert hicra(advantage, planning, alpha) == pytest.approx(naive)


def test_grams_that_never_match_are_warned_about_once(caplog):
    tokenizer = byte_level()
    context = RewardContext(tokenizer=tokenizer)
    stage = {"name": "hicra", "grams": ["on the other hand"]}
    credit = Credit([CreditSection(name="group"), CreditSection(**stage)], context)
    suite = RewardSuite([RewardSection(name=f"{__file__}:given")], context)
    rows = [made(tokenizer, float(i)) for i in range(2)]
    scores = suite.score(rows)
    suite.close()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            credit.assign(rows, scores)
    tokens = sum(t.num_tokens for t in rows)
    said = f"0 of the 1 grams were found, in 0 of the first 2 completions (0 of {tokens} tokens, 0%)"
    assert caplog.text.count(said) == 1


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({}, "needs the keyword 'grams'"),
        ({"tokens": "grams"}, "needs the keyword 'grams'"),
        ({"grams": "nowhere.json"}, r"credit\[1\]: grams: cannot read .*nowhere.json"),
        ({"tokens": "entropy"}, "grams.*high_entropy"),
        ({"tokens": "high_entropy", "share": 0}, "greater than 0"),
        ({"grams": ["wait"], "follow_ngram": 3, "follow_window": 2}, "follow_window 2 is below follow_ngram 3"),
        ({"grams": ["wait"], "alpha": 1.5}, "alpha must be within 0 and 1, not 1.5"),
        ({"grams": ["wait"], "alpha": -0.1}, "alpha must be within 0 and 1"),
        ({"grams": ["wait"], "gamma": 1}, "no keyword 'gamma'"),
    ],
)
def test_bad_keys_are_refused_when_the_stage_is_built(keys, says):
    with pytest.raises(UserError, match=says):
        Credit([CreditSection(name="group"), CreditSection(name="hicra", **keys)], RewardContext())
