"""The cosine reward, also against TRL's."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.plugin import PluginError
from tests.rewards.support import Row, batches, close, expected, outranked, score, totals

COSINE = {"name": "cosine_length"}


def test_hand_worked():
    """Limit 60: cos 0 = 1, cos(π/3) = ½ at 20, 0 at 30; −10 at the limit, beyond it, and when cut off."""
    ends = [
        Row(0, True, 60),
        Row(0, False, 60),
        Row(0, True, 70),
        Row(0, True, 5, cut=True),
        Row(0, False, 5, cut=True),
    ]
    close(totals(COSINE, [Row(0, True, n) for n in (0, 20, 30)], max_completion_length=60), [2, 1.75, 1.5])
    close(totals(COSINE, [Row(0, False, n) for n in (0, 20, 30)], max_completion_length=60), [-10, -7.5, -5])
    close(totals(COSINE | {"limit": 60}, ends), [-10] * 5)


VALUES = st.floats(-5, 5)


@given(batches(), st.integers(1, 80), VALUES, VALUES, VALUES, VALUES, VALUES)
def test_the_total_is_the_papers_reward(rows, limit, r0c, rlc, r0w, rlw, at_limit):
    def paper(row, _):
        if row.cut or row.tokens >= limit:
            return at_limit
        low, high = (rlc, r0c) if row.right else (rlw, r0w)
        return low + 0.5 * (high - low) * (1 + math.cos(row.tokens * math.pi / limit))

    keys = {"right_short": r0c, "right_long": rlc, "wrong_short": r0w, "wrong_long": rlw, "at_limit": at_limit}
    close(totals(COSINE | keys | {"limit": limit}, rows), expected(rows, paper))


def test_below_the_limit_it_is_trls_function():
    from trl.rewards import get_cosine_scaled_reward

    theirs = get_cosine_scaled_reward(40, -1.0, -0.5, 0.5, 1.0)
    rows = [Row(0, right, n) for right in (True, False) for n in (0, 1, 13, 39)]
    completions = [[{"role": "assistant", "content": f"\\boxed{{{1 if row.right else 2}}}"}] for row in rows]
    wanted = theirs(completions, solution=["$1$"] * len(rows), completion_ids=[[0] * row.tokens for row in rows])
    keys = {"limit": 40, "right_short": 1.0, "right_long": 0.5, "wrong_short": -1.0, "wrong_long": -0.5}
    close(totals(COSINE | keys, rows), wanted)


@given(batches(longest=63))
def test_no_finished_wrong_answer_outranks_a_finished_right_one(rows):
    finished = [row for row in rows if not row.cut]
    assert not outranked(finished, totals(COSINE, finished) if finished else [])


def test_a_right_answer_that_reaches_the_limit_is_outranked_by_a_wrong_one():
    rows = [Row(0, True, 64), Row(0, False, 10)]
    assert outranked(rows, totals(COSINE, rows))


def test_a_limit_shorter_than_the_completions_never_turns_the_sign():
    """Without the check for the limit, a wrong completion of twice the limit would be back at the start's value."""
    got = totals(COSINE | {"limit": 10, "wrong_short": 5.0}, [Row(0, False, 20), Row(0, True, 20)])
    close(got, [-10, -10])


def test_a_missing_limit_is_refused_when_the_suite_is_built():
    with pytest.raises(PluginError, match="no limit"):
        score(COSINE, [], max_completion_length=0)
