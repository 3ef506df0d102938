"""The suite: weights, gates, errors that stay where they belong, async rewards together."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cib_rl.plugin import PluginError, RewardContext, RewardFailure, RewardSuite
from cib_rl.plugin.background import BackgroundLoop
from cib_rl.plugin.contract import Failed, TokenRewards
from cib_rl.recipe import RewardSection
from cib_rl.trajectory import StopReason

# Rewards that say what the task row tells them to say, so that hypothesis can choose.
BY_COLUMN = """
import json
@reward("by_column", kind="shaping")
def by_column(trajectories, *, column: str):
    return [t.task[column] for t in trajectories]
"""

VALUES = st.one_of(st.none(), st.floats(-5, 5), st.integers(-3, 3), st.booleans())
WEIGHTS = st.floats(-2, 2).map(lambda w: round(w, 3))


def close(a, b) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@st.composite
def batches(draw):
    """Rewards as (kind, weight, only_when_correct) and rows of their values."""
    rewards = [("outcome", draw(WEIGHTS), False)]
    rewards += draw(st.lists(st.tuples(st.just("shaping"), WEIGHTS, st.booleans()), max_size=3))
    rewards += draw(st.lists(st.tuples(st.just("outcome"), WEIGHTS, st.just(False)), max_size=2))
    rows = draw(st.lists(st.lists(VALUES, min_size=len(rewards), max_size=len(rewards)), min_size=1, max_size=6))
    return rewards, rows


def naive(rewards, row):
    """The documented sums for one trajectory, written out plainly: (outcome, shaping, total, correct)."""
    outcome, most, shaping, applied = 0.0, 0.0, 0.0, False
    for (kind, weight, _), value in zip(rewards, row, strict=True):
        if kind == "outcome" and value is not None:
            outcome, most, applied = outcome + weight * value, most + max(0.0, weight), True
    correct = most > 0 and outcome >= most / 2
    for (kind, weight, gated), value in zip(rewards, row, strict=True):
        if kind == "shaping" and value is not None and (correct or not gated):
            shaping, applied = shaping + weight * value, True
    return outcome, shaping, outcome + shaping if applied else np.nan, correct


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(batches(), st.randoms())
def test_sums_are_the_documented_ones_and_do_not_depend_on_the_order(tmp_path, plugin, trajectory, batch, random):
    rewards, rows = batch
    plugin(BY_COLUMN)
    sections = [
        RewardSection(name="mine.py", label=f"r{k}", kind=kind, weight=weight, only_when_correct=gated, column=f"c{k}")
        for k, (kind, weight, gated) in enumerate(rewards)
    ]
    one = RewardSuite(sections, RewardContext(base_dir=tmp_path))

    def score(order):
        made = [trajectory(i, **{f"c{k}": v for k, v in enumerate(rows[i])}) for i in order]
        return one.score(made), made

    scores, made = score(range(len(rows)))
    expected = [naive(rewards, row) for row in rows]
    close(scores.outcome, [e[0] for e in expected])
    close(scores.shaping, [e[1] for e in expected])
    close(scores.total, [e[2] for e in expected])
    assert scores.correct.tolist() == [e[3] for e in expected]
    assert scores.valid.all() and not scores.errors
    for k in range(len(rewards)):
        close(scores.values[f"r{k}"], [np.nan if row[k] is None else float(row[k]) for row in rows])
        assert [t.rewards[f"r{k}"] for t in made] == [None if row[k] is None else float(row[k]) for row in rows]
    order = list(range(len(rows)))
    random.shuffle(order)
    shuffled, _ = score(order)
    np.testing.assert_array_equal(shuffled.total, scores.total[order])
    np.testing.assert_array_equal(shuffled.correct, scores.correct[order])


def test_token_rewards_are_weighted_summed_and_gated(suite, plugin, trajectory):
    plugin(
        '@reward("right", kind="outcome")\ndef right(ts): return [float(t.task["ok"]) for t in ts]\n'
        '@reward("a", kind="shaping")\ndef a(ts): return [TokenRewards([1.0, 2.0, 3.0]) for t in ts]\n'
        '@reward("b", kind="shaping")\n'
        'def b(ts): return [TokenRewards([1, 0, -1]) if t.task["ok"] else None for t in ts]\n'
    )
    one = suite(
        {"name": "mine.py:right"},
        {"name": "mine.py:a", "weight": 0.5, "only_when_correct": True},
        {"name": "mine.py:b", "weight": 2.0},
    )
    scores = one.score([trajectory(0, environment=4, ok=True), trajectory(1, ok=False)])
    assert scores.token_rewards[0].tolist() == [2.5, 1.0, -0.5]
    assert scores.token_rewards[1] is None
    assert scores.values["a"].tolist() == [6.0, 6.0]
    assert scores.shaping.tolist() == [3.0, 0.0]
    assert scores.total.tolist() == [4.0, 0.0]


BY_TASK = """
@reward("judge", kind="outcome")
def judge(trajectories):
    bad = [t for t in trajectories if t.task["bad"] == "raise"]
    if bad:
        raise KeyError("boom")
    out = []
    for t in trajectories:
        if t.task["bad"] == "drop": continue
        out.append({"nan": float("nan"), "inf": float("inf"), "text": "1.0", "failed": Failed("no luck"), "list": [1.0],
                    "short": TokenRewards([1.0]), "nan token": TokenRewards([1.0, float("nan"), 1.0]), "shape":
                    TokenRewards([[1.0, 1.0, 1.0]])}.get(t.task["bad"], 1.0))
    return out
