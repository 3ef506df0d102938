"""Drawing one token per row from logits: one uniform number per token, and the log-probability under what was drawn."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cib_rl.engines.base import Sampling

# Numbers of the whole vocabulary that are worked on at once: bounds the extra memory to a few hundred megabytes.
_CHUNK_ELEMENTS = 2**24
_HIGHEST_UNIFORM = 1 - 2.0**-40


def uniforms(seed: int | None) -> Iterator[float]:
    """An endless stream of numbers in [0, 1), fixed by the seed alone; no global random state is read or changed."""
    generator = np.random.Generator(np.random.Philox(secrets.randbits(63) if seed is None else seed))
    while True:
        # Just below 1, so that u * total stays below total after rounding.
        yield from np.minimum(generator.random(128), _HIGHEST_UNIFORM).tolist()


@dataclass
class RowSampling:
    """What the sampler knows of one row: its parameters, the ids seen so far (repetition penalty), tokens made."""

    sampling: Sampling
    seen: set[int]
    generated: int = 0


@dataclass
class Drawn:
    """One token per row. `logprobs` is not finite where the logits were not."""

    tokens_B: torch.Tensor
    logprobs_B: torch.Tensor


class BatchSampler:
    """The sampling parameters of a batch as tensors. Build a new one when the rows change.

    The distribution is made in this order (the one vLLM uses): repetition penalty, min_tokens, temperature, min_p,
    top_k, top_p. With temperature 0 the likeliest token is taken and log-probabilities are those at temperature 1.
    """

    def __init__(self, rows: Sequence[RowSampling], eos_ids: Sequence[int], device: torch.device) -> None:
        self.rows = rows
        self.eos = torch.tensor(sorted(eos_ids), dtype=torch.long, device=device)
        temperatures = [row.sampling.temperature for row in rows]
        self.temperature_B: torch.Tensor | None = None
        if any(t != 1 for t in temperatures):
            self.temperature_B = torch.tensor([t or 1.0 for t in temperatures], device=device)
        self.greedy_B: torch.Tensor | None = None
        if not all(temperatures):
            self.greedy_B = torch.tensor([t == 0 for t in temperatures], device=device)
        self.special = [i for i, row in enumerate(rows) if row.sampling.truncates_support]

    def draw(self, logits_BV: torch.Tensor, uniforms_B: torch.Tensor) -> Drawn:
        """`logits_BV`: logits of the next token, may be overwritten. `uniforms_B`: float64 numbers in [0, 1)."""
        height = max(1, _CHUNK_ELEMENTS // logits_BV.shape[1])
        drawn = [
            self._draw(logits_BV[at : at + height], uniforms_B[at : at + height], at)
            for at in range(0, logits_BV.shape[0], height)
        ]
        if len(drawn) == 1:
            return drawn[0]
        return Drawn(torch.cat([d.tokens_B for d in drawn]), torch.cat([d.logprobs_B for d in drawn]))

    def _draw(self, logits_BV: torch.Tensor, uniforms_B: torch.Tensor, at: int) -> Drawn:
        n = logits_BV.shape[0]
        x_BV = logits_BV.float()
        special = [i for i in self.special if at <= i < at + n]
        if special:
            x_BV = self._penalised(x_BV, special, at)
        if self.temperature_B is not None:
            x_BV = x_BV / self.temperature_B[at : at + n, None]
        for i in special:
            x_BV[i - at] = truncated(x_BV[i - at], self.rows[i].sampling)
        norm_B1 = x_BV.logsumexp(-1, keepdim=True)
        # Inverse of the cumulated distribution, in double precision so that no rare token is lost in large sums.
        cumulated_BV = (x_BV - norm_B1).exp_().cumsum(-1, dtype=torch.float64)
        target_B1 = uniforms_B[:, None] * cumulated_BV[:, -1:]
        tokens_B1 = torch.searchsorted(cumulated_BV, target_B1, right=True).clamp_(max=x_BV.shape[1] - 1)
        if self.greedy_B is not None:
            tokens_B1 = torch.where(self.greedy_B[at : at + n, None], x_BV.argmax(-1, keepdim=True), tokens_B1)
        logprobs_B1 = x_BV.gather(1, tokens_B1) - norm_B1
        return Drawn(tokens_B1[:, 0], logprobs_B1[:, 0])

    def _penalised(self, x_BV: torch.Tensor, special: Sequence[int], at: int) -> torch.Tensor:
        x_BV = x_BV.clone()
        for i in special:
            row = self.rows[i]
            if row.sampling.repetition_penalty != 1 and row.seen:
                seen = torch.tensor(sorted(row.seen), device=x_BV.device)
                old, r = x_BV[i - at, seen], row.sampling.repetition_penalty
                x_BV[i - at, seen] = torch.where(old > 0, old / r, old * r)
            if row.generated < row.sampling.min_tokens:
                x_BV[i - at, self.eos] = -torch.inf
        return x_BV


def truncated(x_V: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Logits with -inf outside the support that min_p, top_k and top_p leave, in this order. At least one stays."""
    if sampling.min_p > 0:
        probabilities_V = x_V.softmax(-1)
        x_V = x_V.masked_fill(probabilities_V < sampling.min_p * probabilities_V.max(), -torch.inf)
    if 0 < sampling.top_k < x_V.shape[0]:
        x_V = x_V.masked_fill(x_V < x_V.topk(sampling.top_k).values[-1], -torch.inf)
    if sampling.top_p < 1:
        sorted_V, order_V = x_V.sort(descending=True, stable=True)
        before_V = sorted_V.softmax(-1).cumsum(-1) - sorted_V.softmax(-1)  # mass of the likelier tokens
        outside_V = before_V >= sampling.top_p
        outside_V[0] = False
        x_V = x_V.index_fill(0, order_V[outside_V], -torch.inf)
    return x_V
