"""KL in the reward."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.credit.kl import kl_per_token, subtract_kl
from cib_rl.plugin import RewardContext, RewardSuite
from cib_rl.recipe import RewardSection
from tests.credit.test_gae import _trajectory


def test_estimators_by_hand_and_in_expectation():
    policy, reference = torch.tensor([-1.0]), torch.tensor([-3.0])
    assert kl_per_token(policy, reference, "k1").tolist() == [2.0]
    # exp(−2) − 1 + 2
    assert kl_per_token(policy, reference, "k3").item() == pytest.approx(1.1353353)
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.2, 0.3, 0.5])
    exact = (p * (p.log() - q.log())).sum()
    for estimator in ("k1", "k3"):
        torch.testing.assert_close((p * kl_per_token(p.log(), q.log(), estimator)).sum(), exact)


@given(st.floats(-20, 0), st.floats(-20, 0))
def test_k3_is_never_negative(policy, reference):
    assert kl_per_token(torch.tensor(policy), torch.tensor(reference), "k3").item() >= 0


def test_policy_tokens_pay_and_totals_hold_the_sum():
    rows = [_trajectory([1, 0, 1], [0.0] * 3, token_rewards=[0.5, 0.0]), _trajectory([1], [0.0], reward=None)]
    names = ("final", "tokens")
    suite = RewardSuite([RewardSection(name=f"tests.credit.test_gae:{n}") for n in names], RewardContext())
    before = suite.score(rows)
    after = subtract_kl(rows, before, [np.array([1.0, 50.0, 3.0]), np.array([2.0])], 0.1)
    assert [r.tolist() for r in after.token_rewards] == [[0.4, pytest.approx(-0.3)], [-0.2]]
    assert after.total[0] == pytest.approx(1.5 - 0.4) and np.isnan(after.total[1])
    assert before.total[0] == 1.5 and before.token_rewards[0].tolist() == [0.5, 0.0]
