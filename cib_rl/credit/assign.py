"""Credit: from the rewards of a window to one advantage per completion token, in the recipe's order of stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np

from cib_rl.credit.group import Reduce, Scale, group_advantages
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
    advantages = BASELINES[first.name](trajectories, scores, reduce, **first.kwargs)
    for section in reshapers:
        advantages = RESHAPERS[section.name](trajectories, scores, advantages, **section.kwargs)
    return advantages


def check_credit(sections: Sequence[CreditSection]) -> None:
    """Raises UserError for an unknown stage, an unknown key of one, or a bad value of `scale`; before any rollout."""
    for number, section in enumerate(sections):
        stages, what = (BASELINES, "baseline") if number == 0 else (RESHAPERS, "stage")
        known = _KEYS.get(section.name, ())
        if section.name not in stages:
            names = ", ".join(stages) or "none"
            raise UserError(f"credit[{number}].name: unknown {what} {section.name!r}; known: {names}")
        for key in section.kwargs:
            if key not in known:
                raise UserError(f"credit[{number}]: unknown key `{key}` of {section.name}; known: {', '.join(known)}")
        scale = section.kwargs.get("scale", SCALES[0])
        if section.name == "group" and scale not in SCALES:
            raise UserError(f"credit[{number}].scale: unknown {scale!r}; known: {', '.join(SCALES)}")


def _group(trajectories: Sequence[Trajectory], scores: Scores, reduce: Reduce, **kwargs: Any) -> list[np.ndarray]:
    """The same advantage on every policy token of a completion (token rewards are summed into its total)."""
    advantage_N = group_advantages(
        scores.total, scores.outcome, np.array([t.group for t in trajectories]), scores.valid, reduce=reduce, **kwargs
    )
    return [
        advantage * np.asarray(t.policy_mask, dtype=np.float64)
        for advantage, t in zip(advantage_N, trajectories, strict=True)
    ]


SCALES: tuple[str, ...] = get_args(Scale)
BASELINES: dict[str, Callable[..., list[np.ndarray]]] = {"group": _group}
RESHAPERS: dict[str, Callable[..., list[np.ndarray]]] = {}
_KEYS = {"group": ("scale", "floor", "epsilon", "leave_one_out")}
