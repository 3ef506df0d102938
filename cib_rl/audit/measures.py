"""The numbers of an audit, each with a 95% interval over problems."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cib_rl.evals.statistics import (
    Estimate,
    clustered_error,
    clustered_mean,
    clustered_proportion,
    ratio_of_sums,
    student_t_quantile,
)
from cib_rl.samples.ranks import members_of, within_groups

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.intp]


@dataclass(frozen=True)
class Shortest:
    """Problems with two or more right answers.

    Attributes:
        problems: how many.
        mean, shortest: tokens of their right answers, means over problems.
        saving: 1 − Σ shortest / Σ mean, sums over problems.
        pairs: (problems, 2): mean and shortest of each.
    """

    problems: int
    mean: Estimate
    shortest: Estimate
    saving: Estimate
    pairs: Floats


@dataclass(frozen=True)
class Composition:
    """How many problems have right answers only, both kinds, wrong ones only; `share` of them are mixed."""

    all_right: int
    mixed: int
    all_wrong: int
    share: Estimate


@dataclass(frozen=True)
class Gap:
    """Right against wrong answers, in tokens.

    Attributes:
        right, wrong: means over all right and all wrong answers.
        within: mean over mixed problems of (mean of wrong − mean of right).
        relative: Σ mean of wrong / Σ mean of right − 1, sums over mixed problems.
    """

    right: Estimate
    wrong: Estimate
    within: Estimate
    relative: Estimate


@dataclass(frozen=True)
class Cost:
    """The surprisal of completions under a prior.

    Attributes:
        per_token: nats per token, Σ cost / Σ tokens.
        agreement: mean Kendall tau-b of cost and length within problems; agreement_right: among right answers only.
        failed: completions that the prior could not score.
        taus: agreement of each problem that has one.
    """

    per_token: Estimate
    agreement: Estimate
    agreement_right: Estimate
    failed: int
    taus: Floats


def shortest_right(tokens: Floats, correct: Bools, groups: Ints) -> Shortest:
    """Shapes (N,)."""
    kept = [tokens[m[correct[m]]] for m in members_of(groups)]
    pairs = np.array([(right.mean(), right.min()) for right in kept if len(right) > 1]).reshape(-1, 2)
    if not len(pairs):
        return Shortest(0, Estimate(None), Estimate(None), Estimate(None), pairs)
    each = np.arange(len(pairs))
    left = ratio(pairs[:, 1], pairs[:, 0])
    return Shortest(
        len(pairs), clustered_mean(pairs[:, 0], each), clustered_mean(pairs[:, 1], each), _one_minus(left), pairs
    )


def composition(correct: Bools, groups: Ints) -> Composition:
    """Shapes (N,)."""
    shares = np.array([correct[m].mean() for m in members_of(groups)])
    mixed = (shares > 0) & (shares < 1)
    return Composition(
        int((shares == 1).sum()),
        int(mixed.sum()),
        int((shares == 0).sum()),
        clustered_proportion(mixed.astype(np.float64), np.arange(len(mixed))),
    )


def length_gap(tokens: Floats, correct: Bools, groups: Ints) -> Gap:
    """Shapes (N,)."""
    means = [
        (tokens[m[~correct[m]]].mean(), tokens[m[correct[m]]].mean())
        for m in members_of(groups)
        if correct[m].any() and not correct[m].all()
    ]
    pairs = np.array(means).reshape(-1, 2)
    none = Estimate(None)
    return Gap(
        right=clustered_mean(tokens, groups, correct) if correct.any() else none,
        wrong=clustered_mean(tokens, groups, ~correct) if not correct.all() else none,
        within=clustered_mean(pairs[:, 0] - pairs[:, 1], np.arange(len(pairs))) if len(pairs) else none,
        relative=_minus_one(ratio(pairs[:, 0], pairs[:, 1])) if len(pairs) else none,
    )


def cost_and_length(cost: Floats, tokens: Floats, correct: Bools, groups: Ints) -> Cost:
    """The agreement of costs (nats, NaN: not known) with lengths. Shapes (N,)."""
    known = ~np.isnan(cost)
    found = [m[known[m]] for m in members_of(groups)]
    taus = [within_groups(cost[m], tokens[m], np.zeros(len(m), dtype=np.intp)).value for m in found if len(m) > 1]
    sums = np.array([(cost[m].sum(), tokens[m].sum()) for m in found if len(m)]).reshape(-1, 2)
    return Cost(
        per_token=ratio(sums[:, 0], sums[:, 1]),
        agreement=within_groups(cost, tokens, groups),
        agreement_right=within_groups(cost, tokens, groups, correct),
        failed=int((~known).sum()),
        taus=np.array([tau for tau in taus if tau is not None], dtype=np.float64),
    )


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> Estimate:
    """Σ numerator / Σ denominator with its interval over problems. Shapes (Q,)."""
    found = ratio_of_sums(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))
    if found is None:
        return Estimate(None)
    error = clustered_error(found.influence, found.questions)
    if error is None:
        return Estimate(found.value, None, None, found.questions, found.questions)
    reach = student_t_quantile(0.975, found.questions - 1) * error
    return Estimate(found.value, found.value - reach, found.value + reach, found.questions, found.questions)


def _one_minus(e: Estimate) -> Estimate:
    if e.value is None or e.low is None or e.high is None:
        return Estimate(None if e.value is None else 1 - e.value, None, None, e.questions, e.samples)
    return Estimate(1 - e.value, 1 - e.high, 1 - e.low, e.questions, e.samples)


def _minus_one(e: Estimate) -> Estimate:
    if e.value is None or e.low is None or e.high is None:
        return Estimate(None if e.value is None else e.value - 1, None, None, e.questions, e.samples)
    return Estimate(e.value - 1, e.low - 1, e.high - 1, e.questions, e.samples)
