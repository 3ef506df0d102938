"""What one reward does on many completions: its distribution, and what it goes along with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cib_rl.evals.statistics import Estimate, clustered_mean, clustered_proportion
from cib_rl.samples.ranks import spearman, within_groups
from cib_rl.tryout.judge import Judged

TOLERANCE = 1e-9  # values closer than this are equal
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class Distribution:
    """The values of a reward on N completions.

    Attributes:
        given: completions it was given; none: it did not apply; failed: it raised or returned no number.
        quantiles: at `QUANTILES`; empty when it has no value at all.
        zeros: share of its values that are 0.
        right, wrong: means over right and wrong completions, intervals over problems.
        flat: share of the problems with two or more values where all of them are equal: no signal from it there.
        milliseconds: per completion.
    """

    given: int
    none: int
    failed: int
    mean: float | None
    std: float | None
    quantiles: tuple[float, ...]
    zeros: float | None
    right: Estimate
    wrong: Estimate
    flat: Estimate
    milliseconds: float | None


@dataclass(frozen=True)
class Agreement:
    """How a reward goes along with another number.

    Attributes:
        name: of the other number.
        overall: Spearman's correlation over all completions; None where one of the two is constant.
        within: mean of Kendall's tau-b within problems, interval over problems: what a group baseline can see.
    """

    name: str
    overall: float | None
    within: Estimate


def distribution(judged: Judged, groups: NDArray[np.intp]) -> Distribution:
    """The distribution of the tried reward. Shape of groups: (N,)."""
    known = ~np.isnan(judged.values)
    values = judged.values[known]
    return Distribution(
        given=judged.attempted,
        none=int(judged.attempted - known.sum() - judged.failed.sum()),
        failed=int(judged.failed.sum()),
        mean=float(values.mean()) if len(values) else None,
        std=float(values.std()) if len(values) else None,
        quantiles=tuple(float(q) for q in np.quantile(values, QUANTILES)) if len(values) else (),
        zeros=float((np.abs(values) <= TOLERANCE).mean()) if len(values) else None,
        right=_mean(values, groups[known], judged.correct[known]),
        wrong=_mean(values, groups[known], ~judged.correct[known]),
        flat=_flat(values, groups[known]),
        milliseconds=1000 * judged.seconds / judged.attempted if judged.attempted else None,
    )


def _mean(values: NDArray[np.float64], groups: NDArray[np.intp], mask: NDArray[np.bool_]) -> Estimate:
    return clustered_mean(values, groups, mask) if mask.any() else Estimate(None)


def _flat(values: NDArray[np.float64], groups: NDArray[np.intp]) -> Estimate:
    names, index = np.unique(groups, return_inverse=True)
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    np.minimum.at(low, index, values)
    np.maximum.at(high, index, values)
    several = np.bincount(index, minlength=len(names)) > 1
    if not several.any():
        return Estimate(None)
    return clustered_proportion((high - low <= TOLERANCE)[several], np.arange(int(several.sum())))


def agreements(
    values: NDArray[np.float64], others: Mapping[str, NDArray[np.float64]], groups: Sequence[int] | NDArray[np.intp]
) -> list[Agreement]:
    """The reward's agreement with each other number. Shapes (N,); NaN: not known."""
    return [
        Agreement(name, spearman(values, other), within_groups(values, other, groups)) for name, other in others.items()
    ]
