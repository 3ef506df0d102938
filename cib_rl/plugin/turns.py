"""Rewards per turn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cib_rl.plugin.contract import PluginError, TokenRewards
from cib_rl.trajectory import Trajectory


def turn_rewards(trajectory: Trajectory, values: Sequence[float]) -> TokenRewards:
    """One reward per turn, each at the turn's last policy token; 0 elsewhere.

    A turn in which the policy sampled nothing has no token of its own: its reward goes to the policy's last token
    before it. Under GAE, and with `token_rewards: reward_to_go`, what came later is then not credited for it.

    Raises PluginError when there are not as many values as turns, or no token to put one on.
    """
    if len(values) != len(trajectory.turns):
        raise PluginError(f"{len(values)} turn rewards for {len(trajectory.turns)} turns")
    starts = np.cumsum([0] + [len(segment) for segment in trajectory.segments])
    # How many policy tokens there are up to and with each completion token.
    counts = np.cumsum(trajectory.policy_mask, dtype=int)
    rewards = np.zeros(trajectory.num_tokens)
    for turn, value in zip(trajectory.turns, values, strict=True):
        end = int(starts[turn.segment]) + turn.end
        before = int(counts[end - 1]) if end else 0
        if before:
            rewards[before - 1] += value
        elif value:
            raise PluginError("a turn reward, but the policy has not sampled a token up to that turn")
    return TokenRewards(rewards.tolist())
