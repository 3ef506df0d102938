"""Credit: from the rewards of a window to one advantage per completion token, in the recipe's order of stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cib_rl.credit.group import Reduce, group_advantages
from cib_rl.errors import UserError
from cib_rl.plugin import Scores
from cib_rl.recipe import CreditSection
from cib_rl.trajectory import Trajectory

# A stage takes (trajectories, scores, advantages so far as one (T,) array per trajectory) and returns new ones.
Stage = Callable[[Sequence[Trajectory], Scores, list[np.ndarray]], list[np.ndarray]]


def assign_credit(
    sections: Sequence[CreditSection],
    trajectories: Sequence[Trajectory],
    scores: Scores,
    reduce: Reduce = lambda sums: sums,
) -> list[np.ndarray]:
    """Advantages of each trajectory, shape (T,) over all its completion tokens; 0 on the environment's tokens.

    The first stage must be a baseline (`group`); those after it reshape what it gave.
    """
    first, *reshapers = sections
    baseline = BASELINES.get(first.name)
    if baseline is None:
        raise UserError(f"credit[0].name: unknown baseline {first.name!r}; known: {', '.join(BASELINES)}")
    advantages = baseline(trajectories, scores, reduce, **first.kwargs)
    for number, section in enumerate(reshapers, 1):
        stage = RESHAPERS.get(section.name)
        if stage is None:
            raise UserError(f"credit[{number}].name: unknown stage {section.name!r}; known: {', '.join(RESHAPERS) or 'none'}")
        advantages = stage(trajectories, scores, advantages, **section.kwargs)
    return advantages


def _group(trajectories: Sequence[Trajectory], scores: Scores, reduce: Reduce, **kwargs: Any) -> list[np.ndarray]:
    """The same advantage on every policy token of a completion (token rewards are summed into its total)."""
    advantage_N = group_advantages(
        scores.total, scores.outcome, np.array([t.group for t in trajectories]), scores.valid, reduce=reduce, **kwargs
    )
    return [
        advantage * np.asarray(t.policy_mask, dtype=np.float64)
        for advantage, t in zip(advantage_N, trajectories, strict=True)
    ]


BASELINES: dict[str, Callable[..., list[np.ndarray]]] = {"group": _group}
RESHAPERS: dict[str, Callable[..., list[np.ndarray]]] = {}
