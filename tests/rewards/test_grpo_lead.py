"""The length reward of GRPO-LEAD."""

import math

from hypothesis import given
from hypothesis import strategies as st

from tests.rewards.support import Row, batches, close, expected, totals

LEAD = {"name": "grpo_lead", "alpha": 0.05}


def test_hand_worked():
    """Right: 10, 20, 30 tokens: mean 20, unbiased std 10, z = -1, 0, 1. Wrong: −1; without an answer 0."""
    rows = [Row(0, True, n) for n in (10, 20, 30)] + [Row(0, False, 5), Row(0, False, 5, answered=False)]
    got = totals(LEAD, rows)
    assert abs(got[0] - 1.0512711) < 1e-6 and abs(got[1] - 1) < 1e-6 and abs(got[2] - 0.9512294) < 1e-6
    close(got[3:], [-1, 0])


def test_alone_among_the_right_ones_has_one():
    close(totals(LEAD, [Row(0, True, 10), Row(0, False, 90)]), [1, -1])


def test_short_groups_are_left_alone_when_told_so():
    """The three shortest of all, right or wrong: 5, 10, 30 have 15 on average."""
    rows = [Row(0, False, 5), Row(0, True, 10), Row(0, True, 30), Row(0, True, 90)]
    close(totals(LEAD | {"min_length": 15}, rows), [-1, 1, 1, 1])
    graded = totals(LEAD | {"min_length": 14.9}, rows)
    close(graded, totals(LEAD, rows))
    assert graded[1] > 1 > graded[3]


@given(batches(), st.floats(0, 1), st.floats(-2, 0), st.floats(-2, 0), st.sampled_from([0, 10, 40]))
def test_the_total_is_the_papers_reward(rows, alpha, wrong, no_answer, min_length):
    def paper(row, group):
        if not row.right:
            return wrong if row.answered else no_answer
        shortest = sorted(r.tokens for r in group)[:3]
        if min_length and sum(shortest) / len(shortest) <= min_length:
            return 1.0
        lengths = [r.tokens for r in group if r.right]
        mean = sum(lengths) / len(lengths)
        std = math.sqrt(sum((n - mean) ** 2 for n in lengths) / (len(lengths) - 1)) if len(lengths) > 1 else 1.0
        return math.exp(-alpha * (row.tokens - mean) / (std + 1e-6))

    keys = {"alpha": alpha, "wrong": wrong, "no_answer": no_answer, "min_length": min_length}
    close(totals(LEAD | keys, rows), expected(rows, paper))
