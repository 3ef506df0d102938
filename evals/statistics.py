"""Estimators and 95% intervals for repeated samples of the same questions. Pure functions over numpy arrays.

Everything here treats the *question* as the unit that was drawn at random: the samples of one question are alike, so
they count as one cluster, and an interval says what other questions of the same kind would have given.

Every mean is a ratio of sums, R = sum_i w_i y_i / sum_i w_i (w picks the samples: all of them, or the right ones).
Its influence per question is I_q = sum_{i in q} w_i (y_i - R) / sum_i w_i, and its standard error is the clustered one
with the small-sample factor, se = sqrt(Q / (Q - 1) * sum_q I_q^2) (the CR1 sandwich estimator; Liang & Zeger 1986;
Cameron & Miller 2015, section II), used with Student's t quantile of Q - 1 degrees of freedom. Q counts the questions
that have a sample with w > 0. Differences and ratios of two results on the same questions subtract their influences
question by question, which is what makes the interval a paired one.

This linearised estimator was chosen over a bootstrap over questions because it needs no seed, costs one pass (it runs
in the middle of training) and covers a ratio of means as well; the tests hold it against that bootstrap. Two places
differ: a proportion uses Wilson's form, which stays inside [0, 1] and keeps a width when every answer is right; a
median uses Woodruff's form, because a median has no usable linearisation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval. `value` is None when nothing was there to average (for example no right answer);
    `low` and `high` are None when there are fewer than two questions to judge the spread by."""

    value: float | None
    low: float | None = None
    high: float | None = None
    questions: int = 0  # clusters with at least one sample counted
    samples: int = 0  # samples counted


def student_t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t for a whole number of degrees of freedom (Abramowitz & Stegun 26.7.3-26.7.5).

    Exact finite series and bisection up to 200 degrees, the expansion around the normal quantile beyond (error below
    1e-9 for probabilities from 0.001 to 0.999).
    """
    if not 0 < probability < 1 or degrees < 1:
        raise ValueError(f"need 0 < probability < 1 and degrees >= 1, got {probability} and {degrees}")
    if probability == 0.5:
        return 0.0
    if degrees > 200:
        z = NormalDist().inv_cdf(probability)
        terms = (
            (z**3 + z) / 4,
            (5 * z**5 + 16 * z**3 + 3 * z) / 96,
            (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
            (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
        )
        return z + sum(term / degrees ** (power + 1) for power, term in enumerate(terms))
    # P(|T| < t) with theta = atan(t / sqrt(degrees)); bisect on theta, which is bounded.
    wanted, low, high = abs(2 * probability - 1), 0.0, math.pi / 2
    for _ in range(80):
        theta = (low + high) / 2
        low, high = (theta, high) if _t_two_sided(theta, degrees) < wanted else (low, theta)
    return math.copysign(math.tan(low) * math.sqrt(degrees), probability - 0.5)


def _t_two_sided(theta: float, degrees: int) -> float:
    """P(|T| < sqrt(degrees) * tan(theta)) for Student's t: the finite series for odd and for even degrees."""
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = degrees % 2
    if degrees == 1:
        return 2 * theta / math.pi
    term = total = cosine if odd else 1.0
    for step in range(3 if odd else 2, degrees - 1, 2):
        term *= cosine**2 * (step - 1) / step
        total += term
    return 2 / math.pi * (theta + sine * total) if odd else sine * total


@dataclass(frozen=True)
class Ratio:
    """A mean as a ratio of sums, with what each question contributes to its error. Arrays have shape (Q,)."""

    value: float
    influence: Array
    counted: NDArray[np.bool_]  # questions with a sample that counts

    @property
    def questions(self) -> int:
        return int(self.counted.sum())


def ratio_of_sums(numerator: Array, denominator: Array) -> Ratio | None:
    """Ratio of the sums of two per-question arrays of shape (Q,); None when the denominator is empty."""
    weight = denominator.sum()
    if weight <= 0:
        return None
    value = float(numerator.sum() / weight)
    return Ratio(value, (numerator - value * denominator) / weight, denominator > 0)


def clustered_error(influence: ArrayLike, questions: int) -> float | None:
    """Clustered standard error from influences per question (see the module); None for fewer than two questions."""
    if questions < 2:
        return None
    squares = np.square(np.asarray(influence, dtype=np.float64)).sum()
    return math.sqrt(questions / (questions - 1) * float(squares))


def _checked(values: ArrayLike, questions: Sequence[Any] | NDArray[Any]) -> tuple[Array, NDArray[np.intp], int]:
    """Values as float64 (N,), the question of each as an index (N,), and the number of questions."""
    values_N = np.asarray(values, dtype=np.float64)
    names, index_N = np.unique(np.asarray(questions), return_inverse=True)
    if values_N.shape != index_N.shape or values_N.ndim != 1:
        raise ValueError(f"{values_N.shape} values do not match {index_N.shape} question ids")
    if not np.isfinite(values_N).all():
        raise ValueError(f"value {int(np.argmin(np.isfinite(values_N)))} is not a finite number")
    return values_N, index_N, len(names)


def _per_question(index_N: NDArray[np.intp], weights_N: Array, count: int) -> Array:
    """Sums of `weights_N` by question. Shape (Q,)."""
    return np.bincount(index_N, weights_N, count).astype(np.float64)


