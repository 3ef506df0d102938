"""Attention of one new token per row to a key-value cache, without repeating the cache for grouped queries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedConfig

NAME = "cib_rl_decode"
# Keyword arguments that change what attention computes and that this function does not know.
_UNSUPPORTED = ("softcap", "s_aux", "sinks", "position_bias", "head_mask", "alibi")


def decode_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers' interface, for queries of length 1.

    Shapes: query (B, heads, 1, D), key and value (B, kv heads, positions, D), mask (B, 1, 1, positions), added to the
    scores. The queries that share a key head stand as rows of one small matrix: transformers' own function copies
    keys and values once per query head instead, at every step.
    """
    unsupported = [name for name in _UNSUPPORTED if kwargs.get(name) is not None]
    if unsupported or query.shape[2] != 1:
        raise NotImplementedError(f"decode attention knows no {', '.join(unsupported) or 'query longer than 1'}")
    batch, heads, _, channels = query.shape
    kv_heads = key.shape[1]
    grouped = query.reshape(batch, kv_heads, heads // kv_heads, channels)
    key, value = key.to(query.dtype), value.to(query.dtype)
    mask = None if attention_mask is None else attention_mask.to(query.dtype)
    if query.device.type == "cpu":
        # Two plain products: about twice as fast as the fused kernel for so few queries.
        scores = torch.matmul(grouped, key.transpose(2, 3)) * (channels**-0.5 if scaling is None else scaling)
        if mask is not None:
            scores = scores.add_(mask)
        out = torch.matmul(scores.softmax(-1, dtype=torch.float32).to(query.dtype), value)
    else:
        out = torch.nn.functional.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(batch, 1, heads, value.shape[-1]), None


AttentionInterface.register(NAME, decode_attention)


@contextmanager
def use_decode_attention(config: PreTrainedConfig, enabled: bool = True) -> Iterator[None]:
    """Within the block models with this configuration attend by `decode_attention` (if enabled)."""
    if not enabled:
        yield
        return
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
