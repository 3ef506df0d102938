"""What is the transformers engine's own: which models it takes, its cache, fixed batches, broken weights."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from cib_rl.engines.base import Generation, Sampling
from cib_rl.engines.transformers import TransformersEngine
from cib_rl.errors import UserError
from cib_rl.trajectory import StopReason
from tests.conftest import build_tiny_model, build_tiny_tokenizer
from tests.engines.support import largest_gap, ragged_prompts, run, seeded

COMMON = {"vocab_size": 64, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "initializer_range": 0.2}
LLAMA = {**COMMON, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "max_position_embeddings": 256}
HEADS = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8}


def build(family: str, attention: str = "sdpa", **changes: Any) -> Any:
    from transformers import AutoConfig

    sizes = {
        "gpt2": {**COMMON, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
        "gpt_neox": {**LLAMA, "num_attention_heads": 6},
        "bloom": {**COMMON, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        "mamba": {**COMMON, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    }.get(family, {**LLAMA, **HEADS})
    config = AutoConfig.for_model(family, **{**sizes, **changes})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32).eval()


def engine_for(model: Any, **options: Any) -> TransformersEngine:
    return TransformersEngine(model, build_tiny_tokenizer(), **{"max_num_seqs": 5, "max_model_len": 200, **options})


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gpt_neox", "mistral", "gemma2"])
def test_model_families(family: str, attention: str) -> None:
    """Grouped queries, absolute positions, biases, soft caps: all decode to the plain forward pass's numbers."""
    model = build(family, attention, **({"sliding_window": 200} if family in ("mistral", "gemma2") else {}))
    engine = engine_for(model)
    prompts = ragged_prompts(8)
    assert largest_gap(model, prompts, run(engine, prompts, seeded(8, temperature=0.8)), 0.8) < 1e-4
    assert model.config._attn_implementation == attention
    engine.close()


@pytest.mark.parametrize("grouped", [True, False])
def test_both_ways_to_attend_agree(grouped: bool) -> None:
    model = build("llama")
    engine = engine_for(model)
    assert engine._grouped_attention
    engine._grouped_attention = grouped
    prompts = ragged_prompts(8)
    assert largest_gap(model, prompts, run(engine, prompts, seeded(8)), 1.0) < 1e-4
    engine.close()


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("mistral", {"sliding_window": 32}, "sliding window of 32"),
        ("gemma2", {"sliding_window": 32}, "sliding window of 32"),
        ("bloom", {}, "cannot decode BloomForCausalLM"),
        ("mamba", {}, "cannot decode MambaForCausalLM|layers of type"),
    ],
)
def test_models_it_cannot_decode_are_refused_at_the_start(family: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        engine_for(build(family, "eager", **changes))


def test_more_context_than_the_model_has_is_refused() -> None:
    with pytest.raises(UserError, match="max_model_len is 300"):
        engine_for(build("llama"), max_model_len=300)


def test_rows_join_and_leave_while_the_cache_grows() -> None:
    """Many requests over few slots, with lengths over several of the cache's growth steps."""
    model = build_tiny_model()
    engine = engine_for(model, max_num_seqs=3, eos_ids=())
    prompts = ragged_prompts(14)
    samplings = [Sampling(max_tokens=5 + (37 * i) % 150, seed=i) for i in range(14)]
    results = run(engine, prompts, samplings)
    assert [len(r.ids) for r in results] == [s.max_tokens for s in samplings]
    assert largest_gap(model, prompts, results, 1.0) < 1e-4
    assert engine._cache.rows == 0  # nothing is held between rollouts
    engine.close()


def test_deterministic_runs_repeat_to_the_last_bit() -> None:
    """Two turns with other latencies each time: same ids, same log-probabilities, bit by bit."""
    model = build_tiny_model()

    def play(latency: Any) -> list[tuple[list[int], list[float]]]:
        engine = engine_for(model, max_num_seqs=4, deterministic=True)
        prompts = ragged_prompts(6)

        async def episodes() -> list[Generation]:
            active = 6
            engine.set_active_episodes(active)

            async def episode(i: int) -> Generation:
                nonlocal active
                await asyncio.sleep(latency(i))
                first = await engine.generate(prompts[i], Sampling(max_tokens=5 + 4 * i, seed=i))
                if i % 2:
                    await asyncio.sleep(latency(i + 3))
                    first = await engine.generate(prompts[i] + first.ids, Sampling(max_tokens=9, seed=50 + i))
                active -= 1
                engine.set_active_episodes(active)
                return first

            return list(await asyncio.gather(*(episode(i) for i in range(6))))

        results = asyncio.run(episodes())
        engine.close()
        assert all(r.error is None for r in results)
        return [(r.ids, r.logprobs) for r in results]

    assert play(lambda i: 0.0) == play(lambda i: ((5 * i) % 7) / 200) == play(lambda i: (6 - i) / 200)


def test_logits_that_are_no_numbers_fail_their_row_and_poison_no_other() -> None:
    model = build_tiny_model(tied=False)
    clean = build_tiny_model(tied=False)
    with torch.no_grad():
        model.model.embed_tokens.weight[40] = float("nan")
    engine = engine_for(clean, max_num_seqs=2)  # checked with clean weights
    engine.model = model
    # The broken entry lies further on than the prompts that get the slot next: masked, but NaN times 0 is NaN.
    prompts = [[8, 9], [5, 6, 7, 40], [7], [8, 9, 10]]
    samplings = [Sampling(max_tokens=3, seed=i, temperature=0.0) for i in range(4)]
    results = run(engine, prompts, samplings)
    assert results[1].stop_reason is StopReason.ERROR and "not finite" in str(results[1].error)
    del prompts[1], results[1]
    assert largest_gap(clean, prompts, results, 1.0) < 1e-4
    engine.close()


def test_the_dtype_is_the_models_and_autocast_is_followed() -> None:
    model = build_tiny_model()
    prompts = ragged_prompts(6)
    engine = engine_for(model, autocast=torch.bfloat16)
    results = run(engine, prompts, seeded(6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        close = largest_gap(model, prompts, results, 1.0)
    assert largest_gap(model, prompts, results, 1.0) > 1e-3  # it is bf16
    assert close < 0.3
    engine.close()
    half = build_tiny_model().to(torch.bfloat16)
    engine = engine_for(half)
    results = run(engine, prompts, seeded(6))
    assert all(r.error is None for r in results)
    assert largest_gap(half, prompts, results, 1.0) < 0.5
    engine.close()


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        TransformersEngine(tmp_path, build_tiny_tokenizer())
