"""From each reward's results to weighted sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cib_rl.plugin.bound import BoundReward
from cib_rl.plugin.contract import Failed, PluginError, RewardError, RewardFailure, Scores
from cib_rl.plugin.results import Result
from cib_rl.recipe import SuccessSection
from cib_rl.trajectory import Trajectory

# Of a weighted value. Beyond it a group's sums, or an advantage in float32, could be infinite.
LARGEST = 1e30
# What leaves the range of floats is looked for, so numpy need not warn of it.
_UNFLAGGED = np.errstate(over="ignore", invalid="ignore")


class Tally:
    """Collects results reward by reward; `scores()` sums them up with the weights of a step. N trajectories."""

    def __init__(
        self, rewards: Sequence[BoundReward], trajectories: list[Trajectory], success: SuccessSection, step: int
    ) -> None:
        self.rewards, self.trajectories, self.success = rewards, trajectories, success
        self.weights = {r.label: r.weight_at(step) for r in rewards}
        count = len(trajectories)
        self.values = {r.label: np.full(count, np.nan) for r in rewards}
        self.tokens: dict[str, dict[int, np.ndarray]] = {r.label: {} for r in rewards}
        self.valid = np.array([not t.failed for t in trajectories], dtype=bool)
        self.errors: list[RewardError] = []
        self.seconds = {r.label: 0.0 for r in rewards}
        self.attempted = {r.label: 0 for r in rewards}
        self.failures = {r.label: 0 for r in rewards}

    @_UNFLAGGED
    def add(self, reward: BoundReward, live: list[int], results: list[Result], seconds: float) -> None:
        """Take the results of one reward on the trajectories at the indices `live`; write them to the trajectories."""
        label = reward.label
        self.seconds[label] = seconds
        self.attempted[label] = len(live)
        for i, result in zip(live, results, strict=True):
            trajectory = self.trajectories[i]
            if isinstance(result, Failed):
                self._fail(label, i, result.reason)
                continue
            each = np.append(result, np.sum(result)) if isinstance(result, np.ndarray) else np.array([result or 0.0])
            if isinstance(result, np.ndarray):
                self.tokens[label][i] = result
                result = float(result.sum())
            # With and without its schedule: the judgement of successes leaves the schedule out.
            if not all((np.abs(weight * each) <= LARGEST).all() for weight in (reward.weight, self.weights[label])):
                size = f"its value of {result:g} times its weight of {reward.weight:g}"
                self._fail(label, i, f"{size} is not finite, or beyond {LARGEST:g}")
                continue
            trajectory.rewards[label] = result
            if result is not None:
                self.values[label][i] = result

    def _fail(self, label: str, i: int, reason: str) -> None:
        self.failures[label] += 1
        self.valid[i] = False
        self.errors.append(RewardError(label, i, reason))
        self.trajectories[i].errors.append(f"reward {label}: {reason}")

    @_UNFLAGGED
    def judge(self) -> np.ndarray:
        """Success of each trajectory by the outcome rewards added so far (see `Scores.correct`), shape (N,).

        Also writes it to the trajectories, for the shaping rewards; not where the recipe has no outcome reward.
        """
        outcomes = [r for r in self.rewards if r.kind == "outcome"]
        if self.success.outcome is not None:
            judged = self.values[self.success.outcome]  # a NaN is no success
            least = np.full(len(judged), 0.5 if self.success.threshold is None else self.success.threshold)
        else:
            # Weights without their schedules: what a success is does not change in the middle of a run.
            applies = [~np.isnan(self.values[r.label]) for r in outcomes]
            judged = np.full(len(self.trajectories), np.nan)
            if outcomes:
                known = np.any(applies, axis=0)
                judged[known] = sum(r.weight * np.nan_to_num(self.values[r.label]) for r in outcomes)[known]
            most = sum((max(r.weight, 0.0) * a for r, a in zip(outcomes, applies, strict=True)), np.zeros(len(judged)))
            least = np.where(most > 0, 0.5 * most, np.inf)
            if self.success.threshold is not None:
                least = np.full(len(judged), self.success.threshold)
        correct: np.ndarray = self.valid & (np.nan_to_num(judged, nan=-np.inf) >= least)
        if outcomes:
            for trajectory, right in zip(self.trajectories, correct, strict=True):
                trajectory.success = bool(right)
        return correct

    def check_replaced(self) -> None:
        """Raises PluginError when a reward takes 1[success] away where the outcome has added something else."""
        replacing = next((r.label for r in self.rewards if r.replaces_outcome), None)
        outcome = next(
            (r for r in self.rewards if r.kind == "outcome" and self.success.outcome in (None, r.label)), None
        )
        if replacing is None or outcome is None:  # without an outcome the successes were known beforehand
            return
        added = np.nan_to_num(self.values[outcome.label])
        for trajectory, value, valid in zip(self.trajectories, added, self.valid, strict=True):
            if valid and value != float(bool(trajectory.success)):
                raise PluginError(
                    f"reward {replacing!r} takes 1[success] away, so the outcome must be 1 for successes and 0 for all "
                    f"others; {outcome.label!r} gave {value:g} to a {'success' if trajectory.success else 'failure'} "
                    f"(row {trajectory.task.get('id')!r}). Take an outcome of 0 and 1 and name it: "
                    "success: {outcome: LABEL}"
                )

    @_UNFLAGGED
    def scores(self) -> Scores:
        """Weighted sums over everything added (see `Scores`)."""
        count = len(self.trajectories)
        correct = self.judge()
        sums = {"outcome": np.zeros(count), "shaping": np.zeros(count)}
        counted: dict[str, np.ndarray] = {}
        token_rewards: list[np.ndarray | None] = [None] * count
        for r in self.rewards:
            values, weight = self.values[r.label], self.weights[r.label]
            counts = counted[r.label] = ~np.isnan(values) & (correct if r.only_when_correct else True)
            sums[r.kind][counts] += weight * values[counts]
            for i, per_token in self.tokens[r.label].items():
                if counts[i] and self.valid[i]:
                    so_far = token_rewards[i]
                    token_rewards[i] = weight * per_token + (0.0 if so_far is None else so_far)
        applied = np.any(list(counted.values()), axis=0)
        for kind in sums:
            sums[kind][~self.valid] = np.nan
        outcome, shaping = sums["outcome"], sums["shaping"]
        total = np.where(applied, outcome + shaping, np.nan)
        metrics, extras = self._logged()
        return Scores(
            values=self.values,
            weights=self.weights,
            counted=counted,
            outcome=outcome,
            shaping=shaping,
            total=total,
            token_rewards=token_rewards,
            valid=self.valid,
            errors=self.errors,
            correct=correct,
            seconds=self.seconds,
            attempted=self.attempted,
            failures=self.failures,
            metrics=metrics,
            extras=extras,
        )

    def _logged(self) -> tuple[dict[str, float], dict[str, list[Any]]]:
        """What all rewards logged together (see `Scores`); the extras are written to the trajectories too."""
        logged = [r.logged for r in self.rewards if r.logged is not None]
        values = {
            name: [v for one in logged for v in one.metrics.get(name, ())] for one in logged for name in one.metrics
        }
        extras: dict[str, list[Any]] = {}
        for column in dict.fromkeys(column for one in logged for column in one.extras):
            rows = [[v for one in logged for v in one.extras.get(column, {}).get(id(t), ())] for t in self.trajectories]
            extras[column] = [row if len(row) > 1 else next(iter(row), None) for row in rows]
            for trajectory, row, value in zip(self.trajectories, rows, extras[column], strict=True):
                if row:
                    trajectory.extras[column] = value
        return {name: float(np.mean(every)) for name, every in values.items()}, extras


def stop_on_failures(rewards: Sequence[BoundReward], scores: Scores) -> None:
    """Raise RewardFailure when a reward failed on all trajectories it was given, or on more than its share of them."""
    for r in rewards:
        first = next((error.message for error in scores.errors if error.label == r.label), "")
        message = failure(r, scores.attempted[r.label], scores.failures[r.label], first)
        if message:
            raise RewardFailure(message)


def failure(reward: BoundReward, attempted: int, failures: int, first: str | None) -> str | None:
    """Why the run must stop when `reward` failed on `failures` of `attempted` trajectories of a window, or None."""
    if not failures:
        return None
    if failures == attempted:
        return f"reward {reward.label!r} failed on all {attempted} trajectories of this step; the first: {first}"
    if failures > reward.max_error_share * attempted:
        return (
            f"reward {reward.label!r} failed on {failures} of {attempted} trajectories of this step, more than its "
            f"max_error_share of {reward.max_error_share:g}; the first: {first}"
        )
    return None
