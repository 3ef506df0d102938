"""Which models the transformers engine can decode: refused by what they say of themselves, then by numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedTokenizerBase

from cib_rl.engines.weights import unwrap
from cib_rl.errors import UserError

if TYPE_CHECKING:
    from cib_rl.engines.transformers import TransformersEngine


def context_length(limit: int | None, wanted: int | None) -> int:
    """Tokens of prompt and completion. UserError when more are wanted than the model's configuration allows.

    Args:
        limit: the configuration's `max_position_embeddings`, None where it has none.
        wanted: `engine.max_model_len`.
    """
    if wanted is None:
        if limit is None:
            raise UserError("the model's configuration does not say how long its context is: set engine.max_model_len")
        return int(limit)
    if limit is not None and wanted > limit:
        raise UserError(f"engine.max_model_len is {wanted}, but the model's context holds {limit} tokens")
    return wanted


def end_of_sequence_ids(generation_config: Any, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> set[int]:
    """Every id that ends a sequence: those of the generation configuration and the tokenizer's."""
    ids: set[int] = set()
    for source in (generation_config.eos_token_id, tokenizer.eos_token_id):
        if source is not None:
            ids.update(source if isinstance(source, list | tuple) else [source])
    return {int(i) for i in ids if 0 <= i < vocab_size}


def check_supported(model: torch.nn.Module, config: Any, length: int) -> None:
    """UserError for models whose configuration or parameters say that this engine cannot decode them."""
    name = type(model).__name__
    if any(hasattr(p, "ds_id") or type(p).__name__ == "DTensor" for p in model.parameters()):
        raise UserError(
            f"{name}: its parameters are sharded (ZeRO-3 or FSDP), so the transformers engine cannot share it; "
            "use engine.name: vllm, or ZeRO-2"
        )
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{name} is an encoder-decoder; the engines take decoder-only language models")
    kinds = set(getattr(config, "layer_types", None) or [])
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in kinds
    if not kinds and window is not None:
        slides = bool(getattr(config, "use_sliding_window", True))
    if slides and (window is None or window < length):
        raise UserError(
            f"{name} attends within a sliding window of {window} tokens, which the transformers engine does not do; "
            f"use engine.name: vllm, or set engine.max_model_len to at most {window}"
        )
    others = kinds - {"full_attention", "sliding_attention"}
    if others:
        raise UserError(f"{name} has layers of type {sorted(others)}, which the transformers engine does not decode")


@torch.no_grad()
def check_decoding(engine: TransformersEngine) -> bool:
    """Decode two short sequences of unequal length and compare with plain forward passes of the same tokens.

    Returns True when the engine's own attention for single tokens (`decode_attention`) works for this model, False
    when the model's own must be used. UserError when neither gives the plain pass's log-probabilities.
    """
    problems = []
    for grouped in (True, False):
        engine._grouped_attention = grouped
        try:
            gap, tolerance = _decoding_gap(engine)
        except (NotImplementedError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            problems.append(f"{type(error).__name__}: {error}")
            continue
        if gap <= tolerance:
            return grouped
        problems.append(f"log-probabilities differ by {gap:.2g} (allowed: {tolerance:.2g})")
    raise UserError(
        f"the transformers engine cannot decode {type(unwrap(engine.model)).__name__} token by token: {problems[-1]}. "
        "Use engine.name: vllm for this model."
    )


def _decoding_gap(engine: TransformersEngine) -> tuple[float, float]:
    """Largest difference of log-probabilities over two sequences and two steps, and what rounding explains."""
    vocab = engine.vocab_size
    steps = min(2, engine.max_model_len - 1)
    lengths = [min(4, engine.max_model_len - steps), 1]
    sequences = [[(7 * i + 3 + k) % vocab for i in range(n + steps)] for k, n in enumerate(lengths)]
    tolerance = 1e-3
    gap = 0.0
    engine._begin()
    device, cache = engine._device, engine._cache
    try:
        cache.reserve(2, max(lengths) + steps, 2)
        cache.begin_prefill([0, 1], [0, 1])
        prefix = torch.tensor([s[: max(lengths)] + [0] * (max(lengths) - len(s)) for s in sequences], device=device)
        engine._forward(prefix, torch.arange(prefix.shape[1], device=device).expand(2, -1), None)
        for step in range(steps):
            at_B = torch.tensor([n + step for n in lengths], device=device)
            cache.begin_step(at_B)
            ids = torch.tensor([[s[n + step]] for s, n in zip(sequences, lengths, strict=True)], device=device)
            logits = engine._forward(ids, at_B[:, None], engine._mask(at_B))
            for row, (s, n) in enumerate(zip(sequences, lengths, strict=True)):
                plain = engine._plain_logits(torch.tensor([s[: n + step + 1]], device=device))
                gap = max(gap, float((logits[row].float().log_softmax(-1) - plain.log_softmax(-1)).abs().max()))
                if logits.dtype != torch.float32:
                    tolerance = max(tolerance, 0.05 * float(plain.abs().max()), 0.25)
    finally:
        engine._end()
    return gap, tolerance
