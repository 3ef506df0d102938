"""Correction for the gap between the engine that sampled and the trainer that learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass
class ImportanceStats:
    """What the raw ratios of one process looked like, before any clipping."""

    quantiles: dict[str, float]  # of the raw ratio exp(trainer − engine): min, q01, median, q99, max
    clipped_share: float  # share of policy tokens whose ratio was clipped
    missing: int  # policy tokens without an engine log-probability; their ratio counts as 1
    kl: float  # KL(engine ‖ trainer) per token in nats: mean of engine − trainer over tokens the engine sampled


def importance_weights(
    trainer_logps_BT: torch.Tensor,
    engine_logps_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    *,
    clip_max: float = 2.0,
    clip_min: float = 0.0,
) -> tuple[torch.Tensor, ImportanceStats]:
    """Truncated per-token importance weights w = clip(π_trainer / π_engine, clip_min, clip_max), shape (B, T).

    Token-level truncation (TIS), never the product over a sequence, whose spread grows with length and would mask
    longer answers more often. A missing (NaN) engine log-probability gives w = 1 and is counted. Where `mask_BT` is 0
    the weight is 1.

    A weight w ≥ 0 folded into the advantage is the same as a weight on the clipped loss, since
    min(r·A, clip(r)·A)·w = min(r·wA, clip(r)·wA); that holds for all of TRL's losses but vespo.
    """
    mask_BT = mask_BT.bool()
    missing_BT = mask_BT & torch.isnan(engine_logps_BT)
    scored_BT = mask_BT & ~missing_BT
    gap_BT = torch.where(scored_BT, trainer_logps_BT - engine_logps_BT, 0.0)
    ratio_BT = gap_BT.exp()
    weight_BT = ratio_BT.clamp(clip_min, clip_max)
    ratios = ratio_BT[scored_BT].float()
    if ratios.numel():
        points = torch.tensor([0.0, 0.01, 0.5, 0.99, 1.0], device=ratios.device)
        # torch.quantile refuses more than 2^24 values; every k-th ratio is enough for a log line.
        values = torch.quantile(ratios[:: max(1, ratios.numel() // 1_000_000)], points).tolist()
        quantiles = dict(zip(("min", "q01", "median", "q99", "max"), values, strict=True))
        quantiles["min"], quantiles["max"] = ratios.min().item(), ratios.max().item()
        clipped = ((ratios < clip_min) | (ratios > clip_max)).float().mean().item()
        kl = -gap_BT[scored_BT].mean().item()
    else:
        quantiles, clipped, kl = {}, 0.0, 0.0
    return weight_BT, ImportanceStats(quantiles, clipped, int(missing_BT.sum().item()), kl)


def merge_stats(parts: Sequence[ImportanceStats]) -> dict[str, float]:
    """The numbers to log for all processes: extremes and counts exactly; quantiles, share and KL as means over the
    processes that had ratios."""
    having = [part for part in parts if part.quantiles]
    merged = {"missing": float(sum(part.missing for part in parts))}
    if not having:
        return merged
    for name in having[0].quantiles:
        values = [part.quantiles[name] for part in having]
        merged[name] = min(values) if name == "min" else max(values) if name == "max" else sum(values) / len(values)
    merged["clipped_share"] = sum(part.clipped_share for part in having) / len(having)
    merged["kl_engine_trainer"] = sum(part.kl for part in having) / len(having)
    return merged
