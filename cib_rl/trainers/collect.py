"""Fills one window: draws tasks, plays groups, scores them, and replaces the groups that carry no signal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from cib_rl.credit.group import zero_variance_groups
from cib_rl.engines.base import Sampling
from cib_rl.errors import UserError
from cib_rl.plugin import RewardSuite, Scores
from cib_rl.recipe import FilterSection
from cib_rl.rollout import Episode, Rollouts
from cib_rl.seeds import derive_seed
from cib_rl.tasks import TaskStream
from cib_rl.trajectory import Trajectory

# Gathers one number from every process, in rank order; [n] when there is one process.
GatherCounts = Callable[[int], list[int]]


@dataclass
class Window:
    """One process's share of a window: whole groups, adjacent, with their scores.

    `in_loss` (N,) is False where a row must not train: its group was flat and could not be replaced, or it failed.
    """

    trajectories: list[Trajectory]
    scores: Scores
    in_loss: np.ndarray
    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class Collector:
    """Draws from the stream so that all processes agree on the cursor, whatever each has to replace.

    Args:
        stream: the task stream, in the same state on every process.
        group_size: completions per prompt; a group always lives on one process.
        sampling: temperature and the like.
        seed: the run's seed; the seed of an episode is made from (run seed, draw number, member).
        rank, gather: this process, and how to learn the counts of all.
    """

    def __init__(
        self,
        stream: TaskStream,
        rollouts: Rollouts,
        suite: RewardSuite,
        *,
        group_size: int,
        sampling: Sampling,
        seed: int,
        filtering: FilterSection,
        rank: int = 0,
        gather: GatherCounts = lambda n: [n],
    ) -> None:
        self.stream = stream
        self.rollouts = rollouts
        self.suite = suite
        self.group_size = group_size
        self.sampling = sampling
        self.seed = seed
        self.filtering = filtering
        self.rank = rank
        self.gather = gather

    def collect(self, groups: int) -> Window:
        """Collect `groups` groups for this process.

        A flat group (all outcomes, or totals, within the tolerance; recipe key `filter.zero_variance`) is replaced by
        the next draw until `filter.max_extra_groups` × groups replacements were tried; what is still missing then keeps
        its flat group with `in_loss` False. Raises UserError when no process has a row left to learn from.
        """
        seconds = {"rollout": 0.0, "reward": 0.0}
        kept: list[Window] = []
        flat: list[Window] = []
        counts = {"all_right": 0, "all_wrong": 0, "replaced": 0, "unfilled": 0}
        replacements = math.ceil(self.filtering.max_extra_groups * groups)
        missing = groups
        while sum(shares := self.gather(missing)) > 0:
            start = sum(shares[: self.rank])
            draws = self.stream.draw(sum(shares))[start : start + missing]
            for group in self._play(draws, seconds) if draws else []:
                used = group.scores.correct[group.scores.valid]
                counts["all_right"] += int(len(used) > 0 and used.all())
                counts["all_wrong"] += int(len(used) > 0 and not used.any())
                (flat if self._is_flat(group) else kept).append(group)
            missing = min(groups - len(kept), replacements)
            replacements -= missing
            counts["replaced"] += missing
        counts["unfilled"] = groups - len(kept)
        for group in flat[: groups - len(kept)]:
            group.in_loss[:] = False
            kept.append(group)
        window = _concatenate(kept, counts, seconds)
        if sum(self.gather(int(window.in_loss.sum()))) == 0:
            errors = "; ".join(e for t in window.trajectories[:3] for e in t.errors)
            raise UserError(
                f"nothing to learn from in this window: {counts['all_right']} groups all right, {counts['all_wrong']} all "
                f"wrong, {sum(t.failed for t in window.trajectories)} failed completions of {len(window.trajectories)}"
                + (f" ({errors})" if errors else "")
                + "; use easier or harder tasks, a larger group, or trainer.filter.zero_variance: off"
            )
        return window

    def _play(self, draws: list[tuple[int, dict]], seconds: dict[str, float]) -> list[Window]:
        episodes = [
            Episode(task=row, group=draw, member=member, seed=derive_seed(self.seed, "train", draw, member))
            for draw, row in draws
            for member in range(self.group_size)
        ]
        trajectories = self.rollouts.run(episodes, self.sampling)
        seconds["rollout"] += self.rollouts.seconds
        started = time.perf_counter()
        scores = self.suite.score(trajectories)
        seconds["reward"] += time.perf_counter() - started
        groups = []
        for start in range(0, len(trajectories), self.group_size):
            rows = slice(start, start + self.group_size)
            part = _slice_scores(scores, rows)
            groups.append(Window(trajectories[rows], part, part.valid.copy()))
        return groups

    def _is_flat(self, group: Window) -> bool:
        if self.filtering.zero_variance == "off":
            return False
        values = group.scores.outcome if self.filtering.zero_variance == "outcome" else group.scores.total
        numbers = np.zeros(len(values), dtype=np.int64)
        return bool(zero_variance_groups(values, numbers, group.scores.valid, self.filtering.tolerance))


_ARRAYS = ("outcome", "shaping", "total", "valid", "correct")


def _slice_scores(scores: Scores, rows: slice) -> Scores:
    """The scores of a run of rows. Errors are renumbered; what counts calls (timings, failures) stays with the whole."""
    indices = range(*rows.indices(len(scores.total)))
    return replace(
        scores,
        values={label: v[rows] for label, v in scores.values.items()},
        extras={column: v[rows] for column, v in scores.extras.items()},
        errors=[replace(e, index=e.index - indices.start) for e in scores.errors if e.index in indices],
        token_rewards=scores.token_rewards[rows],
        **{name: getattr(scores, name)[rows] for name in _ARRAYS},
    )


def _concatenate(groups: list[Window], counts: dict[str, int], seconds: dict[str, float]) -> Window:
    """One window of many groups."""
    parts = [g.scores for g in groups]
    offsets = np.cumsum([0] + [len(g.trajectories) for g in groups])
    scores = replace(
        parts[0],
        values={label: np.concatenate([p.values[label] for p in parts]) for label in parts[0].values},
        extras={column: [v for p in parts for v in p.extras.get(column, [])] for column in parts[0].extras},
        errors=[replace(e, index=int(e.index + o)) for p, o in zip(parts, offsets, strict=False) for e in p.errors],
        token_rewards=[r for p in parts for r in p.token_rewards],
        **{name: np.concatenate([getattr(p, name) for p in parts]) for name in _ARRAYS},
    )
    trajectories = [t for g in groups for t in g.trajectories]
    return Window(trajectories, scores, np.concatenate([g.in_loss for g in groups]), counts, seconds)
