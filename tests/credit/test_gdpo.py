"""Normalise, then sum: against TRL's own lines, and what it does to weights."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl.trainer.utils import nanstd

from cib_rl.credit.gdpo import gdpo_advantages

VALUE = st.one_of(st.just(float("nan")), st.floats(-2, 2).map(lambda x: round(x, 2)))


def _trl(values_NK, weights, group):
    """What `GRPOTrainer` computes for `multi_objective_aggregation="normalize_then_sum"`, in torch."""
    unscorable = torch.isnan(values_NK).all(dim=1)
    grouped = values_NK.view(-1, group, values_NK.shape[1])
    normalised = (grouped - torch.nanmean(grouped, dim=1, keepdim=True)) / (nanstd(grouped, dim=1, keepdim=True) + 1e-4)
    rewards = (normalised.view(-1, values_NK.shape[1]) * torch.tensor(weights)).nansum(dim=1)
    rewards[unscorable] = torch.nan
    return torch.nan_to_num((rewards - torch.nanmean(rewards)) / (nanstd(rewards) + 1e-4), nan=0.0)


@given(st.lists(st.tuples(VALUE, VALUE), min_size=8, max_size=8))
def test_it_is_what_trl_computes(rows):
    values = torch.tensor(rows, dtype=torch.float64)
    counts = torch.isfinite(values).view(2, 4, 2).sum(dim=1)
    if (counts == 1).any() or (torch.isfinite(values).any(dim=1)).sum() < 2:
        return  # a single value has no standard deviation: TRL's is NaN, ours leaves it out
    expected = _trl(values, [1.0, 0.3], 4)
    got = gdpo_advantages(
        {"a": values[:, 0].numpy(), "b": values[:, 1].numpy()}, {"a": 1.0, "b": 0.3}, np.repeat([0, 1], 4)
    )
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-7)


def test_a_rewards_spread_does_not_decide_its_share():
    outcome, small = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0, 1.0]) * 1e-2
    groups = np.zeros(4, int)
    narrow = gdpo_advantages({"o": outcome, "s": small}, {"o": 1.0, "s": 0.5}, groups, epsilon=0.0)
    wide = gdpo_advantages({"o": outcome, "s": 1000 * small}, {"o": 1.0, "s": 0.5}, groups, epsilon=0.0)
    np.testing.assert_allclose(narrow, wide)


def test_with_several_processes_the_batch_is_all_of_them():
    """Two processes with the same rows: sums double, so mean and deviation (but for Bessel's correction) stay."""
    values, groups = {"o": np.array([1.0, 0.0, 3.0, 0.5])}, np.zeros(4, int)
    one = gdpo_advantages({"o": np.tile(values["o"], 2)}, {"o": 1.0}, np.repeat([0, 1], 4))
    half = gdpo_advantages(values, {"o": 1.0}, groups, reduce=lambda sums: 2 * sums)
    np.testing.assert_allclose(half, one[:4])
