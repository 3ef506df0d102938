"""The transformers engine on a GPU (skipped without one)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cib_rl.engines.weights import policy_tensors
from tests.conftest import build_tiny_model
from tests.engines.conftest import build_engine, saved
from tests.engines.support import disturb, largest_gap, ragged_prompts, run, seeded

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
