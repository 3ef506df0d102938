"""From each reward's results to weighted sums."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cib_rl.plugin.bound import BoundReward
from cib_rl.plugin.contract import Failed, RewardError, RewardFailure, Scores
from cib_rl.plugin.results import Result
from cib_rl.trajectory import Trajectory


class Tally:
    """Collects results reward by reward; `scores()` sums them up. N trajectories."""

    def __init__(self, rewards: Sequence[BoundReward], trajectories: list[Trajectory]) -> None:
        self.rewards, self.trajectories = rewards, trajectories
        count = len(trajectories)
        self.values = {r.label: np.full(count, np.nan) for r in rewards}
        self.tokens: dict[str, dict[int, np.ndarray]] = {r.label: {} for r in rewards}
        self.valid = np.array([not t.failed for t in trajectories], dtype=bool)
        self.errors: list[RewardError] = []
        self.seconds = {r.label: 0.0 for r in rewards}
        self.attempted = {r.label: 0 for r in rewards}
        self.failures = {r.label: 0 for r in rewards}

    def add(self, reward: BoundReward, live: list[int], results: list[Result], seconds: float) -> None:
        """Take the results of one reward on the trajectories at the indices `live`; write them to the trajectories."""
        label = reward.label
        self.seconds[label] = seconds
        self.attempted[label] = len(live)
        for i, result in zip(live, results, strict=True):
            trajectory = self.trajectories[i]
            if isinstance(result, Failed):
                self.failures[label] += 1
                self.valid[i] = False
                self.errors.append(RewardError(label, i, result.reason))
                trajectory.errors.append(f"reward {label}: {result.reason}")
                continue
            if isinstance(result, np.ndarray):
                self.tokens[label][i] = result
                result = float(result.sum())
            trajectory.rewards[label] = result
            if result is not None:
                self.values[label][i] = result

    def outcomes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weighted outcome sum, whether an outcome reward applied, and success, of what was added; each of shape (N,).

        Also writes success to the trajectories, for the shaping rewards; not where the recipe has no outcome reward.
        """
        count = len(self.trajectories)
        outcome, most, applied = np.zeros(count), np.zeros(count), np.zeros(count, dtype=bool)
        for r in self.rewards:
            if r.kind == "outcome":
                applies = ~np.isnan(self.values[r.label])
                outcome[applies] += r.weight * self.values[r.label][applies]
                most[applies] += max(r.weight, 0.0)
                applied |= applies
        correct = self.valid & (most > 0) & (outcome >= 0.5 * most)
        if any(r.kind == "outcome" for r in self.rewards):
            for trajectory, right in zip(self.trajectories, correct, strict=True):
                trajectory.success = bool(right)
        return outcome, applied, correct

    def scores(self) -> Scores:
        """Weighted sums over everything added (see `Scores`)."""
        count = len(self.trajectories)
        outcome, applied, correct = self.outcomes()
        shaping = np.zeros(count)
        token_rewards: list[np.ndarray | None] = [None] * count
        for r in self.rewards:
            counts = ~np.isnan(self.values[r.label]) & (correct if r.only_when_correct else True)
            if r.kind == "shaping":
                shaping[counts] += r.weight * self.values[r.label][counts]
                applied |= counts
            for i, values in self.tokens[r.label].items():
                if counts[i] and self.valid[i]:
                    so_far = token_rewards[i]
                    token_rewards[i] = r.weight * values + (0.0 if so_far is None else so_far)
        for sums in (outcome, shaping):
            sums[~self.valid] = np.nan
        total = np.where(applied, outcome + shaping, np.nan)
        logged = {r.label: r.logged for r in self.rewards if r.logged is not None}
        return Scores(
            values=self.values,
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
            metrics={name: float(np.mean(v)) for one in logged.values() for name, v in one.metrics.items()},
            extras={
                column: [own.get(id(t)) for t in self.trajectories]
                for one in logged.values()
                for column, own in one.extras.items()
            },
        )


def raise_on_total_failure(scores: Scores) -> None:
    """Raise RewardFailure when a reward failed on every trajectory it was given."""
    for label, attempted in scores.attempted.items():
        if attempted and scores.failures[label] == attempted:
            first = next(error for error in scores.errors if error.label == label)
            raise RewardFailure(
                f"reward {label!r} failed on all {attempted} trajectories of this step; the first: {first.message}"
            )
