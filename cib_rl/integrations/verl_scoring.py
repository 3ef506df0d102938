"""One number per completion for verl, which knows no completion without a reward."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import ModuleType
from typing import Any, Generic, TypeVar

import numpy as np

from cib_rl.errors import UserError
from cib_rl.integrations.scorer import RewardSpec, Scorer, Settings, to_section
from cib_rl.plugin import PluginError, RewardFailure, Scores, by_group
from cib_rl.trajectory import Trajectory

Item = TypeVar("Item")
Result = TypeVar("Result")

_OWN_KEYS = ("acc", "failed")


def import_verl(name: str, who: str) -> ModuleType:
    """A module of verl, which is no dependency of ours. Raises UserError where it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{who} needs verl, whose module {name} cannot be imported: {error}") from error


class VerlScorer:
    """The weighted total of all rewards, and what is logged beside it.

    A completion that could not be scored has no total, and verl's advantage estimators take whatever number they are
    given. It gets the mean of its group's others: its advantage with a group baseline is then 0, and the mean of the
    group is the one of those that were scored (their standard deviation comes out a little smaller). Where the whole
    group failed, the mean of the batch: any one number gives the group no advantage. A completion that is alone in its
    group has nothing to be held against: it gets `failure_score`, or RewardFailure is raised where there is none. All
    of this is our choice.

    verl does not say at which step it is: weight schedules are refused, and rewards that ask are told step 0.
    """

    def __init__(self, rewards: Sequence[RewardSpec], settings: Settings, failure_score: float | None) -> None:
        sections = [to_section(spec) for spec in rewards]
        self.scorer = Scorer(rewards, settings)
        self.failure_score = failure_score
        self.labels = self.scorer.suite.names
        for reward, section in zip(self.scorer.suite.rewards, sections, strict=True):
            if reward.label in _OWN_KEYS:
                raise PluginError(f"reward {reward.label!r}: verl's metrics use this name; give it a label")
            if section.weight_schedule is not None:
                raise PluginError(f"reward {reward.label!r}: verl does not say at which step it is: no weight_schedule")

    @property
    def settings(self) -> Settings:
        return self.scorer.settings

    def score(self, trajectories: list[Trajectory]) -> tuple[np.ndarray, Scores]:
        """(finite totals of shape (N,), scores). Raises RewardFailure and PluginError (see `Scorer.score`)."""
        scores = self.scorer.score(trajectories)
        totals = scores.total.copy()
        scored = ~np.isnan(totals)
        for members in by_group(trajectories):
            missing = [i for i in members if not scored[i]]
            if not missing:
                continue
            if len(missing) < len(members):
                totals[missing] = totals[[i for i in members if scored[i]]].mean()
            elif len(members) > 1 and scored.any():
                totals[missing] = scores.total[scored].mean()
            elif self.failure_score is not None:
                totals[missing] = self.failure_score
            else:
                raise RewardFailure(self._unscored(trajectories[missing[0]], scores, missing[0]))
        return totals, scores

    def info(self, scores: Scores) -> dict[str, list[float]]:
        """What verl logs: each reward's unweighted value (NaN: none), `acc` (1: success; NaN: not judged), `failed`."""
        accuracy = np.where(scores.valid, scores.correct.astype(np.float64), np.nan)
        named = {label: scores.values[label] for label in self.labels}
        named |= {"acc": accuracy, "failed": (~scores.valid).astype(np.float64)}
        return {name: [float(value) for value in values] for name, values in named.items()}

    def _unscored(self, trajectory: Trajectory, scores: Scores, index: int) -> str:
        why = next((error.message for error in scores.errors if error.index == index), "no reward applies to it")
        return (
            f"row {trajectory.task.get('id')!r} has no reward ({why}), and no other completion of its prompt to take "
            "the place of; give failure_score=NUMBER to go on with that number"
        )


class Combiner(Generic[Item, Result]):
    """Calls `work` with all items that threads have asked for since the last call.

    verl asks for one completion at a time, from many threads. Models score many at once, and async rewards wait for
    many at once.
    """

    def __init__(self, work: Callable[[list[Item]], list[Result]]) -> None:
        self._work = work
        self._waiting: list[tuple[Item, Future[Result]]] = []
        self._lock, self._turn = threading.Lock(), threading.Lock()

    def __call__(self, item: Item) -> Result:
        """The result of `item`; raises what `work` raised for the items it was called with."""
        future: Future[Result] = Future()
        with self._lock:
            self._waiting.append((item, future))
        with self._turn:  # whoever gets here works for all who wait, also for those queueing behind it
            with self._lock:
                taken, self._waiting = self._waiting, []
            if taken:
                self._do(taken)
        return future.result()

    def _do(self, taken: list[tuple[Any, Future[Any]]]) -> None:
        try:
            results = self._work([item for item, _ in taken])
        except BaseException as error:
            for _, future in taken:
                future.set_exception(error)
            return
        for (_, future), result in zip(taken, results, strict=True):
            future.set_result(result)