"""


@pytest.mark.parametrize(
    "bad, message, whole_group",
    [
        ("raise", r"KeyError: 'boom' .*mine\.py:7.*on group 1 \(task 'task-1'\)", True),
        ("drop", "returned 1 values for 2 trajectories, on group 1", True),
        ("nan", "returned nan", False),
        ("inf", "returned inf", False),
        ("text", "returned str '1.0' instead of a number", False),
        ("list", "returned list", False),
        ("failed", "no luck", False),
        ("short", r"TokenRewards of shape \(1,\) for 3 policy tokens", False),
        ("nan token", "TokenRewards with nan at token 1", False),
        ("shape", r"shape \(1, 3\)", False),
    ],
)
def test_an_error_stays_with_its_group_or_row_and_is_never_a_zero(suite, plugin, trajectory, bad, message, whole_group):
    plugin(BY_TASK)
    places = [(group, member) for group in range(3) for member in range(2)]
    made = [trajectory(place[0], bad=bad if place == (1, 0) else "") for place in places]
    scores = suite({"name": "mine.py"}).score(made)
    lost = {2, 3} if whole_group else {2}
    assert {i for i in range(6) if not scores.valid[i]} == lost
    assert {e.index for e in scores.errors} == lost == {i for i, t in enumerate(made) if t.failed}
    for error in scores.errors:
        assert error.label == "judge"
        assert re.search(message, error.message), error.message
        assert error.message in made[error.index].errors[0]
    for i in range(6):
        expected = np.nan if i in lost else 1.0
        for values in (scores.values["judge"], scores.outcome, scores.total):
            np.testing.assert_equal(values[i], expected)
        assert ("judge" in made[i].rewards) == (i not in lost)
    assert not scores.correct[list(lost)].any()
    assert (scores.attempted["judge"], scores.failures["judge"]) == (6, len(lost))


@pytest.mark.parametrize("returned", ["1.0", "'yes'", "{}", "None", "(x for x in ts)", "[1.0]"])
def test_a_return_value_that_is_no_list_of_the_right_length_stops_the_run(suite, plugin, trajectory, returned):
    plugin(f'@reward("f", kind="outcome")\ndef f(ts): return {returned}\n')
    with pytest.raises(RewardFailure, match=r"reward 'f' failed on all 4 trajectories.*returned"):
        suite({"name": "mine.py"}).score([trajectory(g) for g in (0, 0, 1, 1)])


def test_failing_everywhere_stops_the_run_unless_the_caller_decides(suite, plugin, trajectory):
    plugin('@reward("f", kind="outcome")\ndef f(ts): raise ValueError("no")\n')
    with pytest.raises(RewardFailure, match="'f' failed on all 2"):
        suite({"name": "mine.py"}).score([trajectory(0), trajectory(1)])
    scores = suite({"name": "mine.py"}).score([trajectory(0), trajectory(1)], stop=False)
    assert scores.attempted["f"] == scores.failures["f"] == 2


def test_one_call_suffices_when_nothing_fails_and_one_more_per_group_when_something_does(suite, plugin, trajectory):
    plugin(
        'calls = []\n@reward("f", kind="outcome")\nclass F:\n    def __init__(self): self.calls = []\n'
        "    def __call__(self, ts):\n        self.calls.append([t.group for t in ts])\n"
        '        if any(t.task.get("bad") for t in ts): raise ValueError\n        return [1.0] * len(ts)\n'
    )
    one = suite({"name": "mine.py"})
    one.score([trajectory(0), trajectory(1)])
    assert one.rewards[0].target.calls == [[0, 1]]
    one.score([trajectory(0), trajectory(1, bad=True), trajectory(0)])
    assert one.rewards[0].target.calls[1:] == [[0, 1, 0], [0, 0], [1]]


def test_failed_episodes_are_not_scored(suite, plugin, trajectory):
    plugin('@reward("f", kind="outcome")\ndef f(ts):\n    assert len(ts) == 1\n    return [1.0]\n')
    broken = trajectory(0)
    broken.errors.append("environment: it broke")
    scores = suite({"name": "mine.py"}).score([broken, trajectory(0), trajectory(0, stop=StopReason.TIMEOUT)])
    assert scores.valid.tolist() == [False, True, False]
    np.testing.assert_equal(scores.total, [np.nan, 1.0, np.nan])
    assert not scores.errors


def test_a_batch_of_failed_episodes_or_none_at_all_is_no_failure_of_the_rewards(suite, plugin, trajectory):
    plugin('@reward("f", kind="outcome")\ndef f(ts): return [1.0] * len(ts)\n')
    assert suite({"name": "mine.py"}).score([]).total.shape == (0,)
    assert not suite({"name": "mine.py"}).score([trajectory(stop=StopReason.ERROR)]).valid.any()


def test_shaping_rewards_see_the_outcome_and_not_the_trajectories_it_failed_on(suite, plugin, trajectory):
    plugin(
        '@reward("late", kind="shaping")\ndef late(ts): return [10 * t.rewards["first"] for t in ts]\n'
        '@reward("first", kind="outcome")\ndef first(ts): return [t.task["v"] for t in ts]\n'
    )
    one = suite({"name": "mine.py:late"}, {"name": "mine.py:first"})
    scores = one.score([trajectory(0, v=1.0), trajectory(1, v=float("nan")), trajectory(2, v=0.5)])
    np.testing.assert_equal(scores.values["late"], [10.0, np.nan, 5.0])
    assert scores.attempted == {"late": 2, "first": 3}


@pytest.mark.parametrize(
    "sections, message",
    [
        ([{"name": "mine.py:a"}, {"name": "mine.py:a"}], "two rewards are labelled 'a'"),
        ([{"name": "mine.py:a", "kind": "shaping", "only_when_correct": True}], "needs an outcome reward"),
        ([{"name": "mine.py:a", "only_when_correct": True}], "only_when_correct is for shaping"),
    ],
)
def test_sections_that_make_no_sense_together_are_refused(suite, plugin, sections, message):
    plugin('@reward("a", kind="outcome")\ndef a(ts): return [1.0] * len(ts)\n')
    with pytest.raises(PluginError, match=message):
        suite(*sections)


def test_async_rewards_run_together_while_sync_ones_run(suite, plugin, trajectory):
    # Each waits for an event that the next one sets: run one after the other they would wait for ever.
    source = """
