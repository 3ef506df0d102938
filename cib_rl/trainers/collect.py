"""Fills one window: draws tasks, plays groups, scores them, and replaces the groups that carry no signal."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from cib_rl.credit.group import zero_variance_groups
from cib_rl.engines.base import Sampling
from cib_rl.errors import UserError
from cib_rl.plugin import RewardFailure, RewardSuite, Scores
from cib_rl.plugin.scores import failure
from cib_rl.recipe import FilterSection
from cib_rl.rollout import Episode, Rollouts
from cib_rl.seeds import derive_seed
from cib_rl.tasks import TaskStream
from cib_rl.trainers.window import Window, concatenate, slice_scores

# Gathers one value from every process, in rank order; [value] when there is one process.
Gather = Callable[[Any], list[Any]]
PLAYED_AGAIN = 3  # times that a window is, where most of it failed, nothing is left, and the environment has recovered
logger = logging.getLogger(__name__)


class NothingToLearn(UserError):
    """No token of a window is in the loss, on any process."""


class Collector:
    """Draws from the stream so that all processes agree on the cursor, whatever each has to replace.

    Args:
        stream: the task stream, in the same state on every process.
        group_size: completions per prompt; a group always lives on one process.
        sampling: temperature and the like.
        seed: the run's seed; the seed of an episode is made from (run seed, draw number, member).
        mask_truncated: completions that were cut off by a limit do not train.
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
        mask_truncated: bool = False,
        rank: int = 0,
        gather: Gather = lambda value: [value],
    ) -> None:
        self.stream = stream
        self.rollouts = rollouts
        self.suite = suite
        self.group_size = group_size
        self.sampling = sampling
        self.seed = seed
        self.filtering = filtering
        self.mask_truncated = mask_truncated
        self.rank = rank
        self.gather = gather

    def collect(self, groups: int) -> Window:
        """Collect `groups` groups for this process.

        A window of which most episodes failed, on all processes together, is played again with the same draws and
        seeds once the environment has recovered (its method `recovered`): what an outage leaves is a selection, the
        episodes of a search agent that did not search, say. Once; up to `PLAYED_AGAIN` times where nothing is left.

        Raises on every process alike: RewardFailure when a reward failed on everything all of them gave it,
        NothingToLearn when none of them has a token in the loss.
        """
        cursor, rewards = self.stream.cursor, copy.deepcopy(self.suite.state_dict())
        recovered = getattr(self.rollouts.environment, "recovered", None)
        for again in range(PLAYED_AGAIN + 1):
            window = self._collect(groups)
            total = self._total(window)
            outage = 2 * total["failed"] > total["completions"]
            limit = PLAYED_AGAIN if total["tokens"] == 0 else 1
            if not outage or recovered is None or again == limit:
                break
            logger.warning(
                "%d of the %d completions of a window failed (%s): waiting until it can be played again",
                total["failed"],
                total["completions"],
                _reasons(window) or "on another process",
            )
            if not all(self.gather(recovered())):
                break
            self.stream.cursor = cursor
            self.suite.load_state_dict(copy.deepcopy(rewards))
        if total["tokens"] == 0:
            raise NothingToLearn(self._why_nothing(window, total))
        window.counts["played_again"] = again * groups
        return window

    def _collect(self, groups: int) -> Window:
        """The window, played once.

        A flat group (all outcomes, or totals, within the tolerance; recipe key `filter.zero_variance`) is replaced by
        the next draw until `filter.max_extra_groups` × groups replacements were tried; what is still missing then keeps
        its flat group with `in_loss` False.
        """
        seconds = {"rollout": 0.0, "reward": 0.0}
        played: list[Scores] = []
        kept: list[Window] = []
        flat: list[Window] = []
        counts = {"all_right": 0, "all_wrong": 0, "replaced": 0, "unfilled": 0}
        replacements = math.ceil(self.filtering.max_extra_groups * groups)
        missing = groups
        while sum(shares := self.gather(missing)) > 0:
            start = sum(shares[: self.rank])
            draws = self.stream.draw(sum(shares))[start : start + missing]
            for group in self._play(draws, seconds, played) if draws else []:
                used = group.scores.correct[group.scores.valid]
                counts["all_right"] += int(len(used) > 0 and used.all())
                counts["all_wrong"] += int(len(used) > 0 and not used.any())
                (flat if self._is_flat(group) else kept).append(group)
            self._stop_if_a_reward_fails(played)
            missing = min(groups - len(kept), replacements)
            replacements -= missing
            counts["replaced"] += missing
        counts["unfilled"] = groups - len(kept)
        for group in flat[: groups - len(kept)]:
            group.in_loss[:] = False
            kept.append(group)
        window = concatenate(kept, counts, seconds)
        window.played = played
        if self.mask_truncated:
            window.in_loss &= ~np.array([t.truncated for t in window.trajectories])
        return window

    def _stop_if_a_reward_fails(self, played: list[Scores]) -> None:
        """Judged over all calls and processes so far: one bad group must not stop a run because it was alone in its
        call, on its process or as a replacement."""
        own = {
            label: (
                sum(scores.attempted.get(label, 0) for scores in played),
                sum(scores.failures.get(label, 0) for scores in played),
                next((e.message for scores in played for e in scores.errors if e.label == label), None),
            )
            for label in self.suite.names
        }
        everyone = self.gather(own)
        for reward in self.suite.rewards:
            attempted, failures = (sum(counts[reward.label][k] for counts in everyone) for k in (0, 1))
            first = next((counts[reward.label][2] for counts in everyone if counts[reward.label][2]), None)
            message = failure(reward, attempted, failures, first)
            if message:
                raise RewardFailure(message)

    def _total(self, window: Window) -> dict[str, int]:
        """Counts of a window over all processes; `tokens`: those in the loss."""
        rows = window.trajectories
        own = {
            "tokens": sum(t.num_tokens for t, used in zip(rows, window.in_loss, strict=True) if used),
            "all right": window.counts["all_right"],
            "all wrong": window.counts["all_wrong"],
            "failed": sum(t.failed for t in rows),
            "cut off": sum(t.truncated for t in rows),
            "completions": len(rows),
        }
        everyone = self.gather(own)
        return {name: sum(counts[name] for counts in everyone) for name in own}

    def _why_nothing(self, window: Window, total: dict[str, int]) -> str:
        masked = " (masked: trainer.mask_truncated)" if self.mask_truncated else ""
        errors = _reasons(window)
        return (
            f"nothing to learn from in this window: {total['all right']} groups all right, {total['all wrong']} all "
            f"wrong; of {total['completions']} completions {total['failed']} failed, {total['cut off']} were cut off"
            f"{masked}" + (f" ({errors})" if errors else "") + "; use easier or harder tasks, a larger group, a longer "
            "environment.max_completion_length, or trainer.filter.zero_variance: off"
        )

    def _play(
        self, draws: list[tuple[int, dict[str, Any]]], seconds: dict[str, float], played: list[Scores]
    ) -> list[Window]:
        """Play and score the groups of these draws; their scores as a whole are added to `played`."""
        episodes = [
            Episode(task=row, group=draw, member=member, seed=derive_seed(self.seed, "train", draw, member))
            for draw, row in draws
            for member in range(self.group_size)
        ]
        trajectories = self.rollouts.run(episodes, self.sampling)
        seconds["rollout"] += self.rollouts.seconds
        started = time.perf_counter()
        # The processes agree before they stop (see `_stop_if_a_reward_fails`).
        scores = self.suite.score(trajectories, stop=False)
        played.append(scores)
        seconds["reward"] += time.perf_counter() - started
        groups = []
        for start in range(0, len(trajectories), self.group_size):
            rows = slice(start, start + self.group_size)
            part = slice_scores(scores, rows)
            groups.append(Window(trajectories[rows], part, part.valid.copy()))
        return groups

    def _is_flat(self, group: Window) -> bool:
        if self.filtering.zero_variance == "off":
            return False
        values = group.scores.outcome if self.filtering.zero_variance == "outcome" else group.scores.total
        numbers = np.zeros(len(values), dtype=np.int64)
        return bool(zero_variance_groups(values, numbers, group.scores.valid, self.filtering.tolerance))


def _reasons(window: Window) -> str:
    """The first few reasons for which episodes failed."""
    return "; ".join(list(dict.fromkeys(e for t in window.trajectories for e in t.errors))[:3])
