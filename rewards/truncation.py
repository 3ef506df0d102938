"""Truncation: a right answer beyond the token limit counts as a wrong one."""

from __future__ import annotations

from pydantic import PositiveInt

from cib_rl.plugin import PluginError, RewardContext, reward, success
from cib_rl.trajectory import Trajectory


@reward("truncation", kind="shaping", needs_success=True, replaces_outcome=True)
class Truncation:
    """Takes a right answer's 1 away when it is not finished within the limit: 1[right and n ≤ limit] in total.

    ThinkPrune (arXiv 2504.01296) and DLER (arXiv 2510.15110). The value is −1 for a right answer with more policy
    tokens than the limit, or cut off by another limit before it was finished, else 0; with a 0/1 outcome of weight 1
    and this at weight 1 the total is the papers' reward.

    Wrong answers: 0 in total whatever their length. No wrong answer outranks a right one; one beyond the limit ties.

    * ThinkPrune has rounds with ever lower limits (4000, 3000, 2000), each going on from the one before: `limit: [4000,
      3000, 2000]` and `steps_per_round`. Its system prompt also states the limit; here the prompt stays the same.
    * DLER has one limit (4000) and the advantage (R − mean of the group) / std over the batch: `credit: [{name: group,
      scale: batch_std}]`, and drops flat groups: `trainer.filter.zero_variance: total`.

    Generation need not be cut at the limit, but can be: `environment.max_completion_length`.

    Attaches the diagnostic `token_limit`.

    Args:
        limit: policy tokens, or a list of limits, one per round; the last one stays.
        steps_per_round: optimizer steps of each round (the paper's number is not known to us, so there is no default).
            Outside of training the first limit holds.
    """

    def __init__(
        self,
        *,
        limit: PositiveInt | list[PositiveInt],
        steps_per_round: PositiveInt | None = None,
        context: RewardContext,
    ) -> None:
        self.limits = limit if isinstance(limit, list) else [limit]
        if not self.limits:
            raise PluginError("reward truncation: limit is an empty list; give at least one number of tokens")
        if len(self.limits) > 1 and steps_per_round is None:
            raise PluginError("reward truncation: several limits need steps_per_round, the steps that each is used")
        self.steps_per_round = steps_per_round
        self.context = context

    def __call__(self, trajectories: list[Trajectory]) -> list[float]:
        limit = self.limit
        for t in trajectories:
            t.diagnostics["token_limit"] = float(limit)
        return [
            -1.0 if right and (t.num_tokens > limit or t.truncated) else 0.0
            for t, right in zip(trajectories, success(trajectories), strict=True)
        ]

    @property
    def limit(self) -> int:
        """The limit of the present round."""
        step = self.context.trainer_state.global_step if self.context.trainer_state is not None else 0
        done = step // self.steps_per_round if self.steps_per_round else 0
        return self.limits[min(done, len(self.limits) - 1)]
