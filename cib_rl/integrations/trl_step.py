"""One step of TRL, scored once for all the reward functions that belong together."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from cib_rl.integrations.scorer import RewardSpec, Scorer, Settings
from cib_rl.integrations.trl_rows import NOT_COLUMNS, TrainerFacts, facts_behind, group_numbers, trajectories_of
from cib_rl.plugin import PluginError, Scores
from cib_rl.trajectory import Trajectory


class TrlStep:
    """Scores the completions that TRL hands to one reward function after the other. It can be pickled.

    Args:
        rewards: those that are scored together.
        num_generations, whole_groups: see `as_trl`.
        diagnostics: the means of what rewards attach are logged as `<diagnostics>/<name>`; default: the last label.

    Raises UserError when a reward cannot be found or built.
    """

    def __init__(
        self,
        rewards: Sequence[RewardSpec],
        settings: Settings,
        num_generations: int | None,
        whole_groups: bool,
        diagnostics: str | None = None,
    ) -> None:
        self._arguments = (rewards, settings, num_generations, whole_groups, diagnostics)
        with _naming_outcome():
            self.scorer = Scorer(rewards, settings)
        self._diagnostics = diagnostics or self.scorer.suite.names[-1]
        self._num_generations, self._whole_groups = num_generations, whole_groups
        self._lock = threading.Lock()
        # The completions of the last step, its scores, and the labels that are still to be asked for. TRL gives one and
        # the same list to all functions of a step.
        self._last: tuple[Any, Scores | None, set[str]] = (None, None, set())

    def __reduce__(self) -> tuple[type[TrlStep], tuple[Any, ...]]:
        return TrlStep, self._arguments

    def rewards(
        self,
        label: str,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One value per completion; None where the reward does not apply, its gate is shut, or one has failed."""
        given = {key: columns.pop(key, None) for key in NOT_COLUMNS}
        facts = facts_behind(given["log_metric"])
        if facts.names.count(label) > 1:
            raise PluginError(
                f"two of the trainer's reward functions are named {label!r}, and TRL would mix their values: give one "
                "another label, as_trl(..., label=...)"
            )
        with self._lock:
            known, scores, waiting = self._last
            if scores is None or known is not completions or label not in waiting:
                self.scorer.context.trainer_state = given["trainer_state"]
                made = self._trajectories(prompts, completions, completion_ids, columns, facts)
                scores, waiting = self._score(made), set(self.scorer.suite.names)
                self._pass_on(scores, made, given["log_metric"], given["log_extra"])
                self._last = (completions, scores, waiting)
            waiting.remove(label)
        counted = scores.counted[label] & scores.valid
        return [float(v) if c else None for v, c in zip(scores.values[label], counted, strict=True)]

    def _trajectories(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None,
        columns: dict[str, Any],
        facts: TrainerFacts,
    ) -> list[Trajectory]:
        size = facts.num_generations or self._num_generations
        certain = facts.num_generations is not None
        groups = group_numbers(prompts, columns.get("id"), size, whole=self._whole_groups, certain=certain)
        return trajectories_of(prompts, completions, completion_ids, columns, groups, self.scorer.settings, facts)

    def _score(self, made: list[Trajectory]) -> Scores:
        with _naming_outcome():
            return self.scorer.score(made)

    def _pass_on(self, scores: Scores, made: list[Trajectory], log_metric: Any, log_extra: Any) -> None:
        """Hand to TRL what rewards logged and attached."""
        if log_extra is not None:
            for column, values in scores.extras.items():
                log_extra(column, values)
        if log_metric is None:
            return
        for name, value in scores.metrics.items():
            log_metric(name, value)
        for name in dict.fromkeys(name for t in made for name in t.diagnostics):
            mean = np.mean([t.diagnostics[name] for t in made if name in t.diagnostics])
            log_metric(f"{self._diagnostics}/{name}", float(mean))


@contextmanager
def _naming_outcome() -> Iterator[None]:
    """Adds to an error that asks for an outcome reward how it is given here."""
    try:
        yield
    except PluginError as error:
        if "outcome reward" not in str(error):
            raise
        raise PluginError(f"{error} (as_trl takes it as outcome=...)") from error
