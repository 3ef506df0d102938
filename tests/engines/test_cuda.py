"""Both engines on a GPU (skipped without one)."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from cib_rl.engines.weights import policy_tensors
from cib_rl.recipe import EngineSection
from tests.conftest import build_tiny_model, build_tiny_tokenizer
from tests.engines.conftest import build_engine, saved
from tests.engines.support import CONTEXT, disturb, largest_gap, ragged_prompts, run, seeded

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.bfloat16, 0.5)])
@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_parity_with_a_model_that_moved_to_the_gpu_after_the_engine_was_made(
    dtype: torch.dtype, limit: float, temperature: float, tmp_path: Path
) -> None:
    model = build_tiny_model()
    engine = build_engine("transformers", tmp_path, model)
    model.to(device="cuda", dtype=dtype).train()
    model.gradient_checkpointing_enable()
    prompts = ragged_prompts(16, shared_prefix=20)
    before = torch.cuda.get_rng_state()
    for version in range(3):
        disturb(model.cpu(), version)
        model.cuda()
        engine.sync_weights(policy_tensors(model), version)
        results = run(engine, prompts, seeded(16, temperature=temperature))
        assert model.training
        model.eval()
        assert largest_gap(model, prompts, results, temperature) < limit
        model.train()
    assert torch.equal(before, torch.cuda.get_rng_state())
    engine.close()


def test_a_folder_is_loaded_onto_the_gpu_and_synced_from_the_cpu(tmp_path: Path) -> None:
    engine = build_engine("transformers", saved(build_tiny_model(), tmp_path))
    policy = build_tiny_model(seed=4)
    engine.sync_weights(policy_tensors(policy), 1)
    prompts = ragged_prompts(6)
    assert largest_gap(policy, prompts, run(engine, prompts, seeded(6)), 1.0) < 1e-4
    engine.close()


@pytest.mark.slow  # without the mark vllm: `--require-real` counts what must run everywhere
@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-3), ("bfloat16", 0.5)])
def test_vllm_sleeps_between_syncs_and_wakes_with_the_policys_weights(dtype: str, limit: float, tmp_path: Path) -> None:
    """CUDA graphs and sleep mode, as the shipped recipes have them; the reference is the policy on the CPU, or for
    bfloat16 on the GPU in that type. Asleep, the engine holds next to nothing; closed, nothing of its cache."""
    pytest.importorskip("vllm")
    from cib_rl.engines.vllm import VLLMEngine

    policy = build_tiny_model()
    section = EngineSection(
        name="vllm", dtype=dtype, sleep=True, max_num_seqs=16, max_model_len=CONTEXT, gpu_memory_utilization=0.2
    )
    before, total = torch.cuda.mem_get_info()
    engine = VLLMEngine(saved(policy, tmp_path), build_tiny_tokenizer(), section)
    prompts = ragged_prompts(16, shared_prefix=140)
    gaps, freed = [], []
    try:
        for version, temperature in enumerate([1.0, 0.8, 1.0]):
            disturb(policy, version)
            engine.sync_weights(policy_tensors(policy), version)
            results = run(engine, prompts, seeded(16, temperature=temperature))
            reference = policy if dtype == "float32" else copy.deepcopy(policy).to(device="cuda", dtype=torch.bfloat16)
            gaps.append(largest_gap(reference, prompts, results, temperature))
            awake = torch.cuda.mem_get_info()[0]
            engine.sleep()
            freed.append(torch.cuda.mem_get_info()[0] - awake)
    finally:
        engine.close()  # vLLM serves one engine that sleeps at a time
    print(f"vLLM {dtype}: largest gaps {gaps} nats")
    assert min(freed) > 0.1 * total
    assert before - torch.cuda.mem_get_info()[0] < 0.05 * total
    assert max(gaps) < limit
