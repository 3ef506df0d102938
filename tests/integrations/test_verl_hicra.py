"""HICRA as an advantage estimator of verl: its published seam, and verl's own where it can be imported."""

from __future__ import annotations

import importlib

import pytest
import torch

from cib_rl.errors import UserError
from cib_rl.integrations import register_verl_hicra
from tests.integrations.verl_support import GOLDS, UIDS

TEXTS = ["a xyz a", "xyz", "a", "xyz xyz", "the a", "x"]


@pytest.fixture
def trainer(verl, monkeypatch):
    """verl's ray_trainer; what registering changes in it and in the list of estimators is undone."""
    module = pytest.importorskip("verl.trainer.ppo.ray_trainer")
    algorithms = importlib.import_module("verl.trainer.ppo.core_algos")
    monkeypatch.setattr(module, "compute_advantage", module.compute_advantage)
    monkeypatch.setattr(algorithms, "ADV_ESTIMATOR_REGISTRY", dict(algorithms.ADV_ESTIMATOR_REGISTRY))
    return module


@pytest.fixture
def data(batch):
    """Six completions of two prompts, rewards on their last tokens; the first one's middle is the environment's."""

    def make():
        lengths = [len(text) for text in TEXTS]
        masks = [[1] * n for n in lengths]
        masks[0] = [1, 1, 1, 1, 0, 0, 0]
        made = batch(TEXTS, uids=UIDS, golds=GOLDS, masks=masks)
        rewards = torch.zeros(made.batch["responses"].shape)
        for row, n in enumerate(lengths):
            rewards[row, n - 1] = float(row**2)
        made.batch["token_level_rewards"] = rewards
        return made

    return make


@pytest.mark.parametrize("base", ["grpo", "rloo"])
def test_planning_tokens_get_more_of_the_bases_advantage(base, trainer, data, tiny_tokenizer):
    plain = trainer.compute_advantage(data(), base, config={}).batch
    register_verl_hicra(["a", "the"], tokenizer=tiny_tokenizer, base=base, alpha=0.3)
    got = trainer.compute_advantage(data(), adv_estimator="hicra", config={}).batch
    planning = torch.zeros(plain["advantages"].shape, dtype=torch.bool)
    planning[0, 0] = planning[2, 0] = planning[4, :3] = planning[4, 4] = True
    expected = plain["advantages"] + 0.3 * plain["advantages"].abs() * planning
    assert plain["advantages"][planning].abs().min() > 0
    assert torch.allclose(got["advantages"], expected)
    assert torch.equal(got["returns"], plain["returns"])


def test_other_estimators_are_untouched(trainer, data, tiny_tokenizer):
    plain = trainer.compute_advantage(data(), "rloo", config={}).batch["advantages"]
    register_verl_hicra(["a"], tokenizer=tiny_tokenizer)
    assert torch.equal(trainer.compute_advantage(data(), "rloo", config={}).batch["advantages"], plain)


def test_a_trainer_that_gives_no_token_ids_is_told_so(trainer, data, tiny_tokenizer):
    early = trainer.compute_advantage  # taken before it was replaced
    register_verl_hicra(["a"], tokenizer=tiny_tokenizer)
    with pytest.raises(UserError, match="VERL_USE_EXTERNAL_MODULES"):
        early(data(), "hicra", config={})
    without = data()
    without.batch.pop("responses")
    with pytest.raises(UserError, match="no `responses`"):
        trainer.compute_advantage(without, "hicra", config={})


def test_an_unknown_base_is_refused(trainer, tiny_tokenizer):
    with pytest.raises(UserError, match="base='grppo'"):
        register_verl_hicra(["a"], tokenizer=tiny_tokenizer, base="grppo")
