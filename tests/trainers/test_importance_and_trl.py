"""Our importance weight, folded into the advantages, against TRL's own correction for vLLM, in TRL's own loss."""

import pytest
import torch

from cib_rl.credit.importance import importance_weights
from cib_rl.trainers import run
from tests.trainers.support import RandomEngine, tiny_recipe

pytestmark = [pytest.mark.trl]


def _batch(rows=4, prompt=3, width=6):
    generator = torch.Generator().manual_seed(3)

    def ids(columns):
        return torch.randint(8, 57, (rows, columns), generator=generator)

    lengths = torch.tensor([6, 4, 1, 5])[:rows]
    completion_mask = (torch.arange(width) < lengths[:, None]).long()
    tool_mask = completion_mask.clone()
    tool_mask[0, 2:4] = 0  # a document
    return {
        "prompt_ids": ids(prompt), "prompt_mask": torch.ones(rows, prompt, dtype=torch.long),
        "completion_ids": ids(width) * completion_mask, "completion_mask": completion_mask, "tool_mask": tool_mask,
        "advantages": torch.tensor([1.0, -0.5, 0.8, -1.3])[:, None] * tool_mask,
        "num_items_in_batch": tool_mask.sum(),
    }  # fmt: skip


def _loss_and_gradient(trainer, inputs):
    trainer.model.zero_grad()
    loss = trainer._compute_loss(trainer.model, dict(inputs))
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in trainer.model.named_parameters()}


@pytest.mark.parametrize("loss", ["dapo", "grpo", "dr_grpo", "bnpo", "cispo", "sapo"])
@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_the_folded_weight_is_trls_token_truncated_correction(tmp_path, tiny_model_dir, monkeypatch, loss, kl):
    monkeypatch.setattr(run, "make_engine", lambda *_: RandomEngine())
    recipe = tiny_recipe(tiny_model_dir, tmp_path, **{"trainer.loss": loss, "trainer.kl": kl})
    with run.prepare(recipe) as trainer:
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        batch = _batch()
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            now = trainer._score(trainer.model, batch)
        shape = batch["completion_ids"].shape
        # Three policies: the engine's, the trainer's when the window was made, the trainer's now.
        old = now + 0.4 * torch.randn(shape, generator=generator)
        engine = old + 0.8 * torch.randn(shape, generator=generator)
        engine[1, 2] = float("nan")
        batch |= {"old_per_token_logps": old, "ref_per_token_logps": now - 0.2}
        weights, stats = importance_weights(old, engine, batch["tool_mask"], clip_max=2.0)
        assert stats.clipped_share > 0 and stats.missing == 1 and weights[1, 2] == 1
        ours = _loss_and_gradient(trainer, batch | {"advantages": batch["advantages"] * weights})
        without = _loss_and_gradient(trainer, batch)

        # What TRL does with a vLLM of its own, vllm_importance_sampling_mode token_truncate
        # (`_generate_and_score_completions`), then its loss.
        difference = torch.nan_to_num((old - engine) * batch["tool_mask"], nan=0.0)
        ratio = torch.clamp(difference.exp(), max=2.0)
        trainer.use_vllm, trainer.vllm_importance_sampling_correction = True, True
        theirs = _loss_and_gradient(trainer, batch | {"importance_sampling_ratio": ratio})
    assert ours[0] == pytest.approx(theirs[0], abs=1e-6)
    assert ours[0] != pytest.approx(without[0], abs=1e-3), "a weight without effect proves nothing"
    for name, gradient in theirs[1].items():
        torch.testing.assert_close(ours[1][name], gradient, atol=1e-6, rtol=1e-4)


def test_vespo_with_the_correction_is_refused(tmp_path, tiny_model_dir):
    with pytest.raises(ValueError, match="importance cannot be folded into the advantages of loss vespo"):
        tiny_recipe(tiny_model_dir, tmp_path, **{"trainer.loss": "vespo", "trainer.importance": {"enabled": True}})
    tiny_recipe(tiny_model_dir, tmp_path, **{"trainer.loss": "vespo"})
