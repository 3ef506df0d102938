"""Arora & Zanette: right answers pay by how long they are among the right answers of their prompt."""

from __future__ import annotations

import numpy as np
from pydantic import NonNegativeFloat

from cib_rl.plugin import by_group, reward, success
from cib_rl.trajectory import Trajectory


@reward("arora_zanette", kind="shaping", needs_success=True, replaces_outcome=True)
def arora_zanette(trajectories: list[Trajectory], *, alpha: NonNegativeFloat = 0.1) -> list[float]:
    """1[right]·(1 − α·σ((n − mean)/(std + 1e-7))), with mean and std over the prompt's right answers.

    Training Language Models to Reason Efficiently (arXiv 2502.04463); n counts policy tokens, σ is the logistic
    function. The value is that minus 1[right]: with a 0/1 outcome of weight 1 and this at weight 1 the total is the
    paper's reward. As in the released code an answer without an end (cut off by a limit) has 0 in total, right or
    wrong; it is left out of mean and std (ours). std is that of the population (ours: the paper does not say which).

    The paper's baseline is leave-one-out without scale: `credit: [{name: group, scale: none, leave_one_out: true}]`.

    Wrong answers: 0 in total whatever their length. With α up to 1 no wrong answer outranks a right one (a right one
    has more than 1 − α); with a larger α the longest right answers fall below 0.

    Args:
        alpha: how much of a right answer's 1 its length decides (paper: 0 to below 1; released script: 0.1).
    """
    values = [0.0] * len(trajectories)
    right = success(trajectories)
    for members in by_group(trajectories):
        finished = [i for i in members if right[i] and not trajectories[i].truncated]
        for i in members:
            values[i] = -float(right[i])
        if not finished:
            continue
        lengths = np.array([trajectories[i].num_tokens for i in finished], dtype=np.float64)
        z = (lengths - lengths.mean()) / (lengths.std() + 1e-7)
        for i, share in zip(finished, 1 / (1 + np.exp(-z)), strict=True):
            values[i] = -alpha * float(share)
    return values
