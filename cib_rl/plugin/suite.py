"""All rewards of a recipe together: called, checked, weighted and summed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cib_rl.plugin.background import BackgroundLoop
from cib_rl.plugin.bound import BoundReward
from cib_rl.plugin.contract import PluginError, RewardContext, Scores
from cib_rl.plugin.guard import Guard
from cib_rl.plugin.isolate import call_isolated, call_isolated_async
from cib_rl.plugin.results import Result
from cib_rl.plugin.roles import check_roles, roles_of
from cib_rl.plugin.scores import Tally, stop_on_failures
from cib_rl.plugin.waiting import told_while_waiting
from cib_rl.recipe import RewardSection, SuccessSection
from cib_rl.trajectory import Trajectory


async def _timed(reward: BoundReward, given: list[Trajectory]) -> tuple[list[Result], float]:
    started = time.perf_counter()
    limits = {"timeout": reward.call_timeout, "concurrency": reward.call_concurrency}
    with told_while_waiting(reward.label):
        results = await call_isolated_async(reward.label, reward, given, **limits)  # type: ignore[arg-type]
    return results, time.perf_counter() - started


class RewardSuite:
    """The rewards of a recipe, in its order.

    Args:
        sections: the recipe's reward sections.
        context: given to the rewards that ask for it; its `trainer_state` says at which step weights are taken.
        success: what counts as a success.
        judged: the trajectories will come with their `success`, so that rewards may ask for it without an outcome.

    Raises:
        PluginError: a reward cannot be found, imported or built, or they make no sense together (see `check_roles`).
    """

    def __init__(
        self,
        sections: Sequence[RewardSection],
        context: RewardContext,
        success: SuccessSection | None = None,
        *,
        judged: bool = False,
    ) -> None:
        self.context = context
        self.success = success or SuccessSection()
        roles = roles_of(sections, Path(context.base_dir))
        check_roles(roles, self.success, judged=judged)  # before a reward loads its model
        self.rewards = [BoundReward(section, context) for section in sections]
        self._loop = BackgroundLoop()

    @property
    def names(self) -> list[str]:
        """The labels, in the recipe's order."""
        return [r.label for r in self.rewards]

    @property
    def step(self) -> int:
        """The training step that weights are taken at; 0 outside training."""
        return int(getattr(self.context.trainer_state, "global_step", 0))

    def check_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Let each reward refuse the task's rows, training's or evaluation's, before any is played.

        Raises:
            UserError: a reward lacks something in them, such as a column; names the reward.
        """
        for r in self.rewards:
            r.check_rows(rows)

    def score(self, trajectories: list[Trajectory], *, stop: bool = True) -> Scores:
        """Score trajectories; also writes unweighted values to `trajectory.rewards` and failures to `.errors`.

        Outcome rewards come first, so that shaping rewards find their values in `trajectory.rewards` and the verdict in
        `trajectory.success`. Within each of the two rounds the async rewards run together. Episodes that failed before
        are not scored, nor, in the second round, those on which an outcome reward failed. Errors are kept to their
        groups (see `call_isolated`).

        Raises:
            PluginError: a mistake in the recipe or the data's columns, or a reward did what it must not.
            RewardFailure: a reward failed on all trajectories it was given, or on more than its share. With `stop`
                False (a trainer with several processes, which must agree before they stop) compare `attempted` and
                `failures` of the result instead.
        """
        tally = Tally(self.rewards, trajectories, self.success, self.step)
        for r in self.rewards:
            if r.logged is not None:
                r.logged.clear()
        for kind in ("outcome", "shaping"):
            live = [i for i, t in enumerate(trajectories) if not t.failed]
            if live:
                self._round([r for r in self.rewards if r.kind == kind], live, trajectories, tally)
            if kind == "outcome":
                tally.judge()  # shaping rewards may ask for successes
                tally.check_replaced()
        scores = tally.scores()
        if stop:
            stop_on_failures(self.rewards, scores)
        return scores

    def _round(self, rewards: list[BoundReward], live: list[int], trajectories: list[Trajectory], tally: Tally) -> None:
        given = [trajectories[i] for i in live]
        guard = Guard(given)
        together = [r for r in rewards if r.is_async]
        self._loop.accept()
        # The async rewards run on one loop; meanwhile the plain ones run here, in the caller's thread, in turn.
        try:
            pending = {r.label: self._loop.submit(_timed(r, given)) for r in together}
            beside = "".join(f", or {r.label!r}, which ran at the same time," for r in together)
            results = {}
            for r in rewards:
                if not r.is_async:
                    started = time.perf_counter()
                    with told_while_waiting(r.label):
                        found = call_isolated(r.label, lambda some, r=r: self._loop.resolve(r(some)), given)  # type: ignore[misc]
                    results[r.label] = found, time.perf_counter() - started
                    guard.check(f"{r.label!r}{beside}")
            results |= {label: future.result() for label, future in pending.items()}
            guard.check(" or ".join(repr(r.label) for r in together))
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
        """Close the rewards that have `close()`, then the event loop, also where one raises. May be called twice."""
        with ExitStack() as stack:  # the last in is the first out
            stack.callback(self._loop.close)
            for r in reversed(self.rewards):
                if callable(close := getattr(r.target, "close", None)):
                    stack.callback(lambda close=close: self._loop.resolve(close()))  # type: ignore[misc]
