"""Log-probabilities of given tokens, without ever holding the logits of a whole batch.

Logits of N tokens over a vocabulary of V take 4·N·V bytes (64 × 1,024 tokens over 151,936 entries: 40 GB), while what
is wanted of them is one number per token. Here they exist one tile at a time.

Two kernels give that number. With gradients, and on accelerators, it is TRL's, which recomputes tiles in the backward
pass and has fused GPU code. On CPUs without gradients it is the loop below: tiles that stay in the processor's cache
made it about twice as fast as TRL's there (vocabulary 151,936, hidden 128; see `bench/surprisal.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from cib_rl.packing import pack_by_tokens

CPU_TILE = (256, 4096)  # tokens × vocabulary entries: 4 MB in fp32
GRADIENT_TILE_V = 512  # vocabulary entries per tile of TRL's kernel on CPUs (it takes 4,096 tokens at a time)
ACCELERATOR_TILE_V = 32_768  # TRL's own default, chosen for GPUs


class Head(NamedTuple):
    """What turns final hidden states into logits: `cap · tanh(scale · (h Wᵀ + b) / cap)`, or uncapped."""

    weight: torch.Tensor  # (V, H)
    bias: torch.Tensor | None = None  # (V,)
    scale: float = 1.0
    softcap: float | None = None


def chunked_logprobs(
    hidden: torch.Tensor,
    head: Head | nn.Linear | torch.Tensor,
    labels: torch.Tensor,
    temperature: float = 1.0,
    *,
    entropy: bool = False,
    tile: tuple[int, int] = CPU_TILE,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probability of each label (and the entropy of its distribution) under softmax(logits / temperature).

    Args:
        hidden: final hidden states, (..., H).
        head: a `Head`, a linear layer, or its weight (V, H).
        labels: ids in [0, V), (...).
        temperature: divides the logits, after the soft cap.
        entropy: also return the entropy in nats.
        tile: tokens and vocabulary entries per tile, for CPUs without gradients.

    Returns:
        Log-probabilities in nats, fp32, shape of `labels`, and entropies of the same shape or None. The projection
        runs in the dtype of `hidden`; everything after it in fp32. Differentiable in hidden, weight and bias.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if hidden.shape[:-1] != labels.shape:
        raise ValueError(f"hidden states {tuple(hidden.shape)} do not fit labels {tuple(labels.shape)}")
    head = _as_head(head)
    flat, targets = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
    parameters = [p for p in (hidden, head.weight, head.bias) if p is not None]
    if hidden.device.type == "cpu" and not (torch.is_grad_enabled() and any(p.requires_grad for p in parameters)):
        logp, ent = _cpu_logprobs(flat, head, targets, temperature, entropy, tile)
    else:
        from trl.kernels.chunked_logprob import ChunkedLogProbFunction

        tile_v = min(GRADIENT_TILE_V if hidden.device.type == "cpu" else ACCELERATOR_TILE_V, head.weight.shape[0])
        outputs = ("log_probs", "entropy") if entropy else ("log_probs",)
        logp, ent = ChunkedLogProbFunction.apply(
            flat, head.weight, head.bias, targets, temperature, tile_v, head.softcap, head.scale, outputs
        )[:2]
    return logp.view(labels.shape), None if ent is None else ent.view(labels.shape)


def _as_head(head: Head | nn.Linear | torch.Tensor) -> Head:
    if isinstance(head, Head):
        return head
    return Head(head) if isinstance(head, torch.Tensor) else Head(head.weight, head.bias)


@torch.no_grad()
def _cpu_logprobs(
    hidden: torch.Tensor, head: Head, labels: torch.Tensor, temperature: float, entropy: bool, tile: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Running maximum and sum of exponentials over tiles; (N, H), (N,) -> (N,), and (N,) or None."""
    tokens, entries = tile
    logp = torch.empty(len(labels), dtype=torch.float32)
    ent = torch.empty_like(logp) if entropy else None
    for start in range(0, len(labels), tokens):
        x, y = hidden[start : start + tokens], labels[start : start + tokens]
        top = torch.full((len(x),), -torch.inf)
        total = torch.zeros(len(x))  # Σ exp(z - top)
        weighted = torch.zeros(len(x))  # Σ exp(z - top) · z
        target = torch.zeros(len(x))
        for first in range(0, head.weight.shape[0], entries):
            z = x @ head.weight[first : first + entries].to(x.dtype).T
            if head.bias is not None:
                z += head.bias[first : first + entries].to(x.dtype)
            z = _logits(z.float(), head, temperature)
            rows = ((y >= first) & (y < first + z.shape[1])).nonzero().squeeze(1)
            target[rows] = z[rows, y[rows] - first]
            new_top = torch.maximum(top, z.amax(-1))
            shrink = torch.exp(top - new_top)
            if entropy:
                weight = torch.exp(z - new_top[:, None])
                weighted = weighted * shrink + (weight * z).sum(-1)
            else:
                weight = z.sub_(new_top[:, None]).exp_()
            total = total * shrink + weight.sum(-1)
            top = new_top
        log_z = top + torch.log(total)
        logp[start : start + tokens] = target - log_z
        if ent is not None:
            ent[start : start + tokens] = log_z - weighted / total
    return logp, ent


