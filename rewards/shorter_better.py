"""ShorterBetter: the distance to the shortest right answer of the prompt."""

from __future__ import annotations

from cib_rl.plugin import by_group, reward, success
from cib_rl.trajectory import Trajectory


@reward("shorter_better", kind="shaping", needs_success=True)
def shorter_better(trajectories: list[Trajectory]) -> list[float]:
    """−|n − target|, target the tokens of the prompt's shortest right answer, or the mean of all where none is right.

    ShorterBetter (arXiv 2504.21370): r = α·1[right] − β·|n − target| with α = 2 and β = 0.001. n counts policy tokens;
    α is the outcome's `weight`, β is this one's (only their ratio matters where advantages are scaled by a standard
    deviation). It is the surprisal reward with a Laplace prior (arXiv 2603.08462, Prop. 4.2) whose target is not given
    but found in the group; a prior may not see that, hence a reward of its own.

    Attaches the diagnostic `target_tokens`.

    Wrong answers pay like right ones, and are rewarded for getting *longer* up to the target. So the order may turn: a
    wrong answer on target outranks a right one that is more than α/β tokens away from it.
    """
    values = [0.0] * len(trajectories)
    right = success(trajectories)
    for members in by_group(trajectories):
        lengths = {i: trajectories[i].num_tokens for i in members}
        of_right = [lengths[i] for i in members if right[i]]
        target = float(min(of_right)) if of_right else sum(lengths.values()) / len(lengths)
        for i in members:
            trajectories[i].diagnostics["target_tokens"] = target
            values[i] = -abs(lengths[i] - target)
    return values
