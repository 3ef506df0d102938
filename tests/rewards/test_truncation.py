"""Truncation: the papers' rule, and ThinkPrune's rounds."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.plugin import PluginError
from tests.rewards.support import Row, batches, close, completion, expected, score, totals


def test_hand_worked():
    rows = [Row(0, True, 10), Row(0, True, 11), Row(0, True, 9, cut=True), Row(0, False, 3), Row(0, False, 30)]
    close(totals({"name": "truncation", "limit": 10}, rows), [1, 0, 0, 0, 0])


@given(batches(), st.integers(1, 80))
def test_the_total_is_being_right_within_the_limit(rows, limit):
    def paper(row, _):
        return 1.0 if row.right and not row.cut and row.tokens <= limit else 0.0

    close(totals({"name": "truncation", "limit": limit}, rows), expected(rows, paper))


@pytest.mark.parametrize(("step", "limit"), [(0, 30), (4, 30), (5, 20), (9, 20), (10, 10), (99, 10), (None, 30)])
def test_rounds_go_by_the_trainers_step_and_the_last_one_stays(step, limit):
    section = {"name": "truncation", "limit": [30, 20, 10], "steps_per_round": 5}
    state = None if step is None else SimpleNamespace(global_step=step)
    made = [completion(Row(0, True, n)) for n in (10, 20, 30, 31)]
    close(score(section, made, trainer_state=state).total, [n <= limit for n in (10, 20, 30, 31)])
    assert [t.diagnostics["token_limit"] for t in made] == [limit] * 4


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"limit": []}, "empty list"),
        ({"limit": [3, 2]}, "need steps_per_round"),
        ({"limit": 0}, "limit"),
        ({"limit": [3, -2], "steps_per_round": 1}, "limit"),
        ({"limit": 3, "steps_per_round": 0}, "steps_per_round"),
    ],
)
def test_senseless_keys_are_refused_when_the_suite_is_built(keys, message):
    with pytest.raises(PluginError, match=message):
        score({"name": "truncation"} | keys, [])
