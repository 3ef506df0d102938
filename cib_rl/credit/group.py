"""Group baselines: how good was a completion compared with the others of its prompt?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

Scale = Literal["reward_std", "outcome_std", "batch_std", "none"]
# Sums over all processes of (count, sum, sum of squares); the identity when there is one process.
Reduce = Callable[[np.ndarray], np.ndarray]


def group_advantages(
    total_N: np.ndarray,
    outcome_N: np.ndarray,
    group_N: np.ndarray,
    valid_N: np.ndarray,
    *,
    scale: Scale = "outcome_std",
    floor: float = 0.2,
    epsilon: float = 1e-4,
    leave_one_out: bool = False,
    reduce: Reduce = lambda sums: sums,
) -> tuple[np.ndarray, np.ndarray]:
    """Advantages A_i = (R_i − mean of the group) / scale; 0 for invalid rows, which enter neither mean nor scale.

    Args:
        total_N: total reward R = outcome + β·shaping of each completion; NaN where no reward applied (A is 0 there).
        outcome_N: the outcome part alone.
        group_N: group number of each completion; completions of a group need not be adjacent.
        valid_N: False for completions that failed.
        scale: the divisor.

            * `reward_std`: std of R within the group, + epsilon. What TRL does and the CIB paper uses ("group-scaled
              rewards", arXiv 2603.08462, §5.1). In a group that is all right or all wrong, R − mean is β times the
              centred surprisal and so is its std: **β cancels**, and the pressure has full strength whatever β is.
            * `outcome_std`: std of the *outcome* within the group, + floor. β keeps its meaning: in an all-right group
              the divisor is `floor`, so one unit of reward counts 1/floor there, as much as in a mixed group whose
              outcome std is 0 … and less than in none: the exchange rate between shaping and outcome is β everywhere,
              and β/floor is the largest slope with which shaping alone can move the policy.
            * `batch_std`: std of R − mean over the whole batch and all processes, + epsilon (REINFORCE++; DLER, arXiv
              2510.15110, eq. 3, whose mean over the batch is 0 here). Each completion counts once; DLER's released code
              weighs it by its tokens.
            * `none`: no divisor (Dr. GRPO, arXiv 2503.20783).
        floor: added to the outcome's std (not taken from a paper; ours).
        leave_one_out: subtract the mean of the *other* members (RLOO, arXiv 2402.14740): A·n/(n−1) before scaling.
        reduce: adds (3,) sums over processes, for `batch_std`.

    Standard deviations are the unbiased ones (ddof 1, as torch's and TRL's); a group with fewer than two valid members
    has no baseline, and its advantages are 0.

    Returns the advantages and the divisors, both of shape (N,).
    """
    usable_N = valid_N & np.isfinite(total_N)
    centred_N = np.zeros(len(total_N), dtype=np.float64)
    divisor_N = np.ones(len(total_N), dtype=np.float64)
    for group in np.unique(group_N):
        members = np.flatnonzero((group_N == group) & usable_N)
        if len(members) < 2:
            usable_N[members] = False
            continue
        rewards = total_N[members]
        centred_N[members] = rewards - rewards.mean()
        if leave_one_out:
            centred_N[members] *= len(members) / (len(members) - 1)
        if scale == "reward_std":
            divisor_N[members] = rewards.std(ddof=1) + epsilon
        elif scale == "outcome_std":
            divisor_N[members] = outcome_N[members].std(ddof=1) + floor
    if scale == "batch_std":
        used = centred_N[usable_N]
        count, total, squares = reduce(np.array([len(used), used.sum(), (used**2).sum()]))
        variance = max(squares - total**2 / max(count, 1), 0.0) / max(count - 1, 1)
        divisor_N[:] = np.sqrt(variance) + epsilon
    return np.where(usable_N, centred_N / divisor_N, 0.0), divisor_N


def zero_variance_groups(values_N: np.ndarray, group_N: np.ndarray, valid_N: np.ndarray, tolerance: float) -> set[int]:
    """Groups whose valid values differ by no more than `tolerance` (or that have fewer than two valid members)."""
    flat = set()
    for group in np.unique(group_N):
        values = values_N[(group_N == group) & valid_N & np.isfinite(values_N)]
        if len(values) < 2 or values.max() - values.min() <= tolerance:
            flat.add(int(group))
    return flat
