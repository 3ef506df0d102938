"""GRPO-LEAD: right answers by their length among the right ones, wrong ones below zero."""

from __future__ import annotations

import numpy as np
from pydantic import NonNegativeFloat

from cib_rl.plugin import by_group, reward, success
from cib_rl.trajectory import Trajectory

_SHORTEST = 3  # completions whose mean length is held against `min_length`


@reward("grpo_lead", kind="shaping", needs_success=True, replaces_outcome=True)
def grpo_lead(
    trajectories: list[Trajectory],
    *,
    alpha: NonNegativeFloat = 0.05,
    wrong: float = -1.0,
    no_answer: float = 0.0,
    min_length: NonNegativeFloat = 0.0,
) -> list[float]:
    """exp(−α·z) if right, −1 if wrong; z = (n − mean)/(std + 1e-6) over the prompt's right answers.

    GRPO-LEAD (arXiv 2504.09696), the length-dependent reward with the explicit penalty; n counts policy tokens. std is
    the unbiased one, and 1 where one answer alone is right (released code). The value is that minus 1[right]: with a
    0/1 outcome of weight 1 and this at weight 1 the total is the paper's reward. The difficulty weighting of the same
    paper is a stage of credit: `credit: [{name: group, scale: reward_std}, {name: difficulty}]`. The released code's −2
    for degenerate repetition is left out.

    Wrong answers: `wrong`, whatever their length. No wrong answer outranks a right one (as long as `wrong` and
    `no_answer` are at most 0): a right one has more than 0.

    Args:
        alpha: strength (released code: 0.05).
        wrong: total of a wrong answer (paper: −1).
        no_answer: total where no answer was found (released code: 0; the paper does not treat it apart).
        min_length: the length term is used only where the three shortest completions of the prompt, right or wrong,
            have more tokens than this on average (released code: 4000). Groups of fewer: all of them (ours).
    """
    values = [0.0] * len(trajectories)
    right = success(trajectories)
    for members in by_group(trajectories):
        lengths = np.sort([trajectories[i].num_tokens for i in members])
        of_right = np.array([trajectories[i].num_tokens for i in members if right[i]], dtype=np.float64)
        std = of_right.std(ddof=1) if len(of_right) > 1 else 1.0
        graded = min_length == 0 or lengths[:_SHORTEST].mean() > min_length
        for i in members:
            t = trajectories[i]
            if not right[i]:
                values[i] = wrong if t.answer is not None else no_answer
            elif graded:
                values[i] = float(np.exp(-alpha * (t.num_tokens - of_right.mean()) / (std + 1e-6))) - 1
    return values
