"""All rewards of a recipe together: called, checked, weighted and summed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cib_rl.plugin.background import BackgroundLoop
from cib_rl.plugin.bound import BoundReward
from cib_rl.plugin.contract import PluginError, RewardContext, Scores
from cib_rl.plugin.isolate import call_isolated
from cib_rl.plugin.results import Result
from cib_rl.plugin.scores import Tally, raise_on_total_failure
from cib_rl.recipe import RewardSection
from cib_rl.trajectory import Trajectory


class RewardSuite:
    """The rewards of a recipe, in its order.

    Args:
        sections: the recipe's reward sections.
        context: given to the rewards that ask for it.

    Raises:
        PluginError: a reward cannot be found, imported or built, or two have the same label.
    """

    def __init__(self, sections: Sequence[RewardSection], context: RewardContext) -> None:
        self.context = context
        self.rewards = [BoundReward(section, context) for section in sections]
        self._loop = BackgroundLoop()
        for label in self.names:
            if self.names.count(label) > 1:
                raise PluginError(f"two rewards are labelled {label!r}: give one of them another `label`")
        gated = [r.label for r in self.rewards if r.only_when_correct]
        if gated and not any(r.kind == "outcome" for r in self.rewards):
            raise PluginError(f"reward {gated[0]!r}: only_when_correct needs an outcome reward; there is none")

    @property
    def names(self) -> list[str]:
        """The labels, in the recipe's order."""
        return [r.label for r in self.rewards]

    def score(self, trajectories: list[Trajectory], *, stop: bool = True) -> Scores:
        """Score trajectories; also writes unweighted values to `trajectory.rewards` and failures to `.errors`.

        Outcome rewards come first, so that shaping rewards find their values in `trajectory.rewards` and the verdict in
        `trajectory.success`. Within each of the two rounds the async rewards run together. Episodes that failed before
        are not scored, nor, in the second round, those on which an outcome reward failed. Errors are kept to their
        groups (see `call_isolated`).

        Raises:
            RewardFailure: a reward failed on every trajectory it was given. With `stop` False (a trainer with several
                processes, which must agree before they stop) compare `attempted` and `failures` of the result instead.
        """
        tally = Tally(self.rewards, trajectories)
        for r in self.rewards:
            if r.logged is not None:
                r.logged.clear()
        for kind in ("outcome", "shaping"):
            live = [i for i, t in enumerate(trajectories) if not t.failed]
            if live:
                self._round([r for r in self.rewards if r.kind == kind], live, trajectories, tally)
            if kind == "outcome":
                tally.outcomes()  # shaping rewards may ask for successes
        scores = tally.scores()
        if stop:
            raise_on_total_failure(scores)
        return scores

    def _round(self, rewards: list[BoundReward], live: list[int], trajectories: list[Trajectory], tally: Tally) -> None:
        given = [trajectories[i] for i in live]
        self._loop.accept()

        def run(reward: BoundReward) -> tuple[list[Result], float]:
            started = time.perf_counter()
            results = call_isolated(reward.label, lambda some: self._loop.resolve(reward(some)), given)
            return results, time.perf_counter() - started

        together = [r for r in rewards if r.is_async]
        # One waiting thread per async reward; what they await runs on one loop. Sync rewards run meanwhile, here, in
        # the caller's thread, one after the other.
        with ThreadPoolExecutor(max(1, len(together)), thread_name_prefix="reward") as threads:
            try:
                pending = {r.label: threads.submit(run, r) for r in together}
                results = {r.label: run(r) for r in rewards if not r.is_async}
                results |= {label: future.result() for label, future in pending.items()}
            except BaseException:
                self._loop.cancel()
                raise
        for r in rewards:
            tally.add(r, live, *results[r.label])

    def state_dict(self) -> dict[str, Any]:
        """The state of the rewards that have some (`state_dict` and `load_state_dict`), for checkpoints."""
        return {r.label: r.target.state_dict() for r in self.rewards if hasattr(r.target, "state_dict")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises PluginError when a label has no reward with a state here."""
        stateful = {r.label: r.target for r in self.rewards if hasattr(r.target, "load_state_dict")}
        for label, value in state.items():
            if label not in stateful:
                raise PluginError(f"the checkpoint holds state of reward {label!r}, which this recipe does not have")
            stateful[label].load_state_dict(value)

    def close(self) -> None:
        """Close the rewards that have `close()`, then the event loop. May be called twice."""
        for r in self.rewards:
            close = getattr(r.target, "close", None)
            if callable(close):
                self._loop.resolve(close())
        self._loop.close()
