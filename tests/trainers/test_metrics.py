"""What a window tells of its rewards: of all calls, of completions that a gate shut out, of groups that failed."""

from __future__ import annotations

import pytest

from cib_rl.plugin import RewardContext, RewardSuite, reward
from cib_rl.recipe import RewardSection
from cib_rl.trainers.metrics import window_metrics
from cib_rl.trainers.window import Window
from tests.rewards.support import OUTCOME, Row, completion


@reward("tokens", kind="shaping")
def tokens(trajectories):
    """Their number, also as a diagnostic of the longer ones; None for empty ones."""
    for t in trajectories:
        if t.num_tokens > 2:
            t.diagnostics["long"] = t.num_tokens
    return [float(t.num_tokens) or None for t in trajectories]


def logs(completion_ids, log_metric, **columns):
    """Written for TRL: logs the number of completions of each call."""
    log_metric("size", len(completion_ids))
    return [0.0] * len(completion_ids)


ROWS = [Row(0, True, 4), Row(0, False, 6), Row(0, True, 0), Row(0, True, 1)]


def _window(*others):
    """Of `ROWS`, with the scores of other calls, whose groups were replaced, before it."""
    sections = [
        RewardSection(name=OUTCOME),
        RewardSection(name=f"{__file__}:tokens", only_when_correct=True),
        RewardSection(name=f"{__file__}:logs", kind="shaping"),
    ]
    suite = RewardSuite(sections, RewardContext())
    played = [suite.score([completion(row) for row in rows]) for rows in others]
    kept = [completion(row) for row in ROWS]
    scores = suite.score(kept)
    return Window(kept, scores, scores.valid, played=[*played, scores])


def test_a_reward_applies_where_it_gives_a_number_and_its_gate_is_open():
    metrics = window_metrics(_window())
    assert metrics["applies/right"] == 1.0 and metrics["applies/tokens"] == 0.5  # the first and the last
    assert metrics["reward/tokens"] == pytest.approx((4 + 6 + 1) / 3)  # what it says, gate or not
    assert metrics["reward/shaping"] == pytest.approx((4 + 0 + 0 + 1) / 4)


def test_a_diagnostic_is_averaged_over_those_that_have_it():
    assert window_metrics(_window())["diagnostics/long"] == pytest.approx((4 + 6) / 2)


def test_what_rewards_log_is_averaged_over_all_calls_those_of_replaced_groups_included():
    assert window_metrics(_window(ROWS[:1], ROWS[:3]))["logged/size"] == pytest.approx((1 + 3 + 4) / 3)


def test_what_failed_counts_for_nothing_but_its_own_share():
    window = _window()
    window.scores.valid[1] = False
    metrics = window_metrics(window)
    assert metrics["error_share"] == 0.25 and metrics["diagnostics/long"] == 4.0
    assert metrics["applies/tokens"] == pytest.approx(2 / 3) and metrics["accuracy"] == 1.0
