"""Group baselines against hand-worked numbers and TRL's formula."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cib_rl.credit import group as baselines
from cib_rl.credit.group import zero_variance_groups

ALL = np.ones(4, dtype=bool)
ONE = np.zeros(4, dtype=int)


def group_advantages(*rewards, **keywords):
    return baselines.group_advantages(*rewards, **keywords)[0]


def _advantages(outcome, shaping, scale, beta=1.0, **kwargs):
    outcome, shaping = np.array(outcome, float), np.array(shaping, float)
    n = len(outcome)
    return group_advantages(
        outcome + beta * shaping, outcome, np.zeros(n, int), np.ones(n, bool), scale=scale, **kwargs
    )


def test_the_papers_scaling_is_trls_formula():
    rewards = np.array([1.0, 0.0, 0.5, 1.0])
    got = group_advantages(rewards, rewards, ONE, ALL, scale="reward_std")
    np.testing.assert_allclose(got, (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4))


def test_beta_cancels_in_an_all_right_group_under_the_papers_scaling_only():
    surprisal = [-60.0, -80.0, -100.0, -120.0]
    for scale, cancels in (("reward_std", True), ("outcome_std", False), ("none", False)):
        weak = _advantages([1, 1, 1, 1], surprisal, scale, beta=1e-3)
        strong = _advantages([1, 1, 1, 1], surprisal, scale, beta=2e-3)
        assert np.allclose(weak, strong, rtol=0.01) is cancels, scale
        if not cancels:
            np.testing.assert_allclose(strong, 2 * weak)


def test_in_an_all_right_group_the_floor_is_the_divisor():
    got = _advantages([1, 1], [-10.0, -30.0], "outcome_std", beta=0.01, floor=0.2)
    np.testing.assert_allclose(got, [0.1 / 0.2, -0.1 / 0.2])


def test_hand_worked_mixed_group_under_the_outcome_scaling():
    # outcome std of (1, 0) is sqrt(1/2); totals 1 - 0.1 and 0 - 0.3: mean 0.3, deviations ±0.6
    got = _advantages([1, 0], [-10.0, -30.0], "outcome_std", beta=0.01, floor=0.2)
    np.testing.assert_allclose(got, [0.6 / (0.5**0.5 + 0.2), -0.6 / (0.5**0.5 + 0.2)])


def test_leave_one_out_subtracts_the_mean_of_the_others():
    rewards = np.array([1.0, 0.0, 0.0, 1.0])
    got = group_advantages(rewards, rewards, ONE, ALL, scale="none", leave_one_out=True)
    np.testing.assert_allclose(got, [r - (rewards.sum() - r) / 3 for r in rewards])


def test_failed_rows_enter_neither_baseline_nor_scale():
    rewards = np.array([1.0, 0.0, 100.0, np.nan])
    valid = np.array([True, True, False, True])
    got = group_advantages(rewards, rewards, ONE, valid, scale="reward_std")
    expected = group_advantages(rewards[:2], rewards[:2], ONE[:2], ALL[:2], scale="reward_std")
    np.testing.assert_allclose(got, [*expected, 0, 0])


def test_a_lone_survivor_has_no_baseline():
    got = group_advantages(np.array([1.0, 0.0]), np.zeros(2), ONE[:2], np.array([True, False]), scale="none")
    assert got.tolist() == [0, 0]


def test_batch_scaling_sees_the_other_processes():
    rewards = np.array([1.0, 0.0])
    # Another process with the same two rows: 4 deviations of ±0.5, std sqrt(1/3).
    got = group_advantages(rewards, rewards, ONE[:2], ALL[:2], scale="batch_std", reduce=lambda sums: 2 * sums)
    np.testing.assert_allclose(got, np.array([0.5, -0.5]) / ((4 * 0.25 / 3) ** 0.5 + 1e-4))


@given(
    hnp.arrays(np.float64, 12, elements=st.floats(-5, 5)),
    st.permutations(range(12)),
    st.sampled_from(["reward_std", "outcome_std", "batch_std", "none"]),
)
def test_groups_are_told_by_number_not_by_place(rewards, order, scale):
    groups = np.repeat([7, 3, 5], 4)
    order = np.array(order)
    valid = np.ones(12, bool)
    straight = group_advantages(rewards, rewards, groups, valid, scale=scale)
    mixed = group_advantages(rewards[order], rewards[order], groups[order], valid, scale=scale)
    np.testing.assert_allclose(mixed, straight[order], atol=1e-9)
    for group in (7, 3, 5):
        assert abs(straight[groups == group].sum()) < 1e-6


@pytest.mark.parametrize(("tolerance", "flat"), [(0.0, {1, 3}), (1e-3, {0, 1, 3})])
def test_near_ties_count_as_flat_within_the_tolerance(tolerance, flat):
    values = np.array([0.5, 0.5 + 1e-4, 1, 1, 0, 1, np.nan, 1])
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    assert zero_variance_groups(values, groups, np.ones(8, bool), tolerance) == flat
