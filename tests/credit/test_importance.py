"""Importance weights between engine and trainer."""

import math

import pytest
import torch

from cib_rl.credit.importance import importance_weights


def test_weights_are_truncated_ratios_per_token():
    trainer = torch.tensor([[-1.0, -1.0, -3.0, -1.0]])
    engine = torch.tensor([[-1.5, -3.0, -1.0, -9.0]])
    mask = torch.tensor([[1, 1, 1, 0]])
    weights, stats = importance_weights(trainer, engine, mask, clip_max=2.0, clip_min=0.2)
    assert weights.tolist() == [pytest.approx([math.exp(0.5), 2.0, 0.2, 1.0])]
    assert stats.clipped_share == pytest.approx(2 / 3)
    assert stats.kl == pytest.approx(-(0.5 + 2.0 - 2.0) / 3)
    assert stats.quantiles["max"] == pytest.approx(math.exp(2.0))
    assert stats.quantiles["min"] == pytest.approx(math.exp(-2.0))


def test_a_missing_logprob_is_a_ratio_of_one_and_is_counted():
    weights, stats = importance_weights(
        torch.tensor([[-1.0, -1.0]]), torch.tensor([[float("nan"), -1.0]]), torch.ones(1, 2)
    )
    assert weights.tolist() == [[1.0, 1.0]]
    assert stats.missing == 1


def test_nothing_in_the_loss_is_no_error():
    weights, stats = importance_weights(torch.zeros(1, 2), torch.full((1, 2), math.nan), torch.zeros(1, 2))
    assert weights.tolist() == [[1.0, 1.0]]
    assert (stats.missing, stats.quantiles) == (0, {})
