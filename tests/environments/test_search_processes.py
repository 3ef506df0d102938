"""Search episodes over two processes: each plays its own groups, and they train what one process does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cib_rl.models import resolve_model
from cib_rl.recipe_io import load_recipe
from cib_rl.run_folder import RunFolder
from cib_rl.trajectory_io import read_trajectories
from tests.retrieval.faulty_server import FaultyServer, answer_well, send
from tests.trainers.test_deepspeed import _config
from tests.trainers.test_distributed import in_one_process, launch, moved_apart, plain_weights, records

pytestmark = [pytest.mark.trl, pytest.mark.slow]


def _recipe(name, folder, *sets):
    few = ["trainer.steps=2", "trainer.prompts_per_step=8", "evaluation=null", "deterministic=true", "run_name=run"]
    return load_recipe(name, [*few, f"output={folder}", "logging.tensorboard=false", *sets])


@pytest.mark.deepspeed
def test_two_processes_train_the_search_agent_as_one_does(tmp_path):
    """By plain data parallelism, and by ZeRO-2, as the recipe of Search-R1 is launched."""
    ppo = ["critic.warmup_steps=0"]
    zero = [f"trainer.deepspeed={_config(tmp_path, 2)}", "trainer.micro_batch_size=4"]
    runs = {
        "grpo": ("search/tiny", []), "ppo": ("search/tiny_ppo", ppo),
        "grpo-zero": ("search/tiny", zero), "ppo-zero": ("search/tiny_ppo", [*ppo, *zero]),
    }  # fmt: skip
    launch(tmp_path, {job: {"recipe": _recipe(name, tmp_path / job, *sets)} for job, (name, sets) in runs.items()})
    single = {}
    for name, sets in (runs["grpo"], runs["ppo"]):
        one = _recipe(name, tmp_path / f"{name}-one", *sets)
        single[name] = in_one_process(one), RunFolder(tmp_path / f"{name}-one" / "run").read_metrics()
    start = plain_weights(resolve_model("shipped:search/policy", Path()))
    for job, (name, _) in runs.items():
        wrapped = {"DeepSpeedEngine" if job.endswith("zero") else "DistributedDataParallel"}
        assert [r["error"] for r in records(tmp_path, job)] == [None, None]
        assert {r["engine"] for r in records(tmp_path, job)} == wrapped
        alone, others = single[name]
        both = torch.load(tmp_path / f"{job}.pt", weights_only=True)
        assert moved_apart(both, alone, {n: start[n] for n in alone}) < 1e-2
        _same_searches(RunFolder(tmp_path / job / "run"), others)


def _same_searches(folder, others):
    """What is logged of the episodes is what one process logs; each process played groups of its own."""
    for line, other in zip(folder.read_metrics(), others, strict=True):
        searched = [key for key in other if key.startswith(("search/", "diagnostics/", "tokens/", "stop/"))]
        assert "search/queries" in searched and "diagnostics/evidence_recall" in searched
        for key in searched:
            assert line[key] == pytest.approx(other[key], abs=1e-4), key
    first, second = (
        {t.group for t in read_trajectories(folder.trajectories / f"step-000000-rank{rank}.parquet")} for rank in (0, 1)
    )
    assert first and second and not first & second


@pytest.mark.server
def test_two_processes_wait_for_an_outage_together(tmp_path):
    """The server is gone when both have checked it, and back when it was asked four times in the pause."""
    checks = 4  # two of each process

    def played(name, dies):
        asked = []

        def behave(handler, body):
            if body["queries"] == ["test"]:
                asked.append(1)
                dead = checks < len(asked) <= checks + 4
            else:
                dead = len(asked) <= checks + 4
            send(handler, b"", 503) if dies and dead else answer_well(handler, body)

        with FaultyServer() as server:
            server.behave = behave
            retriever = {"name": "remote", "url": server.url, "retries": 0, "breaker_failures": 10_000}
            keys = {"environment.retriever": retriever, "environment.drop_failed": True}
            recipe = _recipe("search/tiny", tmp_path / name, *(f"{key}={json.dumps(keys[key])}" for key in keys))
            launch(tmp_path / name, {"job": {"recipe": recipe}})
        assert [r["error"] for r in records(tmp_path / name, "job")] == [None, None]
        folder = RunFolder(tmp_path / name / "run")
        windows = [read_trajectories(folder.trajectories / f"step-000000-rank{rank}.parquet") for rank in (0, 1)]
        return [[t.completion_ids for t in window] for window in windows], folder.read_metrics()

    for name in ("disturbed", "calm"):
        (tmp_path / name).mkdir()
    (windows, lines), (calm, others) = played("disturbed", True), played("calm", False)
    assert windows == calm and [line["loss"] for line in lines] == [line["loss"] for line in others]
    assert lines[0]["groups/played_again"] >= 8 and others[0]["groups/played_again"] == 0
