"""Difficulty weighting: what is right on a hard prompt, or wrong on an easy one, counts more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import FiniteFloat

from cib_rl.plugin import Scores, by_group
from cib_rl.trajectory import Trajectory


def difficulty(
    trajectories: Sequence[Trajectory],
    scores: Scores,
    advantages: list[np.ndarray],
    *,
    low: FiniteFloat = 0.4,
    high: FiniteFloat = 1.5,
    middle: FiniteFloat = 0.75,
    steepness: FiniteFloat = 10.0,
) -> list[np.ndarray]:
    """A·w(ρ) where A > 0, else A·w(1 − ρ), with w(ρ) = low + (high − low)/(1 + exp(steepness·(ρ − middle))).

    GRPO-LEAD (arXiv 2504.09696), difficulty-aware advantage reweighting; the defaults are the released code's. ρ is the
    share of successes (`Scores.correct`) among the valid completions of the prompt: on a hard prompt (small ρ) positive
    advantages count up to `high` times, on an easy one (ρ near 1) negative ones do.

    Args:
        advantages: one (T,) array per trajectory, from a baseline or another stage; new arrays are returned.
        low, high: weight at w(1) and w(0), nearly.
        middle: ρ at which the weight is half way.
        steepness: of the step there.
    """
    weighted = [advantage_T.copy() for advantage_T in advantages]
    for members in by_group(trajectories):
        valid = [i for i in members if scores.valid[i]]
        share = float(scores.correct[valid].mean()) if valid else 0.0
        up, down = (low + (high - low) / (1 + np.exp(steepness * (x - middle))) for x in (share, 1 - share))
        for i in members:
            weighted[i] *= np.where(weighted[i] > 0, up, down)
    return weighted
