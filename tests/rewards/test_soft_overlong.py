"""DAPO's soft overlong punishment, also against TRL's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.plugin import PluginError, RewardContext, RewardSuite
from cib_rl.recipe import RewardSection
from tests.rewards.support import Row, close, completion, outranked, score, totals

SOFT = {"name": "soft_overlong"}


def test_hand_worked():
    """Limit 50, cache 20: 0 up to 30, −½ at 40, −1 at 50 and beyond; right or wrong."""
    tokens = [0, 30, 40, 50, 70]
    close(totals(SOFT | {"limit": 50, "cache": 20}, [Row(0, True, n) for n in tokens]), [1, 1, 0.5, 0, 0])
    close(totals(SOFT | {"limit": 50, "cache": 20}, [Row(0, False, n) for n in tokens]), [0, 0, -0.5, -1, -1])


def test_defaults_are_the_longest_completion_and_the_papers_share_of_it():
    rows = [Row(0, True, n) for n in (16, 18, 20)]
    close(totals(SOFT, rows, max_completion_length=20), [1, 0.5, 0])  # 4096 of 20480: a fifth


@given(st.lists(st.integers(0, 90), min_size=1, max_size=8), st.integers(1, 80), st.data())
def test_it_is_trls_function(lengths, limit, data):
    from trl.rewards import get_soft_overlong_punishment

    cache = data.draw(st.integers(1, limit))
    theirs = get_soft_overlong_punishment(max_completion_len=limit, soft_punish_cache=cache)
    rows = [Row(0, False, n) for n in lengths]
    close(totals(SOFT | {"limit": limit, "cache": cache}, rows), theirs([[0] * n for n in lengths]))


def test_it_needs_no_outcome():
    suite = RewardSuite([RewardSection(**SOFT, limit=4, cache=2)], RewardContext())
    close(suite.score([completion(Row(0, True, 3))]).total, [-0.5])
    suite.close()


def test_above_a_weight_of_one_a_short_wrong_answer_outranks_a_right_one_at_the_limit():
    rows = [Row(0, True, 50), Row(0, False, 10)]
    section = SOFT | {"limit": 50, "cache": 20}
    assert not outranked(rows, totals(section | {"weight": 1.0}, rows))
    assert outranked(rows, totals(section | {"weight": 1.1}, rows))


@pytest.mark.parametrize(
    ("keys", "context"), [({"limit": 5, "cache": 6}, {}), ({}, {"max_completion_length": 0}), ({"limit": 0}, {})]
)
def test_senseless_keys_are_refused_when_the_suite_is_built(keys, context):
    with pytest.raises(PluginError, match="soft_overlong"):
        score(SOFT | keys, [], **context)
