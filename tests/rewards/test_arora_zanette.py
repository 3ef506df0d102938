"""The reward of Arora & Zanette."""

import math

from hypothesis import given
from hypothesis import strategies as st

from tests.rewards.support import Row, batches, close, expected, outranked, totals

ARORA = {"name": "arora_zanette"}


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_hand_worked():
    """Right answers of 10 and 30 tokens: mean 20, std 10, z = ±1. The wrong one and the unfinished one do not count."""
    rows = [Row(0, True, 10), Row(0, True, 30), Row(0, False, 500), Row(0, True, 400, cut=True)]
    got = totals(ARORA | {"alpha": 0.4}, rows)
    close(got[2:], [0, 0])
    assert abs(got[0] - (1 - 0.4 * 0.268941)) < 1e-6 and abs(got[1] - (1 - 0.4 * 0.731059)) < 1e-6


def test_alone_or_of_equal_length_costs_half_of_alpha():
    close(totals(ARORA | {"alpha": 0.2}, [Row(0, True, 7), Row(1, True, 9), Row(1, True, 9)]), [0.9] * 3)


@given(batches(), st.floats(0, 1.5))
def test_the_total_is_the_papers_reward(rows, alpha):
    def paper(row, group):
        if not row.right or row.cut:
            return 0.0
        lengths = [r.tokens for r in group if r.right and not r.cut]
        mean = sum(lengths) / len(lengths)
        std = math.sqrt(sum((n - mean) ** 2 for n in lengths) / len(lengths))
        return 1 - alpha * sigmoid((row.tokens - mean) / (std + 1e-7))

    close(totals(ARORA | {"alpha": alpha}, rows), expected(rows, paper))


def test_an_alpha_above_one_can_put_a_right_answer_below_a_wrong_one():
    rows = [Row(0, True, 10), Row(0, True, 30), Row(0, False, 5)]
    assert not outranked(rows, totals(ARORA | {"alpha": 1.0}, rows))
    assert outranked(rows, totals(ARORA | {"alpha": 1.4}, rows))
