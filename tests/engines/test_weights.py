"""The policy's weights by plain names: tied heads, LoRA merged out of place, wrappers, refusals."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from cib_rl.engines.weights import policy_names, policy_tensors
from cib_rl.errors import UserError
from tests.conftest import build_tiny_model
from tests.engines.conftest import ENGINES, build_engine, saved
from tests.engines.support import disturb, largest_gap, ragged_prompts, run, seeded


def build_lora(*, tied: bool = True, dtype: torch.dtype = torch.float32, **config: Any) -> Any:
    base = build_tiny_model(tied=tied).to(dtype)
    options = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **config}
    torch.manual_seed(0)
    model = get_peft_model(base, LoraConfig(**options))
    train_adapter(model, 0)
    return model.eval()


def train_adapter(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * 0.1)


@pytest.mark.parametrize("tied", [True, False])
def test_a_plain_model_gives_its_state_dict_with_the_head(tied: bool) -> None:
    model = build_tiny_model(tied=tied)
    tensors = dict(policy_tensors(model))
    expected = model.state_dict()
    assert list(tensors) == list(expected) == policy_names(model)
    assert "lm_head.weight" in tensors
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert all(tensors[name].data_ptr() == expected[name].data_ptr() for name in expected)  # no copies


def test_wrappers_are_taken_off() -> None:
    model = build_tiny_model()
    if not torch.distributed.is_initialized():
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = torch.compile(torch.nn.parallel.DistributedDataParallel(model))
        assert policy_names(wrapped) == list(model.state_dict())
    finally:
        torch.distributed.destroy_process_group()


def test_lora_is_merged_under_plain_names() -> None:
    model = build_lora()
    tensors = dict(policy_tensors(model))
    reference = copy.deepcopy(model).merge_and_unload().state_dict()
    assert sorted(tensors) == sorted(reference)
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, reference[name], atol=1e-6, rtol=1e-5)
    changed = [
        n for n in tensors if not torch.equal(tensors[n], model.get_base_model().state_dict().get(n, tensors[n]))
    ]
    assert not changed
    plain = build_tiny_model()
    plain.load_state_dict(tensors)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_twenty_syncs_leave_the_base_weights_bit_identical(dtype: torch.dtype) -> None:
    model = build_lora(dtype=dtype)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    for i in range(20):
        train_adapter(model, i)
        tensors = dict(policy_tensors(model))
        assert all(t.dtype == dtype for t in tensors.values())
    after = dict(model.named_parameters())
    assert before and all(torch.equal(before[name], after[name]) for name in before)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(tensors[name], before[f"base_model.model.{name.replace('.weight', '.base_layer.weight')}"])


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_samples_from_the_lora_policy(name: str, tmp_path: Path) -> None:
    """vLLM gets merged weights; the transformers engine runs the adapter itself. Both agree with the policy."""
    model = build_lora()
    folder = saved(build_tiny_model(), tmp_path)
    engine = build_engine(name, folder, model if name == "transformers" else None)
    prompts = ragged_prompts(6)
    for version in range(3):
        train_adapter(model, version)
        engine.sync_weights(policy_tensors(model), version)
        assert largest_gap(model, prompts, run(engine, prompts, seeded(6)), 1.0) < 1e-4
    engine.close()


def test_modules_to_save_replace_the_originals() -> None:
    model = build_lora(tied=False, modules_to_save=["lm_head"], target_modules=["q_proj"])
    tensors = dict(policy_tensors(model))
    assert sorted(tensors) == sorted(build_tiny_model(tied=False).state_dict())
    wrapper = model.get_base_model().lm_head
    assert torch.equal(tensors["lm_head.weight"], wrapper.modules_to_save["default"].weight)
    assert not torch.equal(tensors["lm_head.weight"], wrapper.original_module.weight)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"target_modules": ["q_proj", "embed_tokens"]}, "ties its head"),
        ({"target_modules": ["q_proj"], "use_dora": True}, "only plain LoRA"),
        ({"target_modules": ["q_proj"], "lora_bias": True}, "only plain LoRA"),
    ],
)
def test_adapters_that_are_no_plain_model_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(policy_tensors(build_lora(**config)))


def test_an_adapter_that_is_off_or_merged_is_refused() -> None:
    model = build_lora()
    with model.disable_adapter(), pytest.raises(UserError, match="switched off"):
        list(policy_tensors(model))
    model.merge_adapter()
    with pytest.raises(UserError, match="unmerge"):
        list(policy_tensors(model))


def test_weights_that_change_show_in_the_next_iteration() -> None:
    model = build_tiny_model()
    before = {name: tensor.clone() for name, tensor in policy_tensors(model)}
    disturb(model, 1)
    assert all(not torch.equal(before[name], tensor) for name, tensor in policy_tensors(model))
