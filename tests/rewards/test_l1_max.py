"""L1-Max against the paper's equation and the released code's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.plugin import PluginError
from tests.rewards.support import Row, batches, close, completion, expected, score, totals

L1_MAX = {"name": "l1_max", "target": 30, "alpha": 0.02}


def test_hand_worked():
    """α = 0.02, target 30, δ = 0.5: 1 at 5 tokens and fewer, 0.5 on target, 0.1 at 50, 0 from 55 on."""
    tokens = [0, 5, 20, 30, 50, 55, 80]
    close(totals(L1_MAX, [Row(0, True, n) for n in tokens]), [1, 1, 0.7, 0.5, 0.1, 0, 0])
    close(totals(L1_MAX, [Row(0, False, n) for n in tokens]), [0] * 7)


@given(batches(), st.floats(1e-4, 1), st.integers(0, 60), st.floats(0, 1))
def test_the_total_is_equation_2(rows, alpha, target, delta):
    def paper(row, _):
        return float(row.right) * min(max(alpha * (target - row.tokens) + delta, 0), 1)

    close(totals(L1_MAX | {"alpha": alpha, "target": target, "delta": delta}, rows), expected(rows, paper))


@given(batches(), st.floats(1e-4, 1), st.integers(0, 60))
def test_the_half_slope_is_the_released_codes(rows, alpha, target):
    def code(row, _):
        return float(row.right) * (np.clip(alpha * (target - row.tokens), -1, 1) + 1) / 2

    close(totals(L1_MAX | {"alpha": alpha, "target": target, "slope": "half"}, rows), expected(rows, code))


def test_a_target_of_each_row():
    section = L1_MAX | {"target": "task.n_gold"}
    made = [completion(Row(0, True, 20), n_gold=20), completion(Row(1, True, 20), n_gold=30.0)]
    close(score(section, made).total, [0.5, 0.7])
    with pytest.raises(PluginError, match=r"l1_max needs a number .*'n_gold'.*'task-1' has no such column"):
        score(section, [made[0], completion(Row(1, True, 20))])


@pytest.mark.parametrize("keys", [{"target": -1}, {"target": float("nan")}, {"target": "n"}, {"alpha": 0}])
def test_senseless_keys_are_refused_when_the_suite_is_built(keys):
    with pytest.raises(PluginError, match="l1_max"):
        score(L1_MAX | keys, [])
