"""Generalized advantage estimation over the policy's tokens: the baseline of PPO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from cib_rl.credit.group import Reduce
from cib_rl.errors import UserError
from cib_rl.plugin import Scores
from cib_rl.trajectory import Trajectory

Share = Annotated[float, Field(ge=0, le=1)]


def gae(
    trajectories: Sequence[Trajectory],
    scores: Scores,
    reduce: Reduce,
    *,
    gamma: Share = 1.0,
    lam: Share = 1.0,
    whiten: bool = True,
    bootstrap_truncated: bool = True,
) -> list[np.ndarray]:
    """δ_t = r_t + γ·V_{t+1} − V_t and A_t = δ_t + γ·λ·A_{t+1} (arXiv 1506.02438, eq. 16), then whitened.

    t counts policy tokens only: what the environment wrote is skipped, so the successor of the last token before a
    block of documents is the first token after it, whose value has read the block. (The code published with Search-R1
    runs recursion and whitening over the documents' tokens, too.) Token rewards stand at their tokens, all other
    rewards at the last policy token. After it there is the value of the end where a limit cut the episode off, and
    nothing where it ended by itself.

    Reads the track `value` of each trajectory, V before each completion token, and its diagnostic `value_at_end`, V
    after the last token. Sets the track `return`, A + V before whitening: what the critic learns. Both are 0 on the
    environment's tokens.

    Args:
        gamma: γ, discount per policy token.
        lam: λ; 1, with γ = 1, is the sum of rewards to come minus the value (Search-R1's setting).
        whiten: mean 0 and (unbiased) standard deviation 1 over the policy tokens of all valid rows and processes.
        bootstrap_truncated: False: a truncated episode counts as one that ended.

    Raises UserError when a trajectory brings no values. Rows that are not valid have the advantage 0.
    """
    used = scores.valid & np.isfinite(scores.total)
    masks = [np.asarray(t.policy_mask, dtype=bool) for t in trajectories]
    rows = [i for i, mask in enumerate(masks) if used[i] and mask.any()]
    values = [_values(trajectories[i])[masks[i]] for i in rows]
    rewards = [_rewards(scores, i, int(masks[i].sum())) for i in rows]
    last_N = np.array(
        [
            trajectories[i].diagnostics["value_at_end"] if bootstrap_truncated and trajectories[i].truncated else 0.0
            for i in rows
        ]
    )
    found = gae_advantages(rewards, values, last_N, gamma, lam)
    returns = [advantage + value for advantage, value in zip(found, values, strict=True)]
    if whiten:
        found = _whitened(found, reduce)
    advantages = [np.zeros(len(mask)) for mask in masks]
    targets = [np.zeros(len(mask)) for mask in masks]
    for i, advantage, target in zip(rows, found, returns, strict=True):
        advantages[i][masks[i]] = advantage
        targets[i][masks[i]] = target
    for trajectory, target in zip(trajectories, targets, strict=True):
        trajectory.set_track("return", target.tolist())
    return advantages


def gae_advantages(
    rewards: Sequence[np.ndarray], values: Sequence[np.ndarray], last_N: np.ndarray, gamma: float, lam: float
) -> list[np.ndarray]:
    """The recursion for N episodes of their own lengths K: rewards and values (K,), the value after the end (N,)."""
    longest = max((len(r) for r in rewards), default=0)
    # Aligned at their ends, so that one loop over steps serves all rows; what is left of a row's start is cut off.
    reward_NK, value_NK = np.zeros((2, len(rewards), longest))
    for row, (r, v) in enumerate(zip(rewards, values, strict=True)):
        if len(r):
            reward_NK[row, -len(r) :], value_NK[row, -len(v) :] = r, v
    advantage_NK = np.zeros_like(reward_NK)
    next_value_N, next_advantage_N = np.asarray(last_N, dtype=np.float64), np.zeros(len(rewards))
    for k in reversed(range(longest)):
        delta_N = reward_NK[:, k] + gamma * next_value_N - value_NK[:, k]
        next_advantage_N = delta_N + gamma * lam * next_advantage_N
        advantage_NK[:, k], next_value_N = next_advantage_N, value_NK[:, k]
    return [row[longest - len(r) :] for row, r in zip(advantage_NK, rewards, strict=True)]


def _values(trajectory: Trajectory) -> np.ndarray:
    if "value" not in trajectory.tracks or "value_at_end" not in trajectory.diagnostics:
        raise UserError("credit stage gae: a trajectory brings no values; they come from the critic of trainer ppo")
    return np.asarray(trajectory.tracks["value"], dtype=np.float64)


def _rewards(scores: Scores, row: int, tokens: int) -> np.ndarray:
    """One number per policy token: token rewards where they belong, the rest of the total at the last token."""
    own = scores.token_rewards[row]
    rewards = np.zeros(tokens) if own is None else np.array(own, dtype=np.float64)
    rewards[-1] += scores.total[row] - rewards.sum()
    return rewards


def _whitened(advantages: list[np.ndarray], reduce: Reduce) -> list[np.ndarray]:
    flat = np.concatenate([np.zeros(0), *advantages])
    count, total, squares = reduce(np.array([len(flat), flat.sum(), (flat**2).sum()]))
    if count < 2:
        return advantages
    mean = total / count
    deviation = np.sqrt(max(squares - count * mean**2, 0.0) / (count - 1))
    return [(advantage - mean) / (deviation + 1e-8) for advantage in advantages]
