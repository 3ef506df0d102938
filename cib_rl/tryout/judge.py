"""A reward and an outcome together, as a recipe would combine them, on any trajectories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cib_rl.integrations.scorer import Scorer, Settings, to_section
from cib_rl.plugin import RewardError, Scores
from cib_rl.recipe import RewardSection
from cib_rl.samples.load import Samples, as_sampled
from cib_rl.samples.origin import Origin
from cib_rl.samples.outcome import Outcome
from cib_rl.trajectory import Trajectory

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Judged:
    """What N completions got. Arrays have shape (N,).

    Attributes:
        values: the tried reward, unweighted; NaN where it does not apply or failed.
        counted: its value enters the total (it applies, and its gate is open).
        outcome: weighted sum of the outcome rewards; NaN where not valid. Zero when the tried reward is the outcome.
        earned: the total a recipe would learn from; NaN where it would leave the completion out.
        correct: success, by the outcome.
        failed: the tried reward failed on it.
        errors: what failed, the outcome's failures included.
        seconds: wall time of the tried reward; attempted: completions it was given.
        hopeless: what a message should say where it, or an outcome, failed on all completions; None otherwise.
    """

    values: Floats
    counted: Bools
    outcome: Floats
    earned: Floats
    correct: Bools
    failed: Bools
    errors: list[RewardError]
    seconds: float
    attempted: int
    hopeless: str | None


class Judge:
    """Scores trajectories with outcome and reward; the trajectories themselves stay as they are.

    When the tried reward is an outcome itself it takes the place of the outcome in the total, and the other one only
    says what is right.

    Raises:
        UserError: a reward cannot be found or built.
    """

    def __init__(self, reward: RewardSection, outcome: Outcome, settings: Settings) -> None:
        sections = [_relabelled(section, reward) for section in outcome.sections]
        settings = replace(settings, success=outcome.success)
        self._scorer = Scorer([s.model_dump(exclude_none=True) for s in [*sections, reward]], settings)
        self.reward = self._scorer.suite.rewards[-1]
        self.outcomes = [r.label for r in self._scorer.suite.rewards[:-1]]
        self._truth: Scorer | None = None
        if self.reward.kind == "outcome":
            self._truth = Scorer([s.model_dump(exclude_none=True) for s in sections], settings)

    @property
    def label(self) -> str:
        """The tried reward's name in logs."""
        return self.reward.label

    @property
    def weight(self) -> float:
        """Its weight at the start of training."""
        return self.reward.weight_at(0)

    def __call__(self, trajectories: Sequence[Trajectory]) -> tuple[Judged, list[Trajectory]]:
        """The scores, and the copies that carry what rewards attached (values, diagnostics, success)."""
        copies = [as_sampled(t) for t in trajectories]
        scores = self._scorer.suite.score(copies, stop=False)
        correct = scores.correct
        values, counted = scores.values[self.label], scores.counted[self.label]
        outcome, earned = scores.outcome, scores.total
        if self._truth is not None:
            correct = self._truth.suite.score([as_sampled(t) for t in trajectories], stop=False).correct
            earned = np.where(counted & scores.valid, scores.weights[self.label] * values, np.nan)
            outcome = np.zeros(len(copies))
            for copy, right in zip(copies, correct, strict=True):
                copy.success = bool(right)
        failed = np.zeros(len(copies), dtype=bool)
        failed[[e.index for e in scores.errors if e.label == self.label]] = True
        return Judged(
            values, counted, outcome, earned, correct, failed, scores.errors, scores.seconds[self.label],
            scores.attempted[self.label], _hopeless(scores),
        ), copies  # fmt: skip

    def close(self) -> None:
        """End what the rewards have started. May be called twice."""
        self._scorer.close()
        if self._truth is not None:
            self._truth.close()


def _hopeless(scores: Scores) -> str | None:
    label = next((name for name, count in scores.failures.items() if 0 < count == scores.attempted[name]), None)
    if label is None:
        return None
    first = next(e.message for e in scores.errors if e.label == label)
    return f"reward {label!r} failed on all {scores.failures[label]} completions it was given; the first: {first}"


def settings_of(samples: Samples, *, max_completion_length: int | None, seed: int) -> Settings:
    """What a recipe would say around the rewards, for these samples."""
    limit = samples.origin.max_completion_length if max_completion_length is None else max_completion_length
    return Settings(samples.tokenizer, answer=samples.answer_style, max_completion_length=limit, seed=seed)


def reward_section(
    spec: str, weight: float | None, keywords: Mapping[str, Any], origin: Origin
) -> tuple[RewardSection, str | None]:
    """The tried reward's section, and what was taken from the run's recipe for it, in words: where that has the reward,
    its keys hold unless `keywords` or `weight` say otherwise. Raises PluginError for a key that a recipe would refuse.
    """
    given = dict(keywords) | ({} if weight is None else {"weight": weight})
    own = [section for section in origin.rewards if section.name == spec]
    if len(own) != 1:
        return to_section({"name": spec, **given}), None
    base = own[0].model_dump(exclude_defaults=True)
    left = [key for key in base if key != "name" and key not in given]
    return to_section(base | given), f"{', '.join(left)} of {spec}: as in {origin.file}" if left else None


def _relabelled(section: RewardSection, reward: RewardSection) -> RewardSection:
    """The outcome under another label where the tried reward is the same."""
    same = (section.label or section.name) == (reward.label or reward.name)
    return section.model_copy(update={"label": "outcome"}) if same else section
