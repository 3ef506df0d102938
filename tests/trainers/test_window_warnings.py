"""Warnings about a window: when they come, and what they name."""

from __future__ import annotations

import re

import pytest

from cib_rl.trainers.window_warnings import cut_off, nothing_found, window_warnings
from cib_rl.trajectory import StopReason, Trajectory


@pytest.mark.parametrize(
    ("reasons", "says"),
    [
        ("length length eos", "67% .* most by `length`; raise environment.max_completion_length,"),
        ("max_turns max_turns max_turns length", "100% .* most by `max_turns`; raise .* environment.turns"),
        ("context prompt_too_long context stop_string", "75% .* most by `context`; raise engine.max_model_len"),
        ("length eos", None),
        ("error timeout", None),
    ],
)
def test_where_most_completions_are_cut_off_the_limit_that_did_it_is_named(reasons, says):
    warning = next(
        cut_off([Trajectory({"id": "0"}, 0, stop_reason=StopReason(reason)) for reason in reasons.split()]), None
    )
    assert warning is None if says is None else re.search(says, warning)


def test_every_limit_has_a_key():
    for reason in StopReason:
        assert bool(list(cut_off([Trajectory({"id": "0"}, 0, stop_reason=reason)]))) == reason.truncated


@pytest.mark.parametrize(
    ("empty", "failed", "says"),
    [(0.5, 0.0, None), (0.4, 0.2, "40% found nothing and 20% failed"), (0.97, 0.0, "97% found nothing"),
     (float("nan"), float("nan"), None)],
)  # fmt: skip
def test_searches_that_mostly_bring_nothing_are_told_of(empty, failed, says):
    warning = next(nothing_found({"search/empty": empty, "search/failed": failed}), None)
    assert warning is None if says is None else says in warning
    assert not list(nothing_found({}))  # no search at all


def test_an_idle_reward_is_told_of_once():
    idle = set()
    for expected in (1, 0):
        warnings = list(window_warnings([], {"applies/a": 0.0, "applies/b": 0.5}, ["a", "b"], idle))
        assert len(warnings) == expected and all("reward 'a'" in warning for warning in warnings)