import asyncio, threading
CHAIN = [threading.Event() for _ in range(4)]

async def until(event):
    while not event.is_set():
        await asyncio.sleep(0.001)

@reward("first", kind="outcome")
async def first(ts):
    await until(CHAIN[1])
    CHAIN[0].set()
    return [1.0] * len(ts)

@reward("second", kind="outcome")
class Second:
    async def __call__(self, ts):
        await until(CHAIN[2])
        CHAIN[1].set()
        return [2.0] * len(ts)

@reward("sync", kind="outcome")
def sync(ts):
    CHAIN[2].set()
    assert CHAIN[0].wait(60)
    return [3.0] * len(ts)
"""
    plugin(source)
    scores = suite(*({"name": f"mine.py:{n}"} for n in ("first", "second", "sync"))).score([trajectory()])
    assert {k: v.tolist() for k, v in scores.values.items()} == {"first": [1.0], "second": [2.0], "sync": [3.0]}


def test_async_rewards_work_under_a_running_loop_and_keep_one_loop(suite, plugin, trajectory):
    plugin(
        'import asyncio\n@reward("f", kind="outcome")\nclass F:\n    loops = []\n    async def __call__(self, ts):\n'
        "        self.loops.append(asyncio.get_running_loop())\n        return [1.0] * len(ts)\n"
        "    async def close(self): self.loops.append(asyncio.get_running_loop())\n"
    )
    one = suite({"name": "mine.py"})

    async def main():
        return one.score([trajectory()]), one.score([trajectory()])

    for scores in asyncio.run(main()):
        assert scores.total.tolist() == [1.0]
    one.close()
    one.close()
    loops = one.rewards[0].target.loops
    assert len(loops) == 4 and len(set(map(id, loops[:3]))) == 1


def test_an_async_reward_that_raises_is_isolated_too(suite, plugin, trajectory):
    plugin(
        '@reward("f", kind="outcome")\nasync def f(ts):\n    if ts[-1].group == 1: raise ValueError("here")\n'
        "    return [1.0] * len(ts)\n"
    )
    scores = suite({"name": "mine.py"}).score([trajectory(0), trajectory(1)])
    assert scores.valid.tolist() == [True, False]
    assert "on group 1" in scores.errors[0].message


def test_an_interrupt_in_a_sync_reward_ends_the_waiting_async_ones(suite, plugin, trajectory):
    plugin(
        'import asyncio\n@reward("s", kind="outcome")\ndef s(ts): raise KeyboardInterrupt\n'
        '@reward("a", kind="outcome")\nasync def a(ts): await asyncio.sleep(3600)\n'
    )
    with pytest.raises(KeyboardInterrupt):
        suite({"name": "mine.py:a"}, {"name": "mine.py:s"}).score([trajectory()])


def test_a_cancelled_loop_refuses_what_comes_late_until_it_accepts_again():
    loop = BackgroundLoop()

    async def one():
        return 1

    loop.cancel()
    with pytest.raises(CancelledError):
        loop.resolve(one())
    loop.accept()
    assert loop.resolve(one()) == 1
    loop.close()


def test_a_reward_that_cannot_be_closed_does_not_keep_the_others_from_it(suite, plugin, trajectory):
    plugin(
        "CLOSED = []\n"
        '@reward("a", kind="outcome")\nclass A:\n    def __call__(self, ts): return [1.0] * len(ts)\n'
        '    def close(self): raise RuntimeError("no")\n'
        '@reward("b", kind="outcome")\nclass B:\n    async def __call__(self, ts): return [1.0] * len(ts)\n'
        '    async def close(self): CLOSED.append("b")\n'
    )
    before = threading.enumerate()
    one = suite({"name": "mine.py:a"}, {"name": "mine.py:b"})
    one.score([trajectory()])
    (thread,) = (t for t in threading.enumerate() if t.name == "rewards" and t not in before)
    with pytest.raises(RuntimeError, match="no"):
        one.close()
    assert sys.modules[type(one.rewards[1].target).__module__].CLOSED == ["b"] and not thread.is_alive()
    one.rewards.clear()  # it is closed again behind the test


def test_a_task_that_a_reward_left_behind_ends_when_the_loop_is_closed():
    loop, ended, tasks = BackgroundLoop(), [], []

    async def session():
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)  # as closing a connection does
            ended.append("closed")

    async def score():
        tasks.append(asyncio.create_task(session()))
        await asyncio.sleep(0)

    loop.resolve(score())
    loop.close()
    assert ended == ["closed"] and tasks[0].done()


def test_state_is_saved_and_restored_by_label(suite, plugin):
    plugin(
        '@reward("f", kind="outcome")\nclass F:\n    n = 0\n    def __call__(self, ts): return [0.0] * len(ts)\n'
        '    def state_dict(self): return {"n": self.n}\n    def load_state_dict(self, s): self.n = s["n"]\n'
    )
    one, other = suite({"name": "mine.py", "label": "x"}), suite({"name": "mine.py", "label": "x"})
    one.rewards[0].target.n = 7
    other.load_state_dict(one.state_dict())
    assert other.rewards[0].target.n == 7
    with pytest.raises(PluginError, match="'y', which this recipe does not have"):
        other.load_state_dict({"y": {}})


def test_numpy_and_torch_values_are_numbers_too(suite, plugin, trajectory):
    plugin(
        'import numpy, torch\n@reward("n", kind="outcome")\ndef n(ts): return numpy.ones(len(ts))\n'
        '@reward("t", kind="shaping")\ndef t(ts): return torch.full((len(ts),), 2.0)\n'
    )
    assert suite({"name": "mine.py:n"}, {"name": "mine.py:t"}).score([trajectory()] * 2).total.tolist() == [3.0, 3.0]


def test_markers_are_values():
    assert Failed("x") == Failed("x") and TokenRewards([1.0, 2.0]).sum() == 3.0
