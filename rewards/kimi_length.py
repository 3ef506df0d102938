"""Kimi k1.5: each completion's length against the shortest and longest of its prompt."""

from __future__ import annotations

from cib_rl.plugin import by_group, reward, success
from cib_rl.trajectory import Trajectory


@reward("kimi_length", kind="shaping", needs_success=True)
def kimi_length(trajectories: list[Trajectory]) -> list[float]:
    """λ = 0.5 − (n − min)/(max − min) if right, min(0, λ) if wrong; min and max over the prompt's completions.

    Kimi k1.5 (arXiv 2501.12599), §2.3.3. n counts policy tokens; 0 for all where they are of equal length. Between −0.5
    and 0.5, added to the outcome with the recipe's `weight` (the paper gives no number). The paper leaves it off at
    first and then keeps it constant.

    Wrong answers: those in the longer half of the range are penalised like right ones, the others get 0; none is
    rewarded. With an outcome of weight 1 and a `weight` below 2 no wrong answer outranks a right one (a right one has
    at least 1 − weight/2, a wrong one at most 0); above 2 the longest right answer falls behind a short wrong one.
    """
    values = [0.0] * len(trajectories)
    right = success(trajectories)
    for members in by_group(trajectories):
        lengths = [trajectories[i].num_tokens for i in members]
        shortest, span = min(lengths), max(lengths) - min(lengths)
        if span == 0:
            continue
        for i, length in zip(members, lengths, strict=True):
            value = 0.5 - (length - shortest) / span
            values[i] = value if right[i] else min(0.0, value)
    return values
