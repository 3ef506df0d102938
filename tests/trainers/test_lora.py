"""LoRA through the recipe: the base never changes, the reference is the adapter switched off, and the engine samples
from the adapted policy."""

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from cib_rl.models import load_policy, resolve_model
from cib_rl.trainers import run
from tests.trainers.support import HERE, tiny_recipe

pytestmark = [pytest.mark.trl]


class _Watch(TrainerCallback):
    """Keeps the trainer's view of the base weights and of the references."""

    def __init__(self):
        self.trainer = None
        self.references = []

    def on_pre_optimizer_step(self, args, state, control, **_):
        self.references.append(self.trainer._micro)


def _base(model):
    return {
        name.replace("base_layer.", ""): tensor.detach().clone()
        for name, tensor in model.get_base_model().state_dict().items()
        if "lora_" not in name
    }


def _recipe(model, folder, **changes):
    return tiny_recipe(
        model, folder,
        **{"trainer.steps": 20, "trainer.learning_rate": 0.02, "lora": {"r": 4, "alpha": 16},
           "engine": {"check_every": 1, "max_logprob_gap": 1e-4}, "rewards": [{"name": f"{HERE}:even_length"}],
           "trainer.prompts_per_step": 1, **changes},
    )  # fmt: skip


def test_twenty_steps_leave_the_base_bit_identical_and_move_the_policy(tmp_path, tiny_model_dir):
    watch = _Watch()
    with run.prepare(_recipe(tiny_model_dir, tmp_path, **{"trainer.kl": 0.01}), callbacks=[watch]) as trainer:
        watch.trainer = trainer
        before = _base(trainer.accelerator.unwrap_model(trainer.model))
        trainer.train()
        policy = trainer.accelerator.unwrap_model(trainer.model)
        after = _base(policy)
        folder = trainer.run_folder
        ids = torch.tensor([[5, 9, 13, 21, 33]])
        policy.eval()
        with torch.no_grad():
            adapted = policy(ids).logits
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()
    assert set(before) == set(after) == set(plain.state_dict())
    for name, tensor in plain.state_dict().items():
        assert torch.equal(before[name], tensor) and torch.equal(after[name], tensor), name
    with torch.no_grad():
        assert (adapted - plain(ids).logits).abs().max() > 0.05

    # The engine samples from the adapted policy: measured at every step (a base without adapter is off by far more).
    lines = folder.read_metrics()
    assert len([line for line in lines if line.get("gap/max", 1) < 1e-4]) == 20
    # The reference is the base model: its log-probabilities equal those of the base in a model of its own.
    last = watch.references[-1]
    reference, seen = last["ref_per_token_logps"], 0
    for i in range(len(reference)):
        prompt = last["prompt_ids"][i][last["prompt_mask"][i].bool()]
        completion = last["completion_ids"][i][last["completion_mask"][i].bool()]
        with torch.no_grad():
            logps = plain(torch.cat([prompt, completion])[None]).logits[0].log_softmax(-1)
        expected = logps[len(prompt) - 1 : -1].gather(-1, completion[:, None])[:, 0]
        torch.testing.assert_close(reference[i, : len(completion)], expected, atol=1e-5, rtol=1e-5)
        seen += len(completion)
    assert seen > 0
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-6) and lines[-1]["kl"] > 1e-4

    # The saved adapter, loaded as a user would load it, is the policy.
    checkpoint = folder.checkpoints / "step-000020"
    assert (checkpoint / "adapter_config.json").is_file() and not (checkpoint / "model.safetensors").exists()
    loaded = load_policy(resolve_model(str(folder.path), tmp_path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, adapted, atol=1e-5, rtol=1e-5)


def test_another_seed_is_another_adapter_and_the_same_seed_the_same(tmp_path, tiny_model_dir):
    def adapter(seed, folder):
        (tmp_path / folder).mkdir()
        with run.prepare(_recipe(tiny_model_dir, tmp_path / folder, seed=seed)) as trainer:
            model = trainer.accelerator.unwrap_model(trainer.model)
            return torch.cat([p.detach().flatten() for n, p in model.named_parameters() if "lora_A" in n])

    first, again, other = adapter(1, "a"), adapter(1, "b"), adapter(2, "c")
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("lora", [True, False])
def test_a_run_can_start_from_a_trained_adapter(tmp_path, tiny_model_dir, lora):
    """Both the reference and the saved policy of the second run stand on the first run's *adapted* policy."""
    folder = run.train(_recipe(tiny_model_dir, tmp_path, **{"trainer.steps": 2}), progress=False)
    (tmp_path / "second").mkdir()
    changes = {"trainer.steps": 1, "trainer.kl": 0.01, "trainer.learning_rate": 0.05}
    recipe = _recipe(folder, tmp_path / "second", **changes, **({} if lora else {"lora": None}))
    ids = torch.tensor([[5, 9, 13, 21, 33]])
    with run.prepare(recipe) as trainer:
        trainer.train()
        with torch.no_grad():
            trained = trainer.accelerator.unwrap_model(trainer.model).eval()(ids).logits
        second = trainer.run_folder
    assert second.read_metrics()[0]["kl"] == pytest.approx(0, abs=1e-6)
    loaded = load_policy(resolve_model(str(second.path), tmp_path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, trained, atol=1e-5, rtol=1e-5)
