"""Token rewards counted from each token on, against a plain double loop."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.credit.assign import Credit
from cib_rl.credit.reward_to_go import centred_rewards_to_go
from cib_rl.plugin import RewardContext, RewardSuite, TokenRewards, reward
from cib_rl.recipe import CreditSection, RewardSection
from cib_rl.trajectory import Segment, Trajectory

NUMBERS = st.floats(-3, 3).map(lambda x: round(x, 3))


@reward("right", kind="outcome")
def right(trajectories):
    """What the row says."""
    return [t.task["right"] for t in trajectories]


@reward("cost", kind="shaping")
def cost(trajectories):
    """What the row says, token by token."""
    return [TokenRewards(t.task["cost"]) for t in trajectories]


def _trajectory(right, cost, group=0, environment=0):
    """One policy token, then `environment` tokens of the environment's, then the other policy tokens."""
    segment = Segment([1])
    segment.append_policy([5] * min(1, len(cost)), [-1.0] * min(1, len(cost)))
    segment.append_environment([9] * environment)
    segment.append_policy([6] * max(0, len(cost) - 1), [-1.0] * max(0, len(cost) - 1))
    return Trajectory(task={"id": "x", "right": right, "cost": cost}, group=group, segments=[segment])


def _assign(trajectories, weight=1.0, **keys):
    sections = [RewardSection(name=f"{__file__}:right"), RewardSection(name=f"{__file__}:cost", weight=weight)]
    scores = RewardSuite(sections, RewardContext()).score(trajectories)
    return Credit([CreditSection(name="group", **keys)], RewardContext()).assign(trajectories, scores)


def test_a_constant_cost_presses_on_the_tokens_that_the_others_did_without():
    short, long = [-0.1] * 2, [-0.1] * 4
    got = _assign([_trajectory(1.0, short), _trajectory(1.0, long)], scale="none", token_rewards="reward_to_go")
    # still to pay: 0.2, 0.1 (then nothing) against 0.4, 0.3, 0.2, 0.1; the baseline is their mean
    np.testing.assert_allclose(got[0], [0.1, 0.1])
    np.testing.assert_allclose(got[1], [-0.1, -0.1, -0.1, -0.05])


def test_what_was_paid_before_a_token_is_not_held_against_it():
    """Token rewards -1 at the first token of one completion: only that token is to blame."""
    first = [-1.0, 0.0, 0.0]
    clean = [0.0, 0.0, 0.0]
    got = _assign([_trajectory(1.0, first), _trajectory(1.0, clean)], scale="none", token_rewards="reward_to_go")
    np.testing.assert_allclose(got[0], [-0.5, 0.0, 0.0])
    np.testing.assert_allclose(got[1], [0.5, 0.0, 0.0])


COMPLETION = st.tuples(st.sampled_from([0.0, 1.0]), st.lists(NUMBERS, min_size=1, max_size=6), st.integers(0, 2))


@given(st.lists(COMPLETION, min_size=2, max_size=5), st.booleans(), st.sampled_from(["outcome_std", "none"]))
def test_any_group_is_what_a_double_loop_gives(rows, leave_one_out, scale):
    trajectories = [_trajectory(right, cost, environment=environment) for right, cost, environment in rows]
    keys = {"scale": scale, "leave_one_out": leave_one_out}
    got = _assign(trajectories, weight=0.5, token_rewards="reward_to_go", **keys)
    divisor = np.std([r for r, _, _ in rows], ddof=1) + 0.2 if scale == "outcome_std" else 1.0
    for i, (_, cost, environment) in enumerate(rows):
        expected = []
        for t in range(len(cost)):
            returns = [r + 0.5 * sum(c[t:]) for r, c, _ in rows]
            others = [v for j, v in enumerate(returns) if j != i] if leave_one_out else returns
            expected.append((returns[i] - np.mean(others)) / divisor)
        np.testing.assert_allclose(got[i], [expected[0], *[0.0] * environment, *expected[1:]], atol=1e-9)
    summed = _assign(trajectories, weight=0.5, **keys)
    np.testing.assert_allclose([a[0] for a in got], [a[0] for a in summed], atol=1e-9)


def test_a_failed_completion_enters_no_baseline():
    rewards = [np.array([-1.0]), np.array([-3.0]), np.array([-100.0])]
    got = centred_rewards_to_go(rewards, np.zeros(3, int), np.array([True, True, False]))
    np.testing.assert_allclose(np.concatenate(got), [1.0, -1.0, 0.0])
