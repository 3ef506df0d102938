"""Limits of a suite: time and concurrency, shares of errors, what a reward may touch, schedules, success."""

from __future__ import annotations

import json
import re
import threading

import pytest
from pydantic import ValidationError

from cib_rl.plugin import PluginError, RewardContext, RewardFailure, RewardSuite, waiting
from cib_rl.recipe import RewardSection, SuccessSection
from cib_rl.trajectory import StopReason, Turn
from tests.plugin.conftest import trajectory


def row(name="a", group=0, **task):
    return trajectory(group, id=name, **task)


def test_a_reward_that_takes_too_long_fails_where_it_does(suite, plugin):
    plugin(
        """
import asyncio
@reward("slow", kind="outcome")
async def slow(ts):
    if any(t.task["id"] == "bad" for t in ts):
        await asyncio.sleep(60)
    return [1.0] * len(ts)
"""
    )
    rows = [row("good", 0), row("good", 0), row("bad", 1), row("bad", 1)]
    scores = suite({"name": "mine.py:slow", "call_timeout": 0.5}).score(rows)
    assert scores.valid.tolist() == [True, True, False, False]
    assert "no answer within 0.5 s (call_timeout)" in scores.errors[0].message and "group 1" in scores.errors[0].message


BLOCKS = "time.sleep(1)"
CATCHES = "try: await asyncio.sleep(60)\n        except asyncio.CancelledError: pass"


@pytest.mark.parametrize("held", [BLOCKS, CATCHES])
def test_an_answer_that_comes_too_late_is_none(suite, plugin, held):
    plugin(
        f"""
import asyncio, time
@reward("slow", kind="outcome")
async def slow(ts):
    if any(t.task["id"] == "bad" for t in ts):
        {held}
    return [1.0] * len(ts)
"""
    )
    scores = suite({"name": "mine.py:slow", "call_timeout": 0.5}).score([row("good", 0), row("bad", 1)])
    assert scores.valid.tolist() == [True, False]
    assert re.search(r"no answer within 0.5 s \(call_timeout\); it came after .* group 1", scores.errors[0].message)


WAITS = """
import asyncio, time
from pathlib import Path
@reward("slow", kind="outcome")
{how} slow(ts):
    while not Path(__file__).with_name("told").exists():
        {wait}(0.01)
    return [1.0] * len(ts)
"""


@pytest.mark.parametrize(("how", "wait"), [("async def", "await asyncio.sleep"), ("def", "time.sleep")])
def test_a_reward_that_is_waited_for_is_named_and_then_no_more(suite, plugin, tmp_path, monkeypatch, how, wait):
    told = []

    def tell(text, *values):
        told.append(text % values)
        if len(told) == 3:
            (tmp_path / "told").touch()  # the reward returns

    monkeypatch.setattr(waiting, "FIRST_WARNING", 0.1)
    monkeypatch.setattr(waiting.logger, "warning", tell)
    plugin(WAITS.format(how=how, wait=wait))
    assert suite({"name": "mine.py:slow"}).score([row()]).valid.all()
    assert told[:3] == [f"still waiting for reward slow after {seconds} s" for seconds in (0.1, 0.2, 0.4)]
    for thread in threading.enumerate():
        if thread.name == "waiting for slow":
            thread.join(timeout=60)
            assert not thread.is_alive()


def test_no_more_calls_run_at_once_than_allowed(suite, plugin):
    plugin(
        """
import asyncio
running = most = calls = 0
@reward("counts", kind="outcome")
async def counts(ts):
    global running, most, calls
    running, calls = running + 1, calls + 1
    most = max(most, running)
    await asyncio.sleep(0.01)
    running -= 1
    return [float(most)] * len(ts)
"""
    )
    rows = [row(str(group), group) for group in range(6) for _ in range(2)]
    made = suite({"name": "mine.py:counts", "call_concurrency": 2})
    assert made.score(rows).values["counts"].max() == 2
    module = made.rewards[0].target.__globals__
    assert module["calls"] == 6  # one per group


@pytest.mark.parametrize("key", ["call_timeout", "call_concurrency"])
def test_limits_of_async_rewards_are_refused_for_plain_ones(suite, plugin, key):
    plugin('@reward("f", kind="outcome")\ndef f(ts): return [0.0] * len(ts)\n')
    with pytest.raises(PluginError, match=f"{key} is for async rewards; this one is a plain function"):
        suite({"name": "mine.py:f", key: 1})