def clustered_mean(
    values: ArrayLike, questions: Sequence[Any] | NDArray[Any], mask: ArrayLike | None = None, *, level: float = 0.95
) -> Estimate:
    """Mean over the samples where `mask` holds (all by default), interval mean ± t · clustered standard error.

    Shapes: values, questions, mask (N,).
    """
    values_N, index_N, count = _checked(values, questions)
    mask_N = np.ones_like(values_N) if mask is None else np.asarray(mask, dtype=np.float64)
    ratio = ratio_of_sums(_per_question(index_N, values_N * mask_N, count), _per_question(index_N, mask_N, count))
    return Estimate(None) if ratio is None else _t_interval(ratio, int(mask_N.sum()), level)


def _t_interval(ratio: Ratio, samples: int, level: float) -> Estimate:
    error = clustered_error(ratio.influence, ratio.questions)
    if error is None:
        return Estimate(ratio.value, None, None, ratio.questions, samples)
    reach = student_t_quantile((1 + level) / 2, ratio.questions - 1) * error
    return Estimate(ratio.value, ratio.value - reach, ratio.value + reach, ratio.questions, samples)


def clustered_proportion(
    hits: ArrayLike, questions: Sequence[Any] | NDArray[Any], mask: ArrayLike | None = None, *, level: float = 0.95
) -> Estimate:
    """Share of samples that are hits, with Wilson's interval at the effective sample size (Dean & Pagano 2015).

    The effective size is p (1 - p) / se^2 with the clustered se, at most the number of samples; where every sample
    agrees (p is 0 or 1) the spread within questions is unknown and each question counts as one sample. So `all right`
    on 20 questions reads [0.82, 1], not [1, 1]. avg@n is this function over right / wrong.
    """
    mean = clustered_mean(hits, questions, mask, level=level)
    if mean.value is None or mean.low is None:
        return mean
    share, quantile = mean.value, student_t_quantile((1 + level) / 2, mean.questions - 1)
    error = (mean.value - mean.low) / quantile
    spread = share * (1 - share)
    if spread <= 0:
        size = float(mean.questions)
    else:
        size = min(float(mean.samples), spread / error**2) if error > 0 else float(mean.samples)
    squared = quantile**2 / size
    centre = (share + squared / 2) / (1 + squared)
    reach = math.sqrt(squared * spread + squared**2 / 4) / (1 + squared)
    low, high = max(0.0, centre - reach), min(1.0, centre + reach)
    # Rounding must not push an end past the share itself (it touches it at 0 and 1).
    return Estimate(share, min(share, low), max(share, high), mean.questions, mean.samples)


def clustered_median(
    values: ArrayLike, questions: Sequence[Any] | NDArray[Any], mask: ArrayLike | None = None, *, level: float = 0.95
) -> Estimate:
    """Median over the samples where `mask` holds; interval by Woodruff's method (1952).

    The share of samples at or below the median gets a clustered interval around 1/2, and the quantiles at its two ends
    are the interval of the median.
    """
    values_N, index_N, _ = _checked(values, questions)
    kept = np.ones(len(values_N), dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    values_N, index_N = values_N[kept], index_N[kept]
    if len(values_N) == 0:
        return Estimate(None)
    median = float(np.median(values_N))
    # Ties at the median count half, so that the share is centred on 1/2 also for whole numbers with many ties.
    share = clustered_mean((values_N < median) + 0.5 * (values_N == median), index_N, level=level)
    if share.value is None or share.low is None:
        return Estimate(median, None, None, share.questions, share.samples)
    reach = share.value - share.low
    low, high = np.quantile(values_N, [max(0.0, 0.5 - reach), min(1.0, 0.5 + reach)])
    return Estimate(median, float(low), float(high), share.questions, share.samples)


def pass_at_k(samples: ArrayLike, right: ArrayLike, k: int) -> Array:
    """Unbiased pass@k per question, 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, eq. 1).

    Computed as 1 - prod_{j=0}^{k-1} (n - c - j) / (n - j): no large number is formed. Shapes: samples, right (Q,).
    Raises ValueError when a question has fewer than k samples: the estimate would be biased.
    """
    n_Q, c_Q = np.broadcast_arrays(np.asarray(samples, dtype=np.int64), np.asarray(right, dtype=np.int64))
    if k < 1:
        raise ValueError(f"pass@k needs k >= 1, got {k}")
    if ((c_Q < 0) | (c_Q > n_Q)).any():
        raise ValueError("the number of right samples must lie between 0 and the number of samples")
    if (n_Q < k).any():
        raise ValueError(f"pass@{k} needs at least {k} graded samples of every question, one has {int(n_Q.min())}")
    failures_Q = np.ones(n_Q.shape, dtype=np.float64)
    for drawn in range(k):
        failures_Q *= np.clip(n_Q - c_Q - drawn, 0, None) / (n_Q - drawn)
    return np.asarray(1.0 - failures_Q, dtype=np.float64)


def mean_pass_at_k(
    hits: ArrayLike, questions: Sequence[Any] | NDArray[Any], k: int, *, level: float = 0.95
) -> Estimate:
    """Mean over questions of the unbiased pass@k, interval mean ± t · se over questions. Shapes (N,)."""
    hits_N, index_N, count = _checked(hits, questions)
    if count == 0:
        return Estimate(None)
    n_Q = np.bincount(index_N, minlength=count)
    estimate = clustered_mean(pass_at_k(n_Q, _per_question(index_N, hits_N, count), k), np.arange(count), level=level)
    return Estimate(estimate.value, estimate.low, estimate.high, count, len(hits_N))
