"""What a reward may ask about its trajectories: groups, successes, numbers of the task row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.plugin import PluginError, by_group, column_of, number_in, reward, success
from tests.plugin.conftest import trajectory as make


@given(st.lists(st.integers(-2, 3), max_size=12))
def test_groups_are_told_by_number_and_hold_each_index_once(numbers):
    groups = by_group([make(number) for number in numbers])
    assert sorted(i for group in groups for i in group) == list(range(len(numbers)))
    assert [{numbers[i] for i in group} for group in groups] == [{n} for n in dict.fromkeys(numbers)]


ASKING = """
from cib_rl.plugin import success
@reward("half", kind="outcome")
def half(ts): return [t.task["half"] for t in ts]
@reward("other", kind="outcome")
def other(ts): return [t.task["other"] for t in ts]
@reward("asks", kind="shaping")
def asks(ts): return [10.0 * s for s in success(ts)]
@reward("breaks", kind="shaping")
def breaks(ts): return [float("nan") if t.task["half"] == 0.25 else 0.0 for t in ts]
"""


def test_success_is_what_the_scores_call_correct_and_known_to_shaping_rewards_wherever_they_stand(
    suite, plugin, trajectory
):
    """Weights 1 and 3: of at most 4, 2 are needed; a weight below 0 adds nothing to the most."""
    plugin(ASKING)
    one = suite(
        {"name": "mine.py:asks"},
        {"name": "mine.py:half", "weight": 1.0},
        {"name": "mine.py:other", "weight": 3.0},
    )
    cases = [
        (1.0, 0.0, False),
        (1.0, 0.3, False),
        (0.5, 0.5, True),
        (0.0, 1.0, True),
        (1.0, None, True),
        (0.4, 0.4, False),
    ]
    made = [trajectory(i, half=half, other=other) for i, (half, other, _) in enumerate(cases)]
    assert all(t.success is None for t in made)
    scores = one.score(made)
    assert scores.correct.tolist() == [t.success for t in made] == [right for _, _, right in cases]
    assert scores.values["asks"].tolist() == [10.0 * right for _, _, right in cases]


def test_a_trajectory_that_a_shaping_reward_failed_on_is_no_success_in_the_end(suite, plugin, trajectory):
    plugin(ASKING)
    made = [trajectory(0, half=0.25, other=1.0), trajectory(1, half=1.0, other=1.0)]
    scores = suite({"name": "mine.py:other"}, {"name": "mine.py:breaks"}).score(made)
    assert scores.correct.tolist() == [t.success for t in made] == [False, True]


DECLARED = """
from cib_rl.plugin import success
@reward("asks", kind="shaping", needs_success=True)
def asks(ts): return [10.0 * s for s in success(ts)]
@reward("loads", kind="shaping")
class Loads:
    def __init__(self): raise AssertionError("built before the recipe was found wrong")
    def __call__(self, ts): return [0.0] * len(ts)
@reward("right", kind="outcome")
def right(ts): return [1.0] * len(ts)
"""


def test_a_reward_that_says_it_asks_for_successes_is_refused_without_an_outcome_and_before_any_is_built(
    suite, plugin, trajectory
):
    plugin(DECLARED)
    with pytest.raises(PluginError, match=r"reward 'mine': it asks .*needs an outcome reward.*`- name: math_correct`"):
        suite({"name": "mine.py:loads"}, {"name": "mine.py:asks", "label": "mine"})
    one = suite({"name": "mine.py:asks"}, {"name": "mine.py:right"})
    assert one.score([trajectory()]).values["asks"].tolist() == [10.0]


def test_what_asks_for_successes_cannot_decide_them(suite, plugin):
    plugin(DECLARED)
    with pytest.raises(PluginError, match=r"'mine\.py:asks' asks which .* cannot be one itself"):
        suite({"name": "mine.py:asks", "kind": "outcome"})
    with pytest.raises(ValueError, match="needs_success"):
        reward("both", kind="outcome", needs_success=True)


def test_success_without_an_outcome_reward_is_an_error_that_says_so(suite, plugin, trajectory):
    plugin(ASKING)
    with pytest.raises(PluginError, match=r"row 'task-7'.*needs an outcome reward"):
        suite({"name": "mine.py:asks"}).score([trajectory(7)])
    judged = trajectory(8)
    judged.success = True
    assert success([judged]).tolist() == [True]  # by another suite: known is known


@pytest.mark.parametrize("value", ["3", None, True, float("nan"), float("inf")])
def test_a_column_without_a_number_names_row_and_column(value):
    with pytest.raises(PluginError, match=r"mine needs a number in the column 'n' .*row 5 holds"):
        number_in({"id": 5, "n": value}, "n", who="mine")


def test_numbers_of_columns():
    assert number_in({"n": 3}, "n", who="mine") == 3.0
    with pytest.raises(PluginError, match="row 5 has no such column"):
        number_in({"id": 5}, "n", who="mine")
    assert column_of("task.n", who="mine") == "n"
    for bad in ("n", "task.", "row.n", ""):
        with pytest.raises(PluginError, match=r"mine: target must be a number or task\.COLUMN"):
            column_of(bad, who="mine")
