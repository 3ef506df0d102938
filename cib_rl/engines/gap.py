"""How far the engine's log-probabilities are from the trainer's, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cib_rl.engines.base import Generation
from cib_rl.errors import UserError
from cib_rl.logprobs import score_sequences

QUANTILES = (0.5, 0.9, 0.99, 0.999)


@dataclass(frozen=True)
class Gap:
    """|engine - trainer| over all sampled tokens, in nats."""

    max: float
    mean: float
    quantiles: dict[float, float]
    tokens: int
    missing: int  # tokens for which the engine gave no log-probability
    worst: tuple[int, int]  # sequence and token of the largest gap

    def __str__(self) -> str:
        shown = ", ".join(f"{100 * q:g}%: {value:.3g}" for q, value in self.quantiles.items())
        return (
            f"max {self.max:.3g}, mean {self.mean:.3g}, {shown} nats over {self.tokens} tokens ({self.missing} missing)"
        )


def logprob_gap(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    generations: Sequence[Generation],
    *,
    temperature: float = 1.0,
    token_budget: int = 16_384,
) -> Gap:
    """Score what an engine sampled by forward passes of the trainer's model and compare.

    Args:
        model: the policy, unwrapped.
        prompts: prompt ids, one per generation.
        generations: what the engine returned; failed ones and empty ones count nothing.
        temperature: the one the tokens were sampled at (other sampling parameters must be off).
        token_budget: padded tokens per forward pass.

    Raises ValueError when there is no token to compare.
    """
    sequences = [[*prompt, *g.ids] for prompt, g in zip(prompts, generations, strict=True)]
    start = [len(prompt) for prompt in prompts]
    trainer = score_sequences(model, sequences, start=start, temperature=temperature, token_budget=token_budget)
    gaps = [np.abs(scored - np.asarray(g.logprobs)) for scored, g in zip(trainer, generations, strict=True)]
    flat = np.concatenate(gaps) if gaps else np.zeros(0)
    known = flat[~np.isnan(flat)]
    if not known.size:
        raise ValueError("no sampled token with a log-probability: nothing to compare")
    at = int(np.nanargmax(flat))
    ends = np.cumsum([len(g) for g in gaps])
    row = int(np.searchsorted(ends, at, side="right"))
    return Gap(
        max=float(known.max()),
        mean=float(known.mean()),
        quantiles={q: float(np.quantile(known, q)) for q in QUANTILES},
        tokens=int(known.size),
        missing=int(flat.size - known.size),
        worst=(row, at - int(ends[row] - len(gaps[row]))),
    )


def check_gap(gap: Gap, *, exact: bool, limit: float | None = None) -> None:
    """UserError when the gap is over the limit.

    `exact` (engine and trainer both in fp32): the largest gap counts, limit 1e-3 nats by default. Else the 99%
    quantile, limit 0.5.
    """
    value, default = (gap.max, 1e-3) if exact else (gap.quantiles[0.99], 0.5)
    limit = default if limit is None else limit
    if value <= limit:
        return
    what = "largest gap" if exact else "99% quantile"
    raise UserError(
        f"engine and trainer disagree about the log-probabilities of the same tokens: {gap}; the {what} may be "
        f"{limit:g} (engine.max_logprob_gap). Worst: sequence {gap.worst[0]}, token {gap.worst[1]}. Usual causes: "
        "stale weights or prefix cache in the engine, another temperature, dtype, or a head that was not synced"
    )
