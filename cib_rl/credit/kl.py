"""KL in the reward: each token pays for how much likelier it became than under the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from cib_rl.plugin import Scores
from cib_rl.trajectory import Trajectory

Estimator = Literal["k1", "k3"]


def kl_per_token(policy_logps: torch.Tensor, reference_logps: torch.Tensor, estimator: Estimator) -> torch.Tensor:
    """Estimates of KL(policy ‖ reference) at sampled tokens, in nats, of the tensors' shape (Schulman, "Approximating
    KL divergence", 2020): k1 = log π − log π_ref; k3 = exp(−k1) − 1 + k1, never negative and of less variance."""
    k1 = policy_logps - reference_logps
    return k1 if estimator == "k1" else torch.expm1(-k1) + k1


def subtract_kl(
    trajectories: Sequence[Trajectory], scores: Scores, kl: Sequence[np.ndarray], coefficient: float
) -> Scores:
    """The scores with −coefficient·KL_t at every policy token: a token reward like any other, part of the totals.

    `kl` (T,) per trajectory, over all completion tokens; what stands on the environment's is not used.
    """
    total, token_rewards = scores.total.copy(), list(scores.token_rewards)
    for i, (trajectory, kl_T) in enumerate(zip(trajectories, kl, strict=True)):
        if not scores.valid[i]:
            continue
        penalty = -coefficient * np.asarray(kl_T, dtype=np.float64)[np.asarray(trajectory.policy_mask, dtype=bool)]
        own = token_rewards[i]
        token_rewards[i] = penalty if own is None else own + penalty
        total[i] += penalty.sum()
    return replace(scores, total=total, token_rewards=token_rewards)
