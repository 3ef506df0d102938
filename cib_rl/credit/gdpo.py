"""Normalise, then sum: every reward is centred and scaled within its group before the weights are applied."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cib_rl.credit.group import Reduce


def gdpo_advantages(
    values: Mapping[str, np.ndarray],
    weights: Mapping[str, float],
    group_N: np.ndarray,
    *,
    epsilon: float = 1e-4,
    reduce: Reduce = lambda sums: sums,
) -> np.ndarray:
    """A = batch-normalised Σ_k w_k (r_k − mean of the group) / (std of the group + epsilon).

    GDPO (arXiv 2601.05242), as TRL's `multi_objective_aggregation: normalize_then_sum`. A weight is then the share of a
    reward in the direction of the update, whatever the reward's spread: in a group that is all right, a shaping reward
    has its full strength w_k, however small the differences are that it makes.

    Args:
        values: label -> unweighted values (N,); NaN where a reward does not count for a completion.
        weights: label -> weight.
        group_N: group number of each completion.
        reduce: adds (3,) sums over processes, for the normalisation over the batch.

    Standard deviations are the unbiased ones. A completion for which no reward counts has the advantage 0.
    """
    summed_N = np.zeros(len(group_N))
    known_N = np.zeros(len(group_N), dtype=bool)
    for label, value_N in values.items():
        for group in np.unique(group_N):
            members = np.flatnonzero((group_N == group) & np.isfinite(value_N))
            known_N[members] = True
            if len(members) < 2:
                continue
            own = value_N[members]
            summed_N[members] += weights[label] * (own - own.mean()) / (own.std(ddof=1) + epsilon)
    used = summed_N[known_N]
    count, total, squares = reduce(np.array([len(used), used.sum(), (used**2).sum()]))
    if count < 2:
        return np.zeros(len(group_N))
    mean = total / count
    deviation = np.sqrt(max(squares - count * mean**2, 0.0) / (count - 1))
    return np.where(known_N, (summed_N - mean) / (deviation + epsilon), 0.0)