CHANGES = {
    "a token": ("segments", "t.segments[0].completion_ids[0] = 7"),
    "one more token": ("segments", "t.segments[0].completion_ids.append(5)"),
    "the prompt's tokens": ("segments", "t.segments[0].prompt_ids.pop()"),
    "a log-probability": ("segments", "t.segments[0].logprobs[0] = -0.5"),
    "the policy's share": ("segments", "t.segments[0].policy_mask[0] = 0"),
    "a turn": ("turns", "t.turns[0].weights_version = 3"),
    "a document": ("turns", "t.turns[0].documents.append('x')"),
    "a track": ("tracks", "t.tracks['value'][0] = 1.0"),
    "a track set anew": ("tracks", "t.set_track('value', [1.0] * 3)"),
    "a track taken away": ("tracks", "del t.tracks['value']"),
    "the task": ("task", "t.task['answer'] = 'forged'"),
    "the text": ("text", "t.text = ''"),
    "the policy's text": ("text", "t.policy_text = ''"),
    "the answer": ("answer", "t.answer = 'other'"),
    "the group": ("group", "t.group = 7"),
    "the member": ("group", "t.member = 7"),
    "the end": ("stop_reason", "t.stop_reason = 'eos'"),
    "a reward": ("rewards", "t.rewards['judge'] = 1.0"),
    "the verdict": ("success", "t.success = True"),
    "what was logged": ("extras", "t.extras['x'] = 1"),
    "the errors": ("errors", "t.errors.append('x')"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("how", ["def", "async def"])
def test_a_reward_that_changes_what_it_is_given_is_named(suite, plugin, change, how):
    part, statement = CHANGES[change]
    plugin(
        f'@reward("f", kind="outcome")\n{how} f(ts):\n    for t in ts[1:]:\n        {statement}\n'
        "    return [0.0] * len(ts)\n"
    )
    rows = [row("a"), row("b")]
    for t in rows:
        t.turns.append(Turn(0, 0, 3, StopReason.EOS))
        t.set_track("value", [0.0] * 3)
    with pytest.raises(PluginError, match=rf"reward 'f' changed `{part}` of a trajectory \(row 'b'\)"):
        suite({"name": "mine.py:f"}).score(rows)


def test_a_shaping_reward_cannot_forge_the_verdict_that_the_next_one_reads(suite, plugin):
    plugin(
        '@reward("wrong", kind="outcome")\ndef wrong(ts): return [0.0] * len(ts)\n'
        '@reward("forger", kind="shaping")\ndef forger(ts):\n    ts[0].success = True\n    return [0.0] * len(ts)\n'
    )
    with pytest.raises(PluginError, match="reward 'forger' changed `success`"):
        suite({"name": "mine.py:wrong"}, {"name": "mine.py:forger"}).score([row()])


def test_a_reward_may_sort_its_list_and_attach_numbers(suite, plugin):
    plugin(
        '@reward("f", kind="outcome")\ndef f(ts):\n    ts.reverse()\n    for t in ts:\n'
        '        t.diagnostics["n"] = 1.0\n        t.set_track("x", [0.0] * len(t.completion_ids))\n'
        "    ts.pop()\n    return [1.0, 0.0]\n"
    )
    rows = [row("a"), row("b")]
    scores = suite({"name": "mine.py:f"}).score(rows)
    assert scores.values["f"].tolist() == [1.0, 0.0] and [t.task["id"] for t in rows] == ["a", "b"]
    assert rows[0].diagnostics == {"n": 1.0}


@pytest.mark.parametrize("how", ["def", "async def"])
@pytest.mark.parametrize("value", ["'text'", "None", "[1.0]"])
def test_a_diagnostic_that_is_no_number_is_named_with_its_reward(suite, plugin, how, value):
    plugin(
        f'@reward("f", kind="outcome")\n{how} f(ts):\n    ts[0].diagnostics["x"] = {value}\n'
        "    return [0.0] * len(ts)\n"
    )
    message = rf"reward 'f' attached the diagnostic 'x' = {re.escape(value)} to a trajectory \(row 'a'\)"
    with pytest.raises(PluginError, match=message):
        suite({"name": "mine.py:f"}).score([row("a")])


@pytest.mark.parametrize("value", ["np.float32(0.5)", "np.array(0.5)", "0.5"])
def test_diagnostics_become_plain_numbers(suite, plugin, value):
    plugin(
        f'import numpy as np\n@reward("f", kind="outcome")\ndef f(ts):\n    ts[0].diagnostics["x"] = {value}\n'
        "    return [0.0] * len(ts)\n"
    )
    rows = [row("a")]
    suite({"name": "mine.py:f"}).score(rows)
    assert json.dumps(rows[0].diagnostics) == '{"x": 0.5}'


class _State:
    def __init__(self, step):
        self.global_step = step


@pytest.mark.parametrize(("step", "factor"), [(0, 0.0), (10, 0.0), (15, 0.5), (20, 1.0), (500, 1.0)])
def test_a_weight_follows_its_schedule(suite, plugin, step, factor):
    plugin(
        '@reward("right", kind="outcome")\ndef right(ts): return [1.0] * len(ts)\n'
        '@reward("short", kind="shaping")\ndef short(ts): return [-3.0] * len(ts)\n'
    )
    late = {"name": "mine.py:short", "weight": 2.0, "weight_schedule": {20: 1.0, 10: 0.0}}
    scores = suite({"name": "mine.py:right"}, late, trainer_state=_State(step)).score([row()])
    assert scores.shaping[0] == -3.0 * 2.0 * factor and scores.weights["short"] == 2.0 * factor
    assert scores.correct[0]


def test_success_does_not_change_with_an_outcomes_schedule(suite, plugin):
    plugin('@reward("right", kind="outcome")\ndef right(ts): return [t.task["v"] for t in ts]\n')
    off = {"name": "mine.py:right", "weight_schedule": {5: 0.0, 6: 1.0}}
    scores = suite(off, trainer_state=_State(0)).score([row(v=1.0), row(v=0.0)])
    assert scores.outcome.tolist() == [0.0, 0.0] and scores.correct.tolist() == [True, False]


@pytest.mark.parametrize(
    ("success", "expected"),
    [
        ({}, [False, True, True]),  # half of the most the sum can be: 0.5 · (1 + 1)
        ({"threshold": 1.5}, [False, False, True]),
        ({"outcome": "exact"}, [False, False, True]),
        ({"outcome": "f1", "threshold": 0.9}, [False, True, True]),
        ({"outcome": "f1", "threshold": 0.2}, [True, True, True]),
    ],
)
def test_success_is_what_the_recipe_says(plugin, tmp_path, success, expected):
    plugin(
        '@reward("exact", kind="outcome")\ndef exact(ts): return [t.task["exact"] for t in ts]\n'
        '@reward("f1", kind="outcome")\ndef f1(ts): return [t.task["f1"] for t in ts]\n'
    )
    sections = [RewardSection(name=f"mine.py:{name}") for name in ("exact", "f1")]
    suite = RewardSuite(sections, RewardContext(base_dir=tmp_path), SuccessSection(**success))
    rows = [row(exact=e, f1=f) for e, f in ((0.0, 0.4), (0.0, 1.0), (1.0, 1.0))]
    assert suite.score(rows).correct.tolist() == expected


def test_a_success_by_an_outcome_that_is_not_there_is_refused(plugin, tmp_path):
    plugin('@reward("exact", kind="outcome")\ndef exact(ts): return [1.0] * len(ts)\n')
    with pytest.raises(PluginError, match=r"success\.outcome: no outcome is labelled 'exakt'; known: exact"):
        RewardSuite(
            [RewardSection(name="mine.py:exact")], RewardContext(base_dir=tmp_path), SuccessSection(outcome="exakt")
        )


@pytest.mark.parametrize(("share", "stops"), [(0.25, True), (0.5, False), (1.0, False)])
def test_failing_on_more_than_its_share_stops_the_run(suite, plugin, share, stops):
    plugin(
        '@reward("f", kind="outcome")\ndef f(ts): return [float("nan") if t.task["id"] == "bad" else 1.0 for t in ts]\n'
    )
    made = suite({"name": "mine.py:f", "max_error_share": share})
    rows = [row("bad", 0), row("good", 0), row("bad", 1), row("good", 1)]
    if stops:
        with pytest.raises(RewardFailure, match=r"failed on 2 of 4 .* more than its max_error_share of 0\.25"):
            made.score(rows)
    else:
        assert made.score(rows).valid.tolist() == [False, True, False, True]


@pytest.mark.parametrize("value", [1e308, 1e30])  # the second is finite, but its advantages need not be
@pytest.mark.parametrize("returned", ["t.task['v']", "TokenRewards([t.task['v'], 0.0, 0.0])"])
def test_a_value_that_its_weight_makes_too_large_is_a_failure_of_that_reward(suite, plugin, returned, value):
    plugin(
        '@reward("right", kind="outcome")\ndef right(ts): return [1.0] * len(ts)\n'
        f'@reward("huge", kind="shaping")\ndef huge(ts): return [{returned} for t in ts]\n'
    )
    scores = suite({"name": "mine.py:right"}, {"name": "mine.py:huge", "weight": 10.0, "max_error_share": 1.0}).score(
        [row("a", v=value), row("b", v=0.5)]
    )
    assert [(e.label, e.index) for e in scores.errors] == [("huge", 0)]
    assert f"{value:g} times its weight of 10 is not finite, or beyond 1e+30" in scores.errors[0].message
    assert scores.valid.tolist() == [False, True] and scores.total[1] == 6.0
    assert [e is not None for e in scores.token_rewards] == [False, "Token" in returned]


@pytest.mark.parametrize("schedule", [{0: float("inf")}, {0: float("nan")}, {-1: 1.0}, {}])
def test_a_schedule_has_finite_factors_at_steps_from_0(schedule):
    with pytest.raises(ValidationError, match="weight_schedule"):
        RewardSection(name="x", weight_schedule=schedule)


TWO_OUTCOMES = (
    '@reward("exact", kind="outcome")\ndef exact(ts): return [t.task.get("exact", 0.0) for t in ts]\n'
    '@reward("f1", kind="outcome")\ndef f1(ts): return [t.task.get("f1") for t in ts]\n'
)
CAP = {"name": "truncation", "limit": 2}


def scored(tmp_path, sections, success, rows):
    context = RewardContext(base_dir=tmp_path)
    return RewardSuite([RewardSection(**s) for s in sections], context, SuccessSection(**success)).score(rows)


@pytest.mark.parametrize(
    ("outcomes", "success", "message"),
    [
        ([{"name": "mine.py:exact", "weight": 0.9}], {}, "'exact' must add it with weight 1"),
        ([{"name": "mine.py:exact", "weight_schedule": {0: 1.0, 9: 0.0}}], {}, "'exact' must add it with weight 1"),
        ([{"name": "mine.py:exact"}, {"name": "mine.py:f1"}], {}, "there are several: exact, f1. Name it"),
        ([{"name": "mine.py:f1"}], {}, r"'f1' gave 0\.6 to a success \(row 'a'\)"),
        ([{"name": "mine.py:f1"}], {"threshold": 0.8}, r"'f1' gave 0\.6 to a failure \(row 'a'\)"),
        ([{"name": "mine.py:exact"}], {"threshold": 0.0}, r"'exact' gave 0 to a success \(row 'b'\)"),
    ],
)
def test_a_reward_that_stands_for_the_outcome_too_refuses_one_that_is_not_0_or_1(
    plugin, tmp_path, outcomes, success, message
):
    plugin(TWO_OUTCOMES)
    with pytest.raises(PluginError, match=rf"reward 'truncation' takes 1\[success\] away.*{message}"):
        scored(tmp_path, [*outcomes, CAP], success, [row("a", exact=1.0, f1=0.6), row("b", exact=0.0)])


@pytest.mark.parametrize(
    ("outcomes", "success", "totals"),
    [
        ([{"name": "mine.py:exact"}], {}, [0.0, 0.0]),
        ([{"name": "mine.py:exact", "weight_schedule": {0: 1.0}}], {}, [0.0, 0.0]),
        ([{"name": "mine.py:exact"}, {"name": "mine.py:f1", "weight": 0.5}], {"outcome": "exact"}, [0.5, 0.0]),
    ],
)
def test_with_an_outcome_of_0_and_1_the_sum_is_the_papers_reward(plugin, tmp_path, outcomes, success, totals):
    plugin(TWO_OUTCOMES)
    rows = [row("a", exact=1.0, f1=1.0), row("b", exact=0.0)]  # of 3 tokens: one more than allowed
    assert scored(tmp_path, [*outcomes, CAP], success, rows).total.tolist() == totals


def test_two_rewards_that_write_one_track_are_refused(plugin, tmp_path):
    plugin(
        '@reward("cost", kind="shaping")\nclass Cost:\n    def __init__(self, track="cost"): self.track = track\n'
        "    def __call__(self, ts):\n        for t in ts: t.set_track(self.track, [0.0] * len(t.completion_ids))\n"
        "        return [0.0] * len(ts)\n"
    )
    one, other = {"name": "mine.py:cost"}, {"name": "mine.py:cost", "label": "control"}
    with pytest.raises(PluginError, match=r"'cost' and 'control' both attach the track 'cost'.*track: control_track"):
        scored(tmp_path, [one, other], {}, [row()])
    rows = [row()]
    scored(tmp_path, [one, other | {"track": "control_track"}], {}, rows)
    assert set(rows[0].tracks) == {"cost", "control_track"}