def _logits(z: torch.Tensor, head: Head, temperature: float) -> torch.Tensor:
    if head.scale != 1.0:
        z = z * head.scale
    if head.softcap is not None:
        z = head.softcap * torch.tanh(z / head.softcap)
    return z if temperature == 1.0 else z / temperature


def split_model(model: Any) -> tuple[nn.Module, Head]:
    """The body (ids -> final hidden states) and the head of a transformers causal language model.

    DDP and PEFT wrappers are looked through (adapters in the body stay active). Raises ValueError when the two cannot
    be told apart.
    """
    model = getattr(model, "module", model)
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    name = type(model).__name__
    body = getattr(model, "base_model", None)
    layer = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if body is None or body is model or layer is None or getattr(layer, "weight", None) is None:
        raise ValueError(f"{name} is no causal language model that can be split into a body and an output head")
    config = model.config.get_text_config()
    softcap = getattr(config, "final_logit_softcapping", None)
    return body, Head(layer.weight, getattr(layer, "bias", None), _logit_scale(config), softcap)


def _logit_scale(config: Any) -> float:
    """The constant that a model family multiplies its logits by (1 for most)."""
    for key in ("logit_scale", "output_multiplier", "lm_head_multiplier"):  # Cohere; Muse; Falcon-H1
        if getattr(config, key, None) is not None:
            return float(getattr(config, key))
    scaling = getattr(config, "logits_scaling", None)  # a divisor in Granite, a factor in HyperCLOVA X
    if scaling is None:
        return 1.0
    return float(scaling) if config.model_type == "hyperclovax" else 1 / float(scaling)


@torch.no_grad()
def check_split(model: Any) -> None:
    """Compare body + head with the model's own logits on a few ids; ValueError when they differ.

    Guards against a family that does something to its logits which `split_model` does not know of.
    """
    _, head = split_model(model)
    ids = torch.arange(8, device=head.weight.device)[None] % head.weight.shape[0]
    with _evaluating(model):
        logp = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0, :-1].float(), -1)
    expected = logp.gather(-1, ids[0, 1:, None]).squeeze(-1).cpu().numpy()
    found = score_sequences(model, [ids[0].tolist()])[0]
    tolerance = 1e-3 if head.weight.dtype == torch.float32 else 0.1
    if not np.allclose(found, expected, rtol=0, atol=tolerance):
        raise ValueError(
            f"{type(model).__name__} changes its logits in a way that cib_rl.logprobs does not know: log-probabilities "
            f"differ by {np.abs(found - expected).max():.3g} from its own forward pass"
        )


@torch.no_grad()
def score_sequences(
    model: Any,
    sequences: Sequence[Sequence[int]],
    *,
    start: Sequence[int] | None = None,
    temperature: float = 1.0,
    token_budget: int = 16_384,
    pad_id: int = 0,
) -> list[np.ndarray]:
    """log p(x_t | x_<t) in nats for t >= start of each sequence, under a causal language model.

    Args:
        sequences: token ids, ragged.
        start: first position to score in each sequence, at least 1 (a first token has no context); default 1.
        token_budget: padded tokens per forward pass.
        pad_id: any valid id. Padding is on the right, so no real token attends to it and no mask is needed.

    Returns:
        One float64 array of `len(sequence) - start` values per sequence (empty when nothing is to be scored). The
        model is put into evaluation mode and left as it was found; no gradients.
    """
    starts = [1] * len(sequences) if start is None else list(start)
    if len(starts) != len(sequences) or min(starts, default=1) < 1:
        raise ValueError("start needs one position per sequence, each at least 1: a first token has no context")
    results = [np.zeros(max(0, len(s) - first)) for s, first in zip(sequences, starts, strict=True)]
    wanted = [i for i, values in enumerate(results) if len(values)]
    body, head = split_model(model)
    device = head.weight.device
    with _evaluating(model):
        for batch in pack_by_tokens([len(sequences[i]) - 1 for i in wanted], token_budget):
            rows = [wanted[k] for k in batch]
            width = max(len(sequences[i]) for i in rows) - 1  # the last token predicts nothing that is asked for
            ids_BT = torch.full((len(rows), width), pad_id, dtype=torch.long)
            for row, i in enumerate(rows):
                ids_BT[row, : len(sequences[i]) - 1] = torch.tensor(sequences[i][:-1])
            hidden_BTH = body(input_ids=ids_BT.to(device), use_cache=False).last_hidden_state
            hidden = torch.cat([hidden_BTH[r, starts[i] - 1 : len(sequences[i]) - 1] for r, i in enumerate(rows)])
            labels = torch.tensor([token for i in rows for token in sequences[i][starts[i] :]], device=device)
            logp = chunked_logprobs(hidden, head, labels, temperature)[0].double().cpu().numpy()
            counts = np.cumsum([len(results[i]) for i in rows])
            for i, values in zip(rows, np.split(logp, counts[:-1]), strict=True):
                results[i] = values
    return results


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, each module's own mode restored after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
