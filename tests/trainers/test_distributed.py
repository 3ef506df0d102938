"""Two processes train what one does: started by torchrun, gloo, the real engine on each."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from cib_rl.engines.weights import policy_tensors
from cib_rl.errors import UserError
from cib_rl.evals.result_io import load_result
from cib_rl.run_folder import RunFolder
from cib_rl.trainers import run
from cib_rl.trajectory_io import read_trajectories
from tests.trainers.support import HERE, tiny_recipe

pytestmark = [pytest.mark.trl, pytest.mark.slow]


TORCHRUN = [
    "torch.distributed.run",
    "--nproc_per_node",
    "2",
    "--rdzv-backend",
    "c10d",
    "--rdzv-endpoint",
    "localhost:0",
]


def launch(folder: Path, jobs: dict, launcher: Sequence[str] = TORCHRUN) -> None:
    """Run the jobs in two processes (see `jobs_worker`); `launcher`: a module and its arguments."""
    listed = {
        name: {**job, "recipe": job["recipe"].model_dump(mode="json", exclude_unset=True)} for name, job in jobs.items()
    }
    (folder / "jobs.json").write_text(json.dumps(listed))
    command = [sys.executable, "-m", *launcher, str(HERE.with_name("jobs_worker.py")), str(folder), "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(HERE.parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-8000:]


def records(folder: Path, name: str, processes: int = 2) -> list[dict]:
    return [json.loads((folder / f"{name}-rank{rank}.json").read_text()) for rank in range(processes)]


def moved_apart(weights: dict, other: dict, start: dict) -> float:
    """How far two trainings ended apart, relative to how far they went: |w − w'| / |w − start|, over all weights."""
    assert set(weights) == set(other) == set(start)
    apart = sum(((weights[n] - other[n]).double() ** 2).sum() for n in weights) ** 0.5
    went = sum(((weights[n] - start[n]).double() ** 2).sum() for n in weights) ** 0.5
    assert went > 0.01, "nothing was trained"
    return float(apart / went)


def plain_weights(model: Path) -> dict:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).state_dict()


def in_one_process(recipe) -> dict:
    with run.prepare(recipe) as trainer:
        trainer.train()
        return {n: t.detach().clone() for n, t in policy_tensors(trainer.model)}


TRAIN = {
    "trainer.steps": 3, "trainer.prompts_per_step": 4, "trainer.kl": 0.01, "trainer.token_budget": 60,
    "trainer.micro_batch_size": 4, "engine": {"check_every": 1, "max_logprob_gap": 1e-4}, "deterministic": True,
}  # fmt: skip
HICRA = [{"name": "group"}, {"name": "hicra", "grams": list("abcdefghijklm"), "measure_entropy": True}]
EVALUATION = {"problems": 5, "samples": 2, "every": 1, "before": True, "after": True}


def _jobs(folder: Path, model: Path) -> dict:
    def recipe(name, **changes):
        (folder / name).mkdir(exist_ok=True)
        return tiny_recipe(model, folder / name, **changes)

    resumable = {"trainer.steps": 4, "trainer.save_every": 2, "trainer.steps_per_window": 3, "deterministic": True}
    part = folder / "part" / "runs" / "run"
    outcome = [{"name": f"{HERE}:even_length"}]
    tasks = {"name": "jsonl", "path": str(folder / "evaluated" / "tasks.jsonl")}
    pairs = {"sampling.group_size": 2, "trainer.prompts_per_step": 4}
    filtering = {"zero_variance": "outcome", "max_extra_groups": 2}
    every_fourth = [{"name": f"{HERE}:flat_for_every_fourth_draw"}]
    jobs = {
        "plain": recipe("plain", **TRAIN),
        "lora": recipe("lora", **TRAIN, lora={"r": 4}),
        "hicra": recipe("hicra", **TRAIN, credit=HICRA),
        "filtered": recipe("filtered", rewards=every_fourth, **pairs, **{"trainer.filter": filtering}),
        "whole": recipe("whole", **resumable),
        "part": recipe("part", **resumable),
        "evaluated": recipe("evaluated", rewards=outcome, evaluation={"task": tasks, **EVALUATION}),
        "gap": recipe("gap", engine={"max_logprob_gap": 1e-12}),
        "one rank's reward fails": recipe("half", rewards=[{"name": f"{HERE}:fails_on_first_draws"}], **pairs),
        "every reward fails": recipe("all", rewards=[{"name": f"{HERE}:always_fails"}], **pairs),
    }
    jobs = {name: {"recipe": recipe} for name, recipe in jobs.items()}
    # As after a crash between steps 2 and 4: the newest checkpoint is that of step 2, in the middle of a window.
    drop = str(part / "checkpoints" / "step-000004")
    jobs["resumed"] = {"recipe": jobs["part"]["recipe"], "resume": str(part), "drop": drop}
    return jobs


