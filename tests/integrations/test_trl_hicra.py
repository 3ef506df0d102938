"""HICRA as a mix-in of TRL's own GRPO trainer."""

from __future__ import annotations

import re

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from cib_rl.errors import UserError
from cib_rl.integrations import HicraMixin
from tests.conftest import build_tiny_model, build_tiny_tokenizer
from tests.integrations.support import LONGEST, rows

pytestmark = pytest.mark.trl

GRAMS = [*"abcdefghijklmnopqrstuvwxyz"]  # single letters: what a random model says now and then


class HicraGRPO(HicraMixin, GRPOTrainer):
    """As the documentation has it; keeps what the loss is given."""

    def _compute_loss(self, model, inputs):
        self.seen = {name: value.detach().clone() for name, value in inputs.items() if torch.is_tensor(value)}
        return super()._compute_loss(model, inputs)


def length(completions, **_):
    """A reward that differs within groups."""
    return [float(len(c)) for c in completions]


def environment(prompts, trainer):
    """A rollout of one's own whose middle third comes from the environment."""
    tokenizer = trainer.processing_class
    ids = [tokenizer.encode("a b " * (1 + i % 3)) for i in range(len(prompts))]
    masks = [[1 if t < len(i) // 3 or t >= 2 * len(i) // 3 else 0 for t in range(len(i))] for i in ids]
    logprobs = [[-1.0] * len(i) for i in ids]
    return {
        "prompt_ids": [tokenizer.encode(p) for p in prompts], "completion_ids": ids, "logprobs": logprobs,
        "env_mask": masks,
    }  # fmt: skip


def trained(folder, kind=HicraGRPO, *, rollout_func=None, loss_type="dapo", **keys):
    trainer = kind(
        model=build_tiny_model(),
        reward_funcs=length,
        args=GRPOConfig(
            output_dir=str(folder), per_device_train_batch_size=8, num_generations=4, max_completion_length=LONGEST,
            max_steps=1, learning_rate=1e-2, logging_steps=1, save_strategy="no", use_cpu=True, report_to="none",
            disable_tqdm=True, seed=5, loss_type=loss_type,
        ),
        train_dataset=Dataset.from_list(rows()),
        processing_class=build_tiny_tokenizer(),
        rollout_func=rollout_func,
        **keys,
    )  # fmt: skip
    trainer.train()
    return trainer


def expected_marks(tokenizer, ids, mask):
    """By characters: every token of this tokenizer gives its own text."""
    marks, text = [], [tokenizer.decode([i]) for i in ids]
    runs = "".join(piece if m else "\n\0\n" for piece, m in zip(text, mask, strict=True))
    hits = {c for m in re.finditer(r"(?<![^\W])[a-z](?![^\W])", runs, re.I) for c in range(*m.span())}
    at = 0
    for piece, m in zip(text, mask, strict=True):
        marks.append(bool(m) and any(c in hits for c in range(at, at + len(piece))))
        at += len(piece) if m else 3
    return marks


@pytest.mark.parametrize("rollout_func", [None, environment], ids=["sampled", "with-environment"])
def test_the_loss_gets_more_advantage_on_planning_tokens_and_only_there(rollout_func, tmp_path):
    trainer = trained(tmp_path, rollout_func=rollout_func, grams=GRAMS, alpha=0.3)
    seen, tokenizer = trainer.seen, trainer.processing_class
    mask = seen["completion_mask"] * seen.get("tool_mask", 1)
    assert seen["advantages"].shape == mask.shape
    marked = 0
    for ids, own, advantage in zip(seen["completion_ids"], mask, seen["advantages"], strict=True):
        marks = torch.tensor(expected_marks(tokenizer, ids.tolist(), own.tolist()))
        base = advantage[~marks]
        assert (base == base[0]).all()
        assert torch.allclose(advantage[marks], base[0] + 0.3 * base[0].abs())
        marked += int(marks.sum())
    logged = next(entry for entry in trainer.state.log_history if "hicra/planning_share" in entry)
    assert logged["hicra/planning_share"] == pytest.approx(marked / int(mask.sum()))
    assert 0 < marked < int(mask.sum())


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_alpha_zero_trains_as_trl_does_to_the_last_bit(loss_type, tmp_path):
    weights = [
        trained(tmp_path, kind, loss_type=loss_type, **keys).model.state_dict()
        for kind, keys in [
            (GRPOTrainer, {}),
            (HicraGRPO, {"grams": GRAMS, "alpha": 0.0}),
            (HicraGRPO, {"grams": GRAMS, "alpha": 0.5}),
        ]
    ]
    plain, zero, half = weights
    assert all(torch.equal(plain[name], zero[name]) for name in plain)
    assert not all(torch.equal(plain[name], half[name]) for name in plain)


def test_bad_arguments_are_refused_before_anything_is_built(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        HicraGRPO(grams=str(tmp_path / "none.json"))
    with pytest.raises(UserError, match="alpha must be within"):
        HicraGRPO(grams=GRAMS, alpha=2.0)
