"""The engines' log-probabilities are those of a plain forward pass; tokens depend on the request's seed alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cib_rl.engines.base import Engine, Generation, Sampling
from cib_rl.engines.weights import policy_tensors
from tests.conftest import build_tiny_model
from tests.engines.conftest import ENGINES, Pair, build_engine, saved
from tests.engines.support import disturb, largest_gap, ragged_prompts, run, seeded

TOLERANCE = 1e-4


@pytest.mark.parametrize("temperature", [1.0, 0.8])
@pytest.mark.parametrize("kind", ["tied", "untied"])
@pytest.mark.parametrize("name", ENGINES)
def test_logprobs_equal_a_forward_pass_before_and_after_syncs(
    name: str, kind: str, temperature: float, make_pair: Callable[..., Pair]
) -> None:
    pair = make_pair(name, kind)
    pair.engine.sync_weights(policy_tensors(pair.model), version=1)
    # Prompts share 140 tokens (more than one of vLLM's blocks), so its prefix cache is used.
    prompts = ragged_prompts(10, shared_prefix=140) + ragged_prompts(6)
    samplings = seeded(16, temperature=temperature)
    assert largest_gap(pair.model, prompts, run(pair.engine, prompts, samplings), temperature) < TOLERANCE
    for version in range(2, 5):
        disturb(pair.model, version)
        pair.engine.sync_weights(policy_tensors(pair.model), version)
        results = run(pair.engine, prompts, samplings)
        assert largest_gap(pair.model, prompts, results, temperature) < TOLERANCE
        assert {r.weights_version for r in results} == {version}


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_of_its_own_weights_takes_the_policys(name: str, tmp_path: Path, make_pair: Any) -> None:
    """A folder is loaded, the policy has moved on: stale before the first sync, exact after it."""
    if name == "vllm":
        pair = make_pair(name, "tied")
        engine, policy = pair.engine, build_tiny_model(seed=11)
    else:
        engine, policy = build_engine(name, saved(build_tiny_model(), tmp_path)), build_tiny_model(seed=11)
    prompts = ragged_prompts(6)
    assert largest_gap(policy, prompts, run(engine, prompts, seeded(6)), 1.0) > 0.1
    engine.sync_weights(policy_tensors(policy), version=1)
    assert largest_gap(policy, prompts, run(engine, prompts, seeded(6)), 1.0) < TOLERANCE


@pytest.mark.parametrize("name", ENGINES)
def test_inside_a_training_step_with_checkpointing(name: str, tmp_path: Path, make_pair: Any) -> None:
    """Train mode, gradient checkpointing, dropout, grad on: as in the middle of a trainer's step."""
    if name == "vllm":
        pair = make_pair(name, "tied")
        engine, model = pair.engine, build_tiny_model()
    else:
        model = build_tiny_model()
        engine = build_engine(name, tmp_path, model)
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    model.model.layers[1].eval()  # a mixture of modes must come back as it was
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    modes = [module.training for module in model.modules()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    prompts = ragged_prompts(8)
    for step in range(3):
        engine.sync_weights(policy_tensors(model), version=step)
        results = run(engine, prompts, seeded(8, temperature=0.8))
        assert [module.training for module in model.modules()] == modes
        assert torch.is_grad_enabled()
        model.eval()
        assert largest_gap(model, prompts, results, 0.8) < TOLERANCE
        for module, mode in zip(model.modules(), modes, strict=True):
            module.training = mode
        ids = torch.tensor([prompts[0] + results[0].ids])
        model(ids, labels=ids).loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", ENGINES)
def test_a_seed_fixes_the_tokens_alone_among_others_and_with_late_joiners(
    name: str, make_pair: Callable[..., Pair]
) -> None:
    engine = make_pair(name, "untied").engine
    prompts, samplings = ragged_prompts(12), seeded(12)
    alone = [run(engine, [p], s)[0] for p, s in zip(prompts, samplings, strict=True)]
    together = run(engine, prompts, samplings)  # more than there are slots

    async def late(i: int) -> Generation:
        await asyncio.sleep(0.005 * ((5 * i) % 7))
        return await engine.generate(prompts[i], samplings[i])

    async def staggered() -> list[Generation]:
        return list(await asyncio.gather(*(late(i) for i in range(12))))

    for others in (together, asyncio.run(staggered())):
        assert [r.ids for r in others] == [r.ids for r in alone]
        for a, b in zip(alone, others, strict=True):
            torch.testing.assert_close(torch.tensor(a.logprobs), torch.tensor(b.logprobs), atol=1e-4, rtol=0)
    assert len({tuple(r.ids) for r in alone}) > 6  # equal prompts with other seeds go their own ways


@pytest.mark.parametrize("name", ENGINES)
def test_greedy_logprobs_are_those_at_temperature_one(name: str, make_pair: Callable[..., Pair]) -> None:
    pair = make_pair(name, "untied")
    pair.engine.sync_weights(policy_tensors(pair.model), version=1)
    prompts = ragged_prompts(6)
    results = run(pair.engine, prompts, Sampling(max_tokens=15, temperature=0.0, seed=0))
    assert largest_gap(pair.model, prompts, results, 1.0) < TOLERANCE
    for prompt, result in zip(prompts, results, strict=True):
        with torch.no_grad():
            logits = pair.model(torch.tensor([prompt + result.ids])).logits[0, len(prompt) - 1 : -1]
        best = logits.max(-1).values - logits.gather(1, torch.tensor(result.ids)[:, None])[:, 0]
        assert float(best.max()) < 1e-4


@pytest.mark.vllm
@pytest.mark.slow
def test_a_prefix_cache_that_is_not_emptied_would_be_seen(make_pair: Callable[..., Pair], monkeypatch: Any) -> None:
    """The parity test above runs on a live prefix cache: without the reset the log-probabilities are stale."""
    pair = make_pair("vllm", "tied")
    engine: Any = pair.engine
    prompts, samplings = ragged_prompts(6, shared_prefix=140), seeded(6)
    run(engine, prompts, samplings)
    disturb(pair.model, 77)
    with monkeypatch.context() as patch:
        patch.setattr(engine._llm, "reset_prefix_cache", lambda: True)
        engine.sync_weights(policy_tensors(pair.model), version=1)
    assert largest_gap(pair.model, prompts, run(engine, prompts, samplings), 1.0) > 0.01
    engine.sync_weights(policy_tensors(pair.model), version=2)
    assert largest_gap(pair.model, prompts, run(engine, prompts, samplings), 1.0) < TOLERANCE


@pytest.mark.vllm
@pytest.mark.slow
def test_a_reset_that_vllm_refuses_is_an_error(make_pair: Callable[..., Pair], monkeypatch: Any) -> None:
    pair = make_pair("vllm", "tied")
    engine: Any = pair.engine
    monkeypatch.setattr(engine._llm, "reset_prefix_cache", lambda: False)
    with pytest.raises(RuntimeError, match="prefix cache"):
        engine.sync_weights(policy_tensors(pair.model), version=3)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_partial_and_foreign_names_are_refused_and_nothing_is_loaded(
    name: str, kind: str, tmp_path: Path, make_pair: Callable[..., Pair]
) -> None:
    policy = build_tiny_model(tied=kind == "tied")
    engine: Engine = make_pair(name, kind).engine if name == "vllm" else build_engine(name, saved(policy, tmp_path))
    engine.sync_weights(policy_tensors(policy), version=5)
    moved = build_tiny_model(seed=3, tied=kind == "tied")
    tensors = dict(policy_tensors(moved))
    cut = {k: v[:1] if k.endswith("layers.0.input_layernorm.weight") else v for k, v in tensors.items()}
    for wrong, message in [
        ({k: v for k, v in tensors.items() if k != "lm_head.weight"}, "1 missing: lm_head.weight"),
        ({**tensors, "critic.weight": torch.zeros(2)}, "1 unknown .*: critic.weight"),
        ({f"base_model.{k}": v for k, v in tensors.items()}, "missing: .*unknown"),
        (cut, "layers.0.input_layernorm.weight has shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            engine.sync_weights(iter(wrong.items()), version=6)
    with pytest.raises(ValueError, match="given twice"):
        engine.sync_weights([*tensors.items(), ("lm_head.weight", tensors["lm_head.weight"])], version=6)
    assert engine.weights_version == 5
    prompts = ragged_prompts(4)
    assert largest_gap(policy, prompts, run(engine, prompts, seeded(4)), 1.0) < TOLERANCE
