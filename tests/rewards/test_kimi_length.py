"""The length reward of Kimi k1.5."""

from hypothesis import given
from hypothesis import strategies as st

from tests.rewards.support import Row, batches, close, expected, outranked, totals

KIMI = {"name": "kimi_length"}


def test_hand_worked():
    """Lengths 10 to 50: λ = 0.5, 0.25, 0, -0.25, -0.5. Wrong ones keep what is below 0. Another prompt is apart."""
    rows = [
        Row(0, True, 10),
        Row(0, False, 20),
        Row(0, True, 30),
        Row(0, False, 40),
        Row(0, True, 50),
        Row(1, True, 99),
    ]
    close(totals(KIMI, rows), [1.5, 0, 1, -0.25, 0.5, 1])


def test_equal_lengths_earn_nothing():
    close(totals(KIMI, [Row(0, True, 7), Row(0, False, 7)]), [1, 0])


@given(batches(), st.floats(0, 3))
def test_the_total_is_the_reports_formula(rows, weight):
    def paper(row, group):
        shortest, longest = min(r.tokens for r in group), max(r.tokens for r in group)
        if longest == shortest:
            return float(row.right)
        value = 0.5 - (row.tokens - shortest) / (longest - shortest)
        return row.right + weight * (value if row.right else min(0, value))

    close(totals(KIMI | {"weight": weight}, rows), expected(rows, paper))


def test_beyond_a_weight_of_two_a_short_wrong_answer_outranks_the_longest_right_one():
    rows = [Row(0, True, 50), Row(0, False, 10)]
    assert not outranked(rows, totals(KIMI | {"weight": 2.0}, rows))
    assert outranked(rows, totals(KIMI | {"weight": 2.1}, rows))
