"""Credit: from the rewards of a window to one advantage per completion token, in the recipe's order of stages.

A stage is a function with keyword arguments from the recipe, or a class of the same (made once) when it holds
something. The first one is a baseline, `(trajectories, scores, reduce, **keywords) -> advantages`; those after it
reshape what it gave, `(trajectories, scores, advantages, **keywords) -> advantages`. Advantages are one array (T,) per
trajectory over all completion tokens, 0 on the environment's. A stage with a keyword `context` is given the same
`RewardContext` as a reward. An instance may have an attribute `needs`, the tracks that must be set before it is called
(`entropy`: the policy's, per token), and a method `metrics(gather)`, numbers to log of the window it was last called
with, the same on every process. Built-in stages are listed below; one of your own is named `package.module:name` or
`path/file.py:name`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from cib_rl.credit.difficulty import difficulty
from cib_rl.credit.gae import gae
from cib_rl.credit.gdpo import gdpo_advantages
from cib_rl.credit.group import Reduce, Scale, group_advantages
from cib_rl.credit.hicra import Hicra
from cib_rl.credit.reward_to_go import centred_rewards_to_go
from cib_rl.errors import UserError
from cib_rl.plugin import PluginError, RewardContext, Scores, find_reward
from cib_rl.plugin.signature import check_call, check_keywords, keyword_parameters
from cib_rl.recipe import CreditSection
from cib_rl.trajectory import Trajectory

Advantages = list[np.ndarray]
Stage = Callable[..., Advantages]
GatherLists = Callable[[list[Any]], list[Any]]  # one list from every process, joined in rank order
MEASURED = frozenset({"entropy"})  # the tracks that the trainer can set
Positive = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Credit:
    """The credit stages of a recipe, ready to be called.

    Raises UserError for an unknown stage, for an unknown, missing or mistyped key of one, for one that cannot be called
    as above, and for what a stage refuses.
    """

    def __init__(self, sections: Sequence[CreditSection], context: RewardContext) -> None:
        found = [_stage(number, section, context) for number, section in enumerate(sections)]
        self._baseline, *self._reshapers = self._stages = found
        self.needs: frozenset[str] = frozenset().union(*(getattr(stage, "needs", ()) for stage in found))
        if unknown := self.needs - MEASURED:
            raise UserError(f"credit: a stage needs {', '.join(sorted(unknown))}; known: {', '.join(MEASURED)}")

    def metrics(self, gather: GatherLists = lambda parts: parts) -> dict[str, float]:
        """What the stages have to log of the window they were last called with."""
        found: dict[str, float] = {}
        for stage in self._stages:
            if hasattr(stage, "metrics"):
                found |= stage.metrics(gather)
        return found

    def assign(
        self, trajectories: Sequence[Trajectory], scores: Scores, reduce: Reduce = lambda sums: sums
    ) -> Advantages:
        """Advantages of each trajectory, shape (T,) over all its completion tokens; 0 on the environment's tokens.

        `reduce` adds sums over processes.
        """
        advantages = self._baseline(trajectories, scores, reduce)
        for stage in self._reshapers:
            advantages = stage(trajectories, scores, advantages)
        return advantages


def _stage(number: int, section: CreditSection, context: RewardContext) -> Stage:
    stages, what, last = (BASELINES, "baseline", "reduce") if number == 0 else (RESHAPERS, "stage", "advantages")
    if ":" not in section.name and section.name not in stages:
        raise UserError(f"credit[{number}].name: unknown {what} {section.name!r}; known: {', '.join(stages)}")
    try:
        stage: Any = stages.get(section.name) or find_reward(section.name, context.base_dir)
        check_call(section.name, stage, ("trajectories", "scores", last))
        is_class = inspect.isclass(stage)
        parameters = keyword_parameters(stage, skip=0 if is_class else 3)
        keywords = check_keywords(section.name, stage, parameters, section.kwargs)
        if "context" in parameters:
            keywords["context"] = context
        return stage(**keywords) if is_class else partial(stage, **keywords)
    except PluginError as error:
        raise UserError(f"credit[{number}]: {str(error).replace('reward ', 'stage ', 1)}") from error
    except UserError as error:
        raise UserError(f"credit[{number}]: {error}") from error


def group(
    trajectories: Sequence[Trajectory],
    scores: Scores,
    reduce: Reduce,
    *,
    scale: Scale = "outcome_std",
    floor: Positive = 0.2,
    epsilon: Positive = 1e-4,
    leave_one_out: bool = False,
    token_rewards: Literal["sum", "reward_to_go"] = "sum",
) -> Advantages:
    """Reward minus the group's mean over a scale (see `group_advantages`): GRPO, Dr. GRPO, RLOO, DLER.

    Args:
        token_rewards: `sum`: they are part of the completion's reward, and every policy token has the same advantage;
            `reward_to_go`: a token is credited with what is still to come (see `centred_rewards_to_go`), over the same
            scale.
    """
    group_N = np.array([t.group for t in trajectories])
    advantage_N, divisor_N = group_advantages(
        scores.total, scores.outcome, group_N, scores.valid,
        scale=scale, floor=floor, epsilon=epsilon, leave_one_out=leave_one_out, reduce=reduce,
    )  # fmt: skip
    if token_rewards == "sum":
        return _on_policy_tokens(advantage_N, trajectories)
    rewards = [
        np.zeros(t.num_tokens) if r is None else r for r, t in zip(scores.token_rewards, trajectories, strict=True)
    ]
    usable_N = scores.valid & np.isfinite(scores.total)
    to_go = centred_rewards_to_go(rewards, group_N, usable_N, leave_one_out=leave_one_out)
    advantages = []
    for advantage, divisor, centred, t in zip(advantage_N, divisor_N, to_go, trajectories, strict=True):
        own = np.zeros(len(t.policy_mask))
        # The advantage holds the centred sum, which is the reward to go of the first token.
        rest = advantage - (centred[0] / divisor if len(centred) else 0.0)
        own[np.asarray(t.policy_mask, dtype=bool)] = rest + centred / divisor
        advantages.append(own)
    return advantages


def gdpo(trajectories: Sequence[Trajectory], scores: Scores, reduce: Reduce, *, epsilon: Positive = 1e-4) -> Advantages:
    """Normalise each reward within its group, then sum with the weights (see `gdpo_advantages`)."""
    group_N = np.array([t.group for t in trajectories])
    values = {
        label: np.where(scores.counted[label] & scores.valid, value, np.nan) for label, value in scores.values.items()
    }
    return _on_policy_tokens(
        gdpo_advantages(values, scores.weights, group_N, epsilon=epsilon, reduce=reduce), trajectories
    )


def _on_policy_tokens(advantage_N: np.ndarray, trajectories: Sequence[Trajectory]) -> Advantages:
    """The same advantage on every policy token of a completion."""
    return [
        advantage * np.asarray(t.policy_mask, dtype=np.float64)
        for advantage, t in zip(advantage_N, trajectories, strict=True)
    ]


# Functions, and classes whose instances are called like them.
BASELINES: dict[str, Callable[..., Any]] = {"group": group, "gdpo": gdpo, "gae": gae}
RESHAPERS: dict[str, Callable[..., Any]] = {"difficulty": difficulty, "hicra": Hicra}