@pytest.fixture(scope="module")
def done(tmp_path_factory, tiny_model_dir):
    """All jobs, run in one pair of processes: starting them takes longer than the jobs do."""
    folder = tmp_path_factory.mktemp("two")
    launch(folder, _jobs(folder, tiny_model_dir))
    return folder


@pytest.mark.parametrize("job", ["plain", "lora"])
def test_two_processes_end_where_one_does(done, tmp_path, tiny_model_dir, job):
    assert [r["error"] for r in records(done, job)] == [None, None]
    assert {r["distributed_type"] for r in records(done, job)} == {"DistributedType.MULTI_CPU"}
    assert {r["engine"] for r in records(done, job)} == {"DistributedDataParallel"}
    lora = {"lora": {"r": 4}} if job == "lora" else {}
    one = in_one_process(tiny_recipe(tiny_model_dir, tmp_path, **TRAIN, **lora))
    two = torch.load(done / f"{job}.pt", weights_only=True)
    # Sums over processes are added in another order; Adam's normalisation makes most of it.
    assert moved_apart(two, one, plain_weights(tiny_model_dir)) < 1e-3


def test_each_process_trains_on_its_own_groups_and_metrics_count_all(done):
    folder = RunFolder(done / "plain" / "runs" / "run")
    ranks = [read_trajectories(folder.trajectories / f"step-000000-rank{r}.parquet") for r in (0, 1)]
    assert [sorted({t.group for t in rank}) for rank in ranks] == [[0, 1], [2, 3]]
    tokens = [t.num_tokens for rank in ranks for t in rank]
    assert folder.read_metrics()[0]["tokens/mean"] == pytest.approx(sum(tokens) / len(tokens))


def test_what_grams_tell_is_counted_over_all_processes(done):
    assert [r["error"] for r in records(done, "hicra")] == [None, None]
    folder = RunFolder(done / "hicra" / "runs" / "run")
    ranks = [read_trajectories(folder.trajectories / f"step-000001-rank{r}.parquet") for r in (0, 1)]
    planning, logprobs, entropies = (
        np.concatenate([np.array(values(t)) for rank in ranks for t in rank])
        for values in (lambda t: t.tracks["planning"], lambda t: t.logprobs, lambda t: t.tracks["entropy"])
    )
    marked = [sum(sum(t.tracks["planning"]) for t in rank) for rank in ranks]
    assert marked[0] != marked[1], "one process's numbers would be those of all"
    line, planning = folder.read_metrics()[1], planning.astype(bool)
    assert line["planning/share"] == pytest.approx(planning.mean())
    assert line["planning/perplexity"] == pytest.approx(np.exp(-logprobs[planning].mean()))
    assert line["execution/entropy_nats"] == pytest.approx(entropies[~planning].mean())


