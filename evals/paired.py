"""Paired comparison of two results on the same questions. Pure functions over numpy arrays; see `statistics`.

For two means A and B over the same questions the influence of question q on B - A is I_q(B) - I_q(A), and on
log(B / A) it is I_q(B) / B - I_q(A) / A (delta method). What makes a question easy or long is in both and cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cib_rl.evals.statistics import Array, Estimate, Ratio, clustered_error, ratio_of_sums, student_t_quantile


@dataclass(frozen=True)
class Change:
    """A mean before and after, on the same questions: B - A and B / A - 1, each with its paired 95% interval.

    `relative` is None where `before` is 0. Both are None where one side has nothing to average.
    """

    before: float | None
    after: float | None
    difference: Estimate
    relative: Estimate | None = None


@dataclass(frozen=True)
class Samples:
    """Columns of one result, one entry per graded sample: question id, right or not, policy tokens. Shapes (N,)."""

    questions: Sequence[Any] | NDArray[Any]
    right: ArrayLike
    tokens: ArrayLike


@dataclass(frozen=True)
class Paired:
    """`after` against `before`.

    `tokens_right` compares all right answers of each side: what a user pays per right answer; the two sides answer
    different questions, so a side that newly solves hard questions looks longer. `tokens_both_right` compares only
    questions with a right answer on both sides, each question counting once with its mean over right answers: the
    length of the same work. Report both.
    """

    questions: int
    questions_both_right: int
    accuracy: Change
    tokens: Change
    tokens_right: Change
    tokens_both_right: Change


def paired_change(before: Ratio | None, after: Ratio | None, samples: int = 0, *, level: float = 0.95) -> Change:
    """Difference (interval ± t · se) and relative change (interval on the logarithm, so never below -100%).

    Q counts the questions that count on either side. Both ratios must index questions alike.
    """
    if before is None or after is None:
        return Change(before.value if before else None, after.value if after else None, Estimate(None))
    counted = int((before.counted | after.counted).sum())
    gap = after.value - before.value
    quantile = student_t_quantile((1 + level) / 2, counted - 1) if counted > 1 else math.nan
    error = clustered_error(after.influence - before.influence, counted)
    low, high = (None, None) if error is None else (gap - quantile * error, gap + quantile * error)
    difference = Estimate(gap, low, high, counted, samples)
    if before.value <= 0 or after.value <= 0:
        return Change(before.value, after.value, difference)
    ratio = after.value / before.value
    error = clustered_error(after.influence / after.value - before.influence / before.value, counted)
    low, high = None, None
    if error is not None:
        low, high = ratio * math.exp(-quantile * error) - 1, ratio * math.exp(quantile * error) - 1
    return Change(before.value, after.value, difference, Estimate(ratio - 1, low, high, counted, samples))


def _never_certain(change: Change, *, level: float) -> Change:
    """Widen an interval of no width: where no question differs between two sets of right answers, the share of
    questions that would differ is still only known up to Wilson's bound at none of Q, t^2 / (Q + t^2)."""
    gap = change.difference
    if gap.value is None or gap.low is None or gap.high is None or gap.high > gap.low:
        return change
    squared = student_t_quantile((1 + level) / 2, gap.questions - 1) ** 2
    reach = squared / (gap.questions + squared)
    return replace(change, difference=replace(gap, low=gap.value - reach, high=gap.value + reach))


def _sums(samples: Samples, order: dict[Any, int]) -> tuple[Array, Array, Array, Array]:
    """Per question (Q,): samples, right samples, tokens, tokens of right samples."""
    index_N = np.array([order[question] for question in samples.questions], dtype=np.intp)
    right_N = np.asarray(samples.right, dtype=np.float64)
    tokens_N = np.asarray(samples.tokens, dtype=np.float64)
    if not index_N.shape == right_N.shape == tokens_N.shape:
        raise ValueError(f"columns differ in length: {index_N.shape}, {right_N.shape}, {tokens_N.shape}")

    def total(weights_N: Array) -> Array:
        return np.bincount(index_N, weights_N, len(order)).astype(np.float64)

    return total(np.ones_like(right_N)), total(right_N), total(tokens_N), total(tokens_N * right_N)


def compare_samples(before: Samples, after: Samples, *, level: float = 0.95) -> Paired:
    """All paired changes between two results.

    Raises ValueError unless both hold the same questions (they may hold different numbers of samples of them).
    """
    first, second = ({question: None for question in side.questions} for side in (before, after))
    if first.keys() != second.keys():
        missing, extra = sorted(map(str, first.keys() - second)), sorted(map(str, second.keys() - first))
        shown = (missing or extra)[0]
        raise ValueError(
            f"the two results hold different questions ({len(missing)} only before, {len(extra)} only after, for "
            f"example {shown!r}); a paired comparison needs the same benchmark, data and number of problems"
        )
    order = {question: position for position, question in enumerate(first)}
    count_a, right_a, tokens_a, tokens_right_a = _sums(before, order)
    count_b, right_b, tokens_b, tokens_right_b = _sums(after, order)
    samples = int(count_a.sum() + count_b.sum())
    rights = int(right_a.sum() + right_b.sum())

    both = (right_a > 0) & (right_b > 0)

    def mean_where_both(tokens: Array, right: Array) -> Ratio | None:
        means = np.divide(tokens, right, out=np.zeros_like(tokens), where=both)
        return ratio_of_sums(means, both.astype(np.float64))

    both_a, both_b = mean_where_both(tokens_right_a, right_a), mean_where_both(tokens_right_b, right_b)
    samples_both = int(right_a[both].sum() + right_b[both].sum())
    return Paired(
        questions=len(order),
        questions_both_right=int(both.sum()),
        accuracy=_never_certain(
            paired_change(ratio_of_sums(right_a, count_a), ratio_of_sums(right_b, count_b), samples, level=level),
            level=level,
        ),
        tokens=paired_change(ratio_of_sums(tokens_a, count_a), ratio_of_sums(tokens_b, count_b), samples, level=level),
        tokens_right=paired_change(
            ratio_of_sums(tokens_right_a, right_a), ratio_of_sums(tokens_right_b, right_b), rights, level=level
        ),
        tokens_both_right=paired_change(both_a, both_b, samples_both, level=level),
    )
