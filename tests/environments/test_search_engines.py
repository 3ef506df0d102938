"""Search episodes of the shipped policy over the real engines: none waits for another, and both engines agree."""

from __future__ import annotations

import asyncio
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cib_rl.engines.base import Sampling
from cib_rl.environments.factory import make_environment
from cib_rl.evals.runner import start_engine
from cib_rl.grading.qa import exact_match
from cib_rl.models import load_tokenizer, resolve_model
from cib_rl.recipe_io import load_recipe
from cib_rl.retrieval import factory
from cib_rl.retrieval.base import Retriever
from cib_rl.rollout import Episode, Rollouts
from cib_rl.seeds import derive_seed
from cib_rl.tasks import load_rows
from cib_rl.trainers import run
from cib_rl.trajectory import StopReason
from cib_rl.trajectory_io import read_trajectories

ENGINES = [pytest.param("transformers"), pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.slow])]
EPISODES = 12
VLLM = ["engine={name: vllm, max_num_seqs: 16, max_model_len: 640, check_every: 1, max_logprob_gap: 1e-3}"]


class Holding(Retriever):
    """Answers the first search only when `released` is set: after all other episodes have ended."""

    def __init__(self, inner):
        self.inner, self.released, self.held = inner, asyncio.Event(), 0

    async def search(self, queries, k):
        if not self.held:
            self.held = 1
            await self.released.wait()
        return await self.inner.search(queries, k)


@pytest.fixture(scope="module", params=ENGINES)
def rollouts(request):
    recipe = load_recipe("search/tiny", VLLM if request.param == "vllm" else [])
    reference = resolve_model(recipe.model, Path())
    tokenizer = load_tokenizer(reference)
    engine = start_engine(recipe.engine, reference, tokenizer, deterministic=False, seed=0)
    yield Rollouts(make_environment(recipe.environment, tokenizer), engine, tokenizer, recipe.environment.answer)
    engine.close()


def _episodes(count):
    rows = load_rows(load_recipe("search/tiny").task, Path())[:count]
    return [Episode(row, i, 0, derive_seed("held", i)) for i, row in enumerate(rows)]


def test_an_episode_whose_retrieval_hangs_holds_up_no_other(rollouts):
    """Were generation or retrieval in lock-step, the others would wait for it and it for them."""
    environment = rollouts.environment
    inner, environment.retriever = environment.retriever, Holding(environment.retriever)
    ended = []

    def on_episode(count):
        ended.append(environment.retriever.released.is_set())
        if count == EPISODES - 1:
            environment.retriever.released.set()

    try:
        made = rollouts.run(_episodes(EPISODES), Sampling(max_tokens=320, temperature=1.0), on_episode)
    finally:
        environment.retriever = inner
    assert ended == [False] * (EPISODES - 1) + [True]
    assert sum(t.diagnostics["failed_queries"] for t in made) == 0 and not any(t.errors for t in made)
    assert sum(turn.searched for t in made for turn in t.turns) > EPISODES


def test_what_the_policy_learned_holds_over_either_engine(rollouts):
    """Turns and answers of the warm start: it searches, reads what it found, and is mostly right."""
    made = rollouts.run(_episodes(64), Sampling(max_tokens=320, temperature=1.0))
    turns = np.mean([len(t.turns) for t in made])
    right = np.mean([exact_match(golds=t.task["answer"], prediction=t.answer or "") for t in made])
    assert 2.8 < turns < 4 and right > 0.6
    for t in made:
        (segment,) = t.segments
        assert len(segment.logprobs) == len(segment.completion_ids)
        assert np.isnan(segment.logprobs).tolist() == [m == 0 for m in segment.policy_mask]
        assert all(turn.stop_reason is StopReason.STOP_STRING for turn in t.turns if turn.searched)


@pytest.mark.vllm
@pytest.mark.trl
@pytest.mark.slow
@pytest.mark.parametrize("name", ["search/tiny", "search/tiny_ppo"])
def test_the_search_agent_trains_over_vllm(tmp_path, name):
    """Log-probabilities of engine and trainer agree on contexts with documents, before and after an update."""
    sets = [*VLLM, f"output={tmp_path}", "run_name=run", "trainer.steps=3", "trainer.prompts_per_step=16"]
    sets += ["evaluation=null"] + (["critic.warmup_steps=1"] if name.endswith("ppo") else [])
    folder = run.train(load_recipe(name, sets), progress=False)
    lines = run.RunFolder(folder).read_metrics()
    assert len(lines) == 3 and all(0 < line["gap/max"] < 1e-3 for line in lines)
    assert all(line["ratio/median"] == pytest.approx(1, abs=1e-3) for line in lines)
    for line in lines:
        assert line["search/queries"] > 0.8 and line["diagnostics/evidence_recall"] > 0.7


class Fitful(Retriever):
    """Answers after a while that is never the same."""

    def __init__(self, inner):
        self.inner, self.rng = inner, random.Random()

    async def search(self, queries, k):
        await asyncio.sleep(self.rng.choice((0, 0, 0.001, 0.02)))
        return await self.inner.search(queries, k)

    async def close(self):
        await self.inner.close()


@pytest.mark.trl
@pytest.mark.slow
@pytest.mark.parametrize("name", ["search/tiny", "search/tiny_ppo"])
def test_three_steps_are_one_and_two_to_the_last_digit_however_long_retrieval_takes(tmp_path, monkeypatch, name):
    """The engine samples from the policy as it is after each step; the checkpoint is in the middle of a window."""
    made = factory.make_retriever
    monkeypatch.setattr(factory, "make_retriever", lambda *args: Fitful(made(*args)))

    def trained(folder, resume=None):
        sets = [f"output={folder}", "run_name=run", "evaluation=null", "deterministic=true", "trainer.steps=3"]
        sets += ["trainer.prompts_per_step=8", "trainer.save_every=1", "trainer.steps_per_window=2"]
        sets += ["trainer.token_budget=2048"] + (
            ["critic.warmup_steps=1"] if name.endswith("ppo") else ["sampling.group_size=4"]
        )
        with run.prepare(load_recipe(name, sets), checkpoint=resume) as trainer:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
            return {n: p.detach().clone() for n, p in trainer.model.named_parameters()}, trainer.run_folder

    whole, first = trained(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    checkpoints = tmp_path / "parts" / "run" / "checkpoints"
    for step in (2, 3):
        shutil.rmtree(checkpoints / f"step-{step:06d}")
    parts, second = trained(tmp_path / "parts", checkpoints / "step-000001")
    assert all(torch.equal(whole[n], parts[n]) for n in whole)
    windows = [read_trajectories(sorted(f.trajectories.iterdir())[-1]) for f in (first, second)]
    episodes = [[(t.task["id"], t.completion_ids, t.rewards, t.diagnostics) for t in window] for window in windows]
    assert episodes[0] == episodes[1] and any(t.diagnostics["searches"] > 1 for t in windows[0])
