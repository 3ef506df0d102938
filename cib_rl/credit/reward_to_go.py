"""Token rewards under a group baseline, counted from each token on instead of summed over the completion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def centred_rewards_to_go(
    rewards: Sequence[np.ndarray], group_N: np.ndarray, usable_N: np.ndarray, *, leave_one_out: bool = False
) -> list[np.ndarray]:
    """G_i,t − mean_j G_j,t, where G_i,t = Σ_{s ≥ t} r_i,s is what completion i still earns from its token t on.

    The baseline of token t is the mean over the usable completions of the group at the same t; one that has ended
    earns nothing more, so it counts as 0. It depends on t alone, not on the tokens, so (up to the share of i's own
    reward in it, as in every group mean; `leave_one_out` removes it) it leaves the gradient unbiased. At t = 0 this is
    the sum minus its group's mean. The choice is ours; DeepSeekMath's process supervision (arXiv 2402.03300, §4.1.3)
    centres each step's reward instead, under which a constant cost per token would vanish.

    Args:
        rewards: one array of (num policy tokens,) for each completion.
        group_N: group number of each completion.
        usable_N: False for completions that enter no baseline; theirs are 0.
    """
    to_go = [np.cumsum(r[::-1])[::-1] for r in rewards]
    centred = [np.zeros(len(r)) for r in rewards]
    for group in np.unique(group_N):
        members = np.flatnonzero((group_N == group) & usable_N)
        if len(members) < 2:
            continue
        longest = max(len(to_go[i]) for i in members)
        padded_GT = np.zeros((len(members), longest))
        for row, i in zip(padded_GT, members, strict=True):
            row[: len(to_go[i])] = to_go[i]
        difference_GT = padded_GT - padded_GT.mean(axis=0)
        if leave_one_out:
            difference_GT *= len(members) / (len(members) - 1)
        for row, i in zip(difference_GT, members, strict=True):
            centred[i] = row[: len(to_go[i])]
    return centred
