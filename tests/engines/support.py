"""Models and checks that the engine tests share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import torch

from cib_rl.engines.base import Engine, Generation, Sampling
from tests.conftest import TINY_TOKENS, build_tiny_model

EOS, SECOND_EOS = 1, 2
CONTEXT = 512
INDEX = {token: i for i, token in enumerate(TINY_TOKENS)}
LOOP = INDEX["("]  # in the chain model, the token that follows itself


def successor(token: int) -> int:
    """What the chain model says after a token: the next one in the vocabulary, with two ways to end and one loop."""
    special = {INDEX["z"]: EOS, INDEX["9"]: SECOND_EOS, LOOP: LOOP}
    return special.get(token, (token + 1) % len(TINY_TOKENS))


def build_chain_model() -> Any:
    """A Qwen3 that writes `successor` of its last token with near certainty: attention and MLPs add nothing."""
    model = build_tiny_model(tied=False)
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        directions = torch.nn.functional.normalize(torch.randn(64, 32), dim=-1)
        model.model.embed_tokens.weight.copy_(directions)
        model.lm_head.weight.zero_()
        for token in range(len(TINY_TOKENS)):
            model.lm_head.weight[successor(token)] += 6 * directions[token]
    model.generation_config.eos_token_id = [EOS, SECOND_EOS]
    return model


def ids_of(text: str) -> list[int]:
    return [INDEX[c] for c in text]


def run(engine: Engine, prompts: Sequence[list[int]], sampling: Sampling | Sequence[Sampling]) -> list[Generation]:
    """All prompts at once."""
    each = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)

    async def all_of_them() -> list[Generation]:
        engine.set_active_episodes(len(prompts))
        return list(
            await asyncio.gather(*(engine.generate(p, s) for p, s in zip(prompts, each, strict=True))),
        )

    return asyncio.run(all_of_them())


def run_one(engine: Engine, prompt: list[int], **sampling: Any) -> Generation:
    return run(engine, [prompt], Sampling(**{"max_tokens": 100, "seed": 0, "temperature": 0.0, **sampling}))[0]


def largest_gap(model: Any, prompts: Sequence[list[int]], results: Sequence[Generation], temperature: float) -> float:
    """Largest difference between the engine's log-probabilities and one plain forward pass per sequence."""
    gap = 0.0
    assert any(r.ids for r in results)
    for prompt, result in zip(prompts, results, strict=True):
        assert result.error is None, result.error
        assert len(result.ids) == len(result.logprobs)
        with torch.no_grad():
            logits = model(torch.tensor([prompt + result.ids], device=model.device)).logits[0].float() / temperature
        reference = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        own = torch.tensor(result.logprobs, device=model.device)
        chosen = reference.gather(1, torch.tensor(result.ids, device=model.device)[:, None])[:, 0]
        gap = max(gap, float((chosen - own).abs().max()) if result.ids else 0.0)
    return gap


def ragged_prompts(count: int, *, shared_prefix: int = 0) -> list[list[int]]:
    """Prompts of 1 to 9 tokens, some of them equal; with `shared_prefix`, after so many common tokens."""
    generator = torch.Generator().manual_seed(5)
    prefix = torch.randint(3, 57, (shared_prefix,), generator=generator).tolist()
    prompts = [
        prefix + torch.randint(3, 57, (1 + 4 * (i % 3),), generator=generator).tolist() for i in range(count // 2)
    ]
    return prompts + prompts


def seeded(count: int, **sampling: Any) -> list[Sampling]:
    return [Sampling(**{"max_tokens": 20 + 3 * i, "seed": 100 + i, **sampling}) for i in range(count)]


def disturb(model: Any, seed: int, scale: float = 0.05) -> None:
    """Change every weight, as a training step would (only more)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * scale
            parameter.add_(noise.to(parameter))
