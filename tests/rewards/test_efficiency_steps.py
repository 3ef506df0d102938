"""The efficiency rewards in real training: one GRPO step on the embedded default with each, and ThinkPrune's rounds."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cib_rl.models import resolve_model
from cib_rl.recipe_io import load_recipe
from cib_rl.trainers import run
from cib_rl.trajectory_io import read_trajectories
from tests.trainers.support import RandomEngine, tiny_recipe

pytestmark = [pytest.mark.trl]

LONGEST = 160


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def kimi(n):
    return 0.5 - (n - n.min()) / np.ptp(n)


# For each method its line, and its papers' reward written out once more, over one prompt's completions: n tokens (N,),
# right and cut (N,) bool, and whether there is an answer (N,) bool; the outcome's own 0 or 1 is part of it.
METHODS = {
    "truncation": (
        {"limit": 100},
        lambda g: 1.0 * (g.right & (g.n <= 100) & ~g.cut),
    ),
    "linear": (
        {"name": "surprisal", "weight": 0.001, "prior": {"name": "uniform"}},
        lambda g: g.right - 0.001 * math.log(g.vocabulary) * g.n,
    ),
    "l1_exact": (
        {"name": "surprisal", "weight": 0.002, "prior": {"name": "laplace", "target": 90}},
        lambda g: g.right - 0.002 * (np.abs(g.n - 90) - 90),
    ),
    "l1_max": (
        {"target": 100, "alpha": 0.005},
        lambda g: g.right * np.clip(0.005 * (100 - g.n) + 0.5, 0, 1),
    ),
    "kimi_length": (
        {"weight": 0.5},
        lambda g: g.right + 0.5 * np.where(g.right, kimi(g.n), np.minimum(0, kimi(g.n))),
    ),
    "arora_zanette": (
        {"alpha": 0.3},
        lambda g: (
            g.right
            * (1 - 0.3 * sigmoid((g.n - g.n[g.right].mean()) / (g.n[g.right].std() + 1e-7)))
            if g.right.any()
            else 0.0 * g.n
        ),
    ),
    "shorter_better": (
        {"weight": 0.002},
        lambda g: g.right - 0.002 * np.abs(g.n - (g.n[g.right].min() if g.right.any() else g.n.mean())),
    ),
    "grpo_lead": (
        {"alpha": 0.2},
        lambda g: np.where(
            g.right,
            np.exp(-0.2 * (g.n - g.n[g.right].mean()) / (g.n[g.right].std(ddof=1) + 1e-6))
            if g.right.sum() > 1
            else 1.0,
            np.where(g.answered, -1.0, 0.0),
        ),
    ),
    "soft_overlong": (
        {"limit": 150, "cache": 100},
        lambda g: g.right - np.clip((g.n - 50) / 100, 0, 1),
    ),
    "cosine_length": (
        {},
        lambda g: np.where(
            g.cut | (g.n >= LONGEST),
            -10.0,
            np.where(g.right, 1.5 + 0.5 * np.cos(np.pi * g.n / LONGEST), -5 - 5 * np.cos(np.pi * g.n / LONGEST)),
        ),
    ),
}  # fmt: skip
CREDIT = {
    "truncation": [{"name": "group", "scale": "batch_std"}],
    "grpo_lead": [{"name": "group"}, {"name": "difficulty"}],
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_real_step_with_each_method(tmp_path, method):
    """Totals of the saved episodes are the paper's rewards, the advantages follow them, and the weights move."""
    section, paper = METHODS[method]
    section = {"name": method, "label": "method"} | section
    recipe = load_recipe(
        "quickstart",
        {
            "rewards": [{"name": "countdown_correct"}, section],
            "credit": CREDIT.get(method, [{"name": "group"}]),
            "task.limit": 20,
            "environment.max_completion_length": LONGEST,
            "sampling.temperature": 1.6,  # hot enough for right, wrong, unfinished and missing answers
            "sampling.group_size": 6,
            "trainer.steps": 1,
            "trainer.prompts_per_step": 3,
            "trainer.token_budget": 4096,
            "evaluation": None,
            "logging.tensorboard": False,
            "output": str(tmp_path),
            "run_name": "run",
        },
    )
    folder = run.train(recipe, progress=False)
    episodes = read_trajectories(folder / "trajectories" / "step-000000-rank0.parquet")
    assert len(episodes) == 18 and not any(t.failed for t in episodes)
    right = np.array([t.rewards["countdown_correct"] == 1.0 for t in episodes])
    assert 0 < right.sum() < len(right), "all right or all wrong proves little"
    vocabulary = 0
    if method == "linear":
        vocabulary = len(run.load_tokenizer(resolve_model("shipped:quickstart/policy", tmp_path)))
    for number in {t.group for t in episodes}:
        group = [t for t in episodes if t.group == number]
        facts = SimpleNamespace(
            n=np.array([t.num_tokens for t in group], float),
            right=np.array([t.rewards["countdown_correct"] == 1.0 for t in group]),
            cut=np.array([t.truncated for t in group]),
            answered=np.array([t.answer is not None for t in group]),
            vocabulary=vocabulary,
        )
        weight = section.get("weight", 1.0)
        total = np.array([t.rewards["countdown_correct"] + weight * t.rewards["method"] for t in group])
        np.testing.assert_allclose(total, paper(facts), atol=1e-9)
        advantage = np.array([t.tracks["advantage"][0] for t in group])
        ranks = np.argsort(total, kind="stable")
        assert (np.diff(advantage[ranks]) >= -1e-6).all(), "a higher total never has a lower advantage"
        assert np.ptp(total) == 0 or np.ptp(advantage) > 0
    start, end = (
        load_file(f"{path}/model.safetensors")
        for path in (resolve_model("shipped:quickstart/policy", tmp_path), folder / "checkpoints" / "step-000001")
    )
    assert any(not torch.equal(start[name].float(), end[name].float()) for name in start)


def test_rounds_go_on_with_the_steps_of_the_run_and_after_resuming(tmp_path, tiny_model_dir, monkeypatch):
    monkeypatch.setattr(run, "make_engine", lambda *_: RandomEngine())
    rewards = [
        {"name": f"{__file__.rsplit('/rewards/', 1)[0]}/trainers/support.py:even_length"},
        {"name": "truncation", "limit": [30, 5, 2], "steps_per_round": 2},
    ]
    changes = {"rewards": rewards, "trainer.save_every": 3}
    recipe = tiny_recipe(tiny_model_dir, tmp_path, **changes | {"trainer.steps": 3})
    folder = run.train(recipe, progress=False)
    more = tiny_recipe(tiny_model_dir, tmp_path, **changes | {"trainer.steps": 6})
    run.train(more, resume=folder, progress=False)
    limits = []
    for step in range(6):
        episodes = read_trajectories(folder / "trajectories" / f"step-{step:06d}-rank0.parquet")
        (limit,) = {t.diagnostics["token_limit"] for t in episodes}
        limits.append(limit)
        assert [t.rewards["truncation"] for t in episodes] == [
            -1.0 if t.rewards["even_length"] and (t.num_tokens > limit or t.truncated) else 0.0 for t in episodes
        ]
    assert limits == [30, 30, 5, 5, 2, 2]
