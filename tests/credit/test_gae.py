"""GAE over policy tokens: against a double loop, by hand around a document, at truncation, over processes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.credit.assign import Credit
from cib_rl.credit.gae import gae
from cib_rl.errors import UserError
from cib_rl.plugin import RewardContext, RewardSuite, TokenRewards, reward
from cib_rl.recipe import CreditSection, RewardSection
from cib_rl.trajectory import Segment, StopReason, Trajectory


@reward("final", kind="outcome")
def final(trajectories):
    """What the row says; None where it says nothing."""
    return [t.task["reward"] for t in trajectories]


@reward("tokens", kind="shaping")
def tokens(trajectories):
    """A reward for each policy token, if the row has some."""
    return [TokenRewards(t.task["token_rewards"]) if t.task.get("token_rewards") else None for t in trajectories]


def _trajectory(mask, values, end=0.0, reward=1.0, truncated=False, cut=(), token_rewards=None):
    """`mask`: 1 policy, 0 environment; `cut`: where new segments start."""
    segments = []
    for start, stop in zip([0, *cut], [*cut, len(mask)], strict=True):
        segment = Segment([1])
        for m in mask[start:stop]:
            segment.append_policy([5], [-1.0]) if m else segment.append_environment([7])
        segments.append(segment)
    reason = StopReason.LENGTH if truncated else StopReason.EOS
    t = Trajectory({"reward": reward, "token_rewards": token_rewards}, 0, segments=segments, stop_reason=reason)
    t.set_track("value", values)
    t.diagnostics["value_at_end"] = end
    return t


def _run(trajectories, reduce=lambda sums: sums, **keywords):
    rewards = [RewardSection(name="tests.credit.test_gae:final"), RewardSection(name="tests.credit.test_gae:tokens")]
    scores = RewardSuite(rewards, RewardContext()).score(trajectories)
    return gae(trajectories, scores, reduce, **({"whiten": False} | keywords))


def _double_loop(mask, values, end, rewards, gamma, lam):
    """A_t = Σ_{l ≥ t} (γλ)^(l − t) δ_l over policy tokens, one sum after the other."""
    own = [v for v, m in zip(values, mask, strict=True) if m] + [end]
    count = len(own) - 1
    advantages = []
    for t in range(count):
        advantage = 0.0
        for later in range(t, count):
            delta = rewards[later] + gamma * own[later + 1] - own[later]
            advantage += (gamma * lam) ** (later - t) * delta
        advantages.append(advantage)
    return advantages


@given(st.data())
def test_it_equals_a_double_loop(data):
    number = st.floats(-3, 3)
    gamma, lam, bootstrap = data.draw(st.floats(0, 1)), data.draw(st.floats(0, 1)), data.draw(st.booleans())
    trajectories, expected = [], []
    for _ in range(data.draw(st.integers(1, 4))):
        mask = data.draw(st.lists(st.integers(0, 1), max_size=12))
        values = data.draw(st.lists(number, min_size=len(mask), max_size=len(mask)))
        end, final_reward, truncated = data.draw(number), data.draw(number), data.draw(st.booleans())
        per_token = data.draw(st.lists(number, min_size=sum(mask), max_size=sum(mask)))
        cut = sorted(data.draw(st.sets(st.integers(1, len(mask) - 1), max_size=2))) if len(mask) > 1 else []
        trajectories.append(_trajectory(mask, values, end, final_reward, truncated, cut, per_token))
        rewards = list(per_token)
        if rewards:
            rewards[-1] += final_reward
        after = end if truncated and bootstrap else 0.0
        expected.append(_double_loop(mask, values, after, rewards, gamma, lam))
    got = _run(trajectories, gamma=gamma, lam=lam, bootstrap_truncated=bootstrap)
    for t, advantage_T, wanted in zip(trajectories, got, expected, strict=True):
        mask = np.asarray(t.policy_mask, dtype=bool)
        np.testing.assert_allclose(advantage_T[mask], wanted, atol=1e-9)
        assert not advantage_T[~mask].any()
        values, returns = np.asarray(t.tracks["value"]), np.asarray(t.tracks["return"])
        np.testing.assert_allclose(returns[mask], values[mask] + wanted, atol=1e-9)
        assert not returns[~mask].any()


def test_by_hand_with_a_document_in_the_middle():
    """γ = 0.5, λ = 1: two tokens, a document of two, one token, reward 4. The document's values count nowhere.

    δ_3 = 4 − 1 = 3; the token before the document has that token's value for its successor: δ_2 = 0.5·1 − 2 = −1.5, so
    A_2 = −1.5 + 0.5·3 = 0; δ_1 = 0.5·2 − 0 = 1, A_1 = 1 + 0.5·0 = 1.
    """
    t = _trajectory([1, 1, 0, 0, 1], [0.0, 2.0, 99.0, -99.0, 1.0], reward=4.0)
    (advantage,) = _run([t], gamma=0.5)
    assert advantage.tolist() == [1, 0, 0, 0, 3]
    assert t.tracks["return"] == [1, 2, 0, 0, 4]


def test_a_truncated_episode_bootstraps_and_an_ended_one_does_not():
    """γ = λ = 1, reward 1, value 0.25 at the one token, 0.5 after it (behind a document that was the last to come)."""
    rows = {"end": 0.5, "values": [0.25, 9.0], "mask": [1, 0]}
    cut, ended = _trajectory(**rows, truncated=True), _trajectory(**rows)
    assert [a.tolist() for a in _run([cut, ended])] == [[1.25, 0], [0.75, 0]]
    assert [a.tolist() for a in _run([cut, ended], bootstrap_truncated=False)] == [[0.75, 0], [0.75, 0]]


def test_whitening_counts_policy_tokens_of_valid_rows_over_all_processes():
    rng = np.random.default_rng(0)

    def rows(scale):
        made = [_trajectory([1, 0, 1, 1], list(rng.normal(0, scale, 4))) for _ in range(3)]
        # Nothing applies to this one: no reward, no advantage, no part in mean and deviation.
        return [*made, _trajectory([1], [500.0], reward=None)]

    here, there = rows(1.0), rows(5.0)
    plain = _run(here) + _run(there)
    flat = np.concatenate([a[np.asarray(t.policy_mask) == 1] for a, t in zip(plain, here + there, strict=True)])
    flat = flat[flat != 0]
    assert len(flat) == 18
    sums = []
    _run(here, lambda s: (sums.append(s), s)[1], whiten=True)
    _run(there, lambda s: (sums.append(s), s)[1], whiten=True)
    got = np.concatenate(_run(here, lambda _: sums[0] + sums[1], whiten=True))
    wanted = (np.concatenate(_run(here)) - flat.mean()) / flat.std(ddof=1)
    mask = np.concatenate([np.asarray(t.policy_mask) == 1 for t in here])
    np.testing.assert_allclose(got[mask][:-1], wanted[mask][:-1], atol=1e-6)
    assert not got[~mask].any() and got[-1] == 0


def test_without_values_it_says_where_they_come_from():
    t = _trajectory([1], [0.0])
    del t.tracks["value"]
    with pytest.raises(UserError, match="brings no values; they come from the critic of trainer ppo"):
        _run([t])


def test_it_is_a_baseline_of_recipes_and_hicra_comes_after_it():
    """α|A| on planning tokens of GAE's own advantages, 0 on the environment's."""
    context = RewardContext()
    plain = Credit([CreditSection(name="gae", whiten=False, lam=0.5)], context)
    t = _trajectory([1, 0, 1], [0.5, 0.0, 0.25])
    rewards = [RewardSection(name="tests.credit.test_gae:final")]
    scores = RewardSuite(rewards, context).score([t])
    (advantage,) = plain.assign([t], scores)
    # δ_2 = 1 − 0.25; δ_1 = 0.25 − 0.5
    assert advantage.tolist() == [-0.25 + 0.5 * 0.75, 0.0, 0.75]
    with pytest.raises(UserError, match=r"gae.*lam: 1.5"):
        Credit([CreditSection(name="gae", lam=1.5)], context)