def test_replacing_groups_on_one_process_alone_neither_hangs_nor_parts_the_cursors(done):
    """Draws 0, 4, 8, ... are flat. First window: 0 | 1 and 2 | 3, rank 0 draws 4, then 5. Second: 6 | 7 and 8 | 9."""
    seen = records(done, "filtered")
    assert [r["error"] for r in seen] == [None, None]
    assert seen[0]["cursors"] == seen[1]["cursors"] == [6, 11]
    folder = RunFolder(done / "filtered" / "runs" / "run")
    groups = {
        (step, rank): {t.group for t in read_trajectories(folder.trajectories / f"step-{step:06d}-rank{rank}.parquet")}
        for step in (0, 1) for rank in (0, 1)
    }  # fmt: skip
    assert groups == {(0, 0): {1, 5}, (0, 1): {2, 3}, (1, 0): {6, 7}, (1, 1): {9, 10}}
    assert [line["groups/replaced"] for line in folder.read_metrics()] == [2, 1]


def test_a_resumed_run_is_the_run_that_was_not_stopped(done):
    assert [r["error"] for r in records(done, "resumed")] == [None, None]
    whole, resumed = (torch.load(done / f"{name}.pt", weights_only=True) for name in ("whole", "resumed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    folders = [RunFolder(done / name / "runs" / "run") for name in ("whole", "part")]
    lines = [
        [
            {k: v for k, v in line.items() if not k.startswith(("seconds", "time", "step_time"))}
            for line in f.read_metrics()
        ]
        for f in folders
    ]
    assert lines[0] == lines[1] and len(lines[0]) == 4
    names = [sorted(path.name for path in f.trajectories.iterdir()) for f in folders]
    assert names[0] == names[1] and len(names[0]) == 4


def test_resuming_with_another_number_of_processes_is_refused_and_cuts_nothing(done, tiny_model_dir):
    folder = done / "part" / "runs" / "run"
    recipe = tiny_recipe(tiny_model_dir, done / "part", **{"trainer.steps": 9})
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(UserError, match=r"written by 2 process\(es\), not 1: resume with as many as wrote it"):
        run.train(recipe, resume=folder, progress=False)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_an_evaluation_is_shared_and_asks_each_problem_once(done, tmp_path, tiny_model_dir):
    assert [r["error"] for r in records(done, "evaluated")] == [None, None]
    folder = RunFolder(done / "evaluated" / "runs" / "run")
    assert sorted(path.name for path in folder.evaluations.iterdir()) == [f"step-00000{k}" for k in (0, 1, 2)]
    task = {"name": "jsonl", "path": str(tmp_path / "tasks.jsonl")}
    alone = tiny_recipe(
        tiny_model_dir, tmp_path, rewards=[{"name": f"{HERE}:even_length"}], evaluation={"task": task, **EVALUATION}
    )
    one = RunFolder(run.train(alone, progress=False))
    for step in ("step-000000", "step-000001", "step-000002"):
        result, expected = (load_result(f.evaluations / step) for f in (folder, one))
        asked = [(s.question, s.sample) for s in result.samples]
        assert asked == [(q, k) for q in result.questions for k in (0, 1)] and len(result.questions) == 5
        assert [s.text for s in result.samples] == [s.text for s in expected.samples]
    lines = [line for line in folder.read_metrics() if "eval/accuracy" in line]
    assert [line["step"] for line in lines] == [0, 1, 2]


def test_processes_stop_together(done):
    gaps = [r["error"] for r in records(done, "gap")]
    assert gaps[0] == gaps[1] and "engine and trainer disagree" in gaps[0]
    failures = [r["error"] for r in records(done, "every reward fails")]
    assert failures[0] == failures[1] and "failed on all 8 trajectories" in failures[0]


def test_a_reward_that_fails_on_one_process_alone_does_not_stop_the_run(done):
    assert [r["error"] for r in records(done, "one rank's reward fails")] == [None, None]
    lines = RunFolder(done / "half" / "runs" / "run").read_metrics()
    assert [line["error_share"] for line in lines] == [0.5, 0]
