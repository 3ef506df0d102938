"""verl's own reward code runs our rewards. Skipped where verl cannot be imported (see `verl_standin.py`)."""

from __future__ import annotations

import asyncio
import importlib
import importlib.resources

import numpy as np
import pytest
import torch

REWARDS = """
from cib_rl.integrations import as_verl_loop, as_verl_score
compute_score = as_verl_score(["math_correct"], tokenizer={model!r})
Rewards = as_verl_loop(["math_correct", {{"name": "kimi_length", "weight": 0.5}}])
"""
TEXTS = ["<answer>7</answer>", "abc<answer>7</answer>", "ab<answer>8</answer>", "abcdef"]


@pytest.fixture
def rewards_file(tmp_path, tiny_model_dir):
    (tmp_path / "rewards.py").write_text(REWARDS.format(model=str(tiny_model_dir)))
    return tmp_path / "rewards.py"


@pytest.fixture
def loop_config(real_verl, tiny_model_dir):
    """The part of verl's configuration that its reward worker reads, from verl's own defaults."""
    omegaconf = pytest.importorskip("omegaconf")
    defaults = importlib.resources.files("verl") / "trainer" / "config" / "reward" / "reward.yaml"
    if not defaults.is_file():
        pytest.skip("verl before 0.7.1 has another configuration")
    config = omegaconf.OmegaConf.create(
        {
            "reward": omegaconf.OmegaConf.load(str(defaults)),
            "actor_rollout_ref": {
                "model": {"path": str(tiny_model_dir), "tokenizer_path": None},
                "rollout": {"n": len(TEXTS)},
            },
        }
    )
    return config


def sample_batch(verl, tokenizer):
    """What an agent loop hands to the reward worker, row by row: no padding, and no response_mask."""
    ids = [[*tokenizer.encode(text), 1] for text in TEXTS]
    longest = max(map(len, ids))
    prompt = tokenizer.encode("q")
    tensors = {
        "prompts": torch.tensor([prompt] * len(ids)),
        "responses": torch.tensor([i + [0] * (longest - len(i)) for i in ids]),
        "attention_mask": torch.tensor([[1] * (len(prompt) + len(i)) + [0] * (longest - len(i)) for i in ids]),
    }
    columns = {
        "uid": ["u"] * len(ids),
        "data_source": ["tests"] * len(ids),
        "reward_model": [{"ground_truth": "7"} for _ in ids],
        "extra_info": [{"index": i, "split": "train"} for i in range(len(ids))],
        "raw_prompt": [[{"role": "user", "content": "q"}] for _ in ids],
        "__num_turns__": [2] * len(ids),
    }
    arrays = {}
    for name, column in columns.items():
        arrays[name] = np.empty(len(ids), dtype=object)
        arrays[name][:] = column
    return verl.DataProto.from_dict(tensors, arrays)


def test_verls_reward_worker_scores_with_our_manager(real_verl, loop_config, rewards_file, tiny_tokenizer):
    """Through verl's configuration, file loader and worker; kimi_length needs the whole group."""
    worker_class = importlib.import_module("verl.experimental.reward_loop.reward_loop").RewardLoopWorker
    loop_config.reward.num_workers = 1
    loop_config.reward.reward_manager.source = "importlib"
    loop_config.reward.reward_manager.name = "Rewards"
    loop_config.reward.reward_manager.module.path = str(rewards_file)
    data = sample_batch(real_verl, tiny_tokenizer)

    async def run():
        worker = worker_class(loop_config)
        try:
            return await worker.compute_score_batch(data)
        finally:
            worker.reward_manager.scorer.scorer.close()

    outputs = asyncio.run(run())
    lengths = np.array([len(tiny_tokenizer.encode(text)) + 1 for text in TEXTS])
    fractions = 0.5 - (lengths - lengths.min()) / (lengths.max() - lengths.min())
    right = np.array([True, True, False, False])
    kimi = np.where(right, fractions, np.minimum(0.0, fractions))
    assert [o["reward_extra_info"]["math_correct"] for o in outputs] == right.astype(float).tolist()
    assert [o["reward_score"] for o in outputs] == pytest.approx((right + 0.5 * kimi).tolist())


def test_verls_naive_manager_scores_with_our_compute_score(real_verl, loop_config, rewards_file, tiny_tokenizer):
    worker_class = importlib.import_module("verl.experimental.reward_loop.reward_loop").RewardLoopWorker
    loop_config.reward.custom_reward_function.path = str(rewards_file)
    loop_config.reward.custom_reward_function.name = "compute_score"
    data = sample_batch(real_verl, tiny_tokenizer)

    async def run():
        return await worker_class(loop_config).compute_score_batch(data)

    outputs = asyncio.run(run())
    assert [o["reward_score"] for o in outputs] == [1.0, 1.0, 0.0, 0.0]
    assert all(o["reward_extra_info"]["failed"] == 0.0 for o in outputs)
