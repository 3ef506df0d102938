"""Rank correlations: over all completions, and within the completions of one problem."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cib_rl.evals.statistics import Estimate, clustered_mean

Array = NDArray[np.float64]


def spearman(x: ArrayLike, y: ArrayLike) -> float | None:
    """Spearman's rank correlation of two arrays of shape (N,), ties at their mean rank. Pairs with a NaN are left out.

    None for fewer than two pairs, or where one of the two is constant.
    """
    x_N, y_N = _pairs(x, y)
    if len(x_N) < 2:
        return None
    ranks = [_ranks(values) - (len(values) - 1) / 2 for values in (x_N, y_N)]
    scale = float(np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float((ranks[0] * ranks[1]).sum()) / scale if scale > 0 else None


def kendall(x: ArrayLike, y: ArrayLike) -> float | None:
    """Kendall's tau-b of two arrays of shape (N,): (agreeing − disagreeing pairs) / √(untied in x · untied in y).

    Quadratic in N: for the completions of one problem. Pairs with a NaN are left out. None for fewer than two, or where
    one of the two is constant.
    """
    x_N, y_N = _pairs(x, y)
    first, second = np.triu_indices(len(x_N), 1)
    signs_x, signs_y = np.sign(x_N[first] - x_N[second]), np.sign(y_N[first] - y_N[second])
    scale = float(np.sqrt(np.abs(signs_x).sum() * np.abs(signs_y).sum()))
    return float((signs_x * signs_y).sum()) / scale if scale > 0 else None


def within_groups(
    x: ArrayLike, y: ArrayLike, groups: Sequence[int] | NDArray[np.intp], mask: ArrayLike | None = None
) -> Estimate:
    """Mean of Kendall's tau-b over the groups that have one, with a 95% interval over these groups. Shapes (N,).

    Args:
        mask: which completions count; default: all.
    """
    x_N, y_N, groups_N = np.asarray(x, np.float64), np.asarray(y, np.float64), np.asarray(groups)
    kept = np.ones(len(x_N), bool) if mask is None else np.asarray(mask, bool)
    found = [
        tau
        for members in members_of(groups_N[kept])
        if (tau := kendall(x_N[kept][members], y_N[kept][members])) is not None
    ]
    return clustered_mean(found, np.arange(len(found))) if found else Estimate(None)


def _pairs(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    x_N, y_N = np.asarray(x, np.float64), np.asarray(y, np.float64)
    kept = ~(np.isnan(x_N) | np.isnan(y_N))
    return x_N[kept], y_N[kept]


def _ranks(values: Array) -> Array:
    """Ranks from 0; equal values share their mean rank."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[index]


def members_of(groups: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """The indices of each group's members, groups in rising order. Shape of groups: (N,)."""
    if not len(groups):
        return []
    order = np.argsort(groups, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
