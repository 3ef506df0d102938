"""The clipped value loss of PPO, and how well values explain returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch


@dataclass
class ValueLoss:
    """A micro-batch's sums over its policy tokens; `grad_norm` is known after an optimizer step."""

    total: torch.Tensor  # with gradients
    clipped: float  # tokens at which the clip decided
    tokens: float
    grad_norm: float | None = None


def value_loss(
    values_BT: torch.Tensor,
    old_BT: torch.Tensor,
    returns_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    *,
    clip: float | None,
) -> ValueLoss:
    """Σ ½·max((V − R)², (V_old + clip(V − V_old, ±clip) − R)²) over the tokens where `mask_BT` is 1.

    The pessimistic clip of PPO's first code (arXiv 1707.06347 does not state it; described in arXiv 2005.12729, §3).
    `clip` None: plain squared error.
    """
    mask_BT = mask_BT.bool()
    error_BT = (values_BT - returns_BT) ** 2
    clipped = 0.0
    if clip is not None:
        near_BT = old_BT + (values_BT - old_BT).clamp(-clip, clip)
        near_error_BT = (near_BT - returns_BT) ** 2
        clipped = float((near_error_BT > error_BT)[mask_BT].sum())
        error_BT = torch.maximum(error_BT, near_error_BT)
    return ValueLoss(0.5 * error_BT[mask_BT].sum(), clipped, float(mask_BT.sum()))


def explained_variance(values: np.ndarray, returns: np.ndarray, reduce: Callable[[np.ndarray], np.ndarray]) -> float:
    """1 − Var(R − V) / Var(R) over tokens, of all processes (`reduce` adds sums); NaN where returns do not vary.

    1: the critic knows the returns; 0: no better than their mean; below: worse.
    """
    rest = returns - values
    n, r, rr, e, ee = reduce(
        np.array([len(returns), returns.sum(), (returns**2).sum(), rest.sum(), (rest**2).sum()], dtype=np.float64)
    )
    if n < 2:
        return float("nan")
    spread, left = rr / n - (r / n) ** 2, ee / n - (e / n) ** 2
    return float(1 - left / spread) if spread > 1e-12 else float("nan")
