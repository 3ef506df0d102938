"""The value loss and the explained variance against plain loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.trainers.value_loss import explained_variance, value_loss

NUMBER = st.floats(-3, 3)


@given(st.lists(st.tuples(NUMBER, NUMBER, NUMBER, st.integers(0, 1)), min_size=1, max_size=8), st.floats(0.1, 1))
def test_it_equals_a_plain_loop(rows, clip):
    value, old, target, mask = (torch.tensor(column)[None] for column in zip(*rows, strict=True))
    for limit in (None, clip):
        total = clipped = 0.0
        for v, o, r, m in rows:
            error = (v - r) ** 2
            if limit is not None:
                near = (min(max(v, o - limit), o + limit) - r) ** 2
                clipped += m * (near > error + 1e-12)
                error = max(error, near)
            total += 0.5 * m * error
        loss = value_loss(value, old, target, mask, clip=limit)
        assert loss.total.item() == pytest.approx(total, abs=1e-4) and loss.tokens == sum(r[3] for r in rows)
        assert abs(loss.clipped - clipped) <= sum(abs(r[0] - r[1]) - clip < 1e-5 for r in rows)


def test_a_value_beyond_the_clip_that_went_the_right_way_learns_nothing_more():
    value = torch.tensor([[0.8, -0.8]], requires_grad=True)
    loss = value_loss(value, torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1, 2), clip=0.5)
    loss.total.backward()
    # Right way: held at 0.5. Wrong way: its own, larger error counts.
    assert value.grad.tolist() == [[0.0, pytest.approx(-1.8)]]
    assert loss.clipped == 1 and loss.total.item() == pytest.approx(0.5 * (0.25 + 3.24))


def test_explained_variance_by_hand_and_over_processes():
    returns, values = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 1.0, 2.0, 1.0])
    wanted = 1 - np.var(returns - values) / np.var(returns)
    assert explained_variance(values, returns, lambda s: s) == pytest.approx(wanted)
    assert explained_variance(returns, returns, lambda s: s) == 1
    parts = []
    for part in (slice(0, 1), slice(1, 4)):
        explained_variance(values[part], returns[part], lambda s: (parts.append(s), s)[1])
    assert explained_variance(values[:1], returns[:1], lambda _: parts[0] + parts[1]) == pytest.approx(wanted)
    assert math.isnan(explained_variance(values, np.ones(4), lambda s: s))
