"""A run that is stopped and resumed is the run that was not stopped."""

import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cib_rl.errors import UserError
from cib_rl.recipe_io import load_recipe
from cib_rl.trainers import run
from cib_rl.trainers.checkpoint import find_checkpoint, verify_checkpoint
from cib_rl.trajectory_io import read_trajectories
from tests.trainers.support import HERE, RandomEngine, tiny_recipe

pytestmark = [pytest.mark.trl]

TIMINGS = ("seconds/", "time", "step_time", "train_", "profiling")
LAYOUTS = {
    "plain": {},
    "mid-window": {"trainer.steps_per_window": 2},
    "two iterations": {"trainer.steps_per_window": 2, "trainer.num_iterations": 2},
    "filtering": {
        "trainer.filter": {"zero_variance": "outcome", "max_extra_groups": 2},
        "sampling.group_size": 2,
        "trainer.prompts_per_step": 4,
    },
    "accumulation and KL": {"trainer.micro_batch_size": 4, "trainer.kl": 0.01},
    "LoRA with dropout": {"lora": {"r": 4, "dropout": 0.2}},
    "LoRA and a reference": {"lora": {"r": 4}, "trainer.kl": 0.1},
}


def _metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(TIMINGS)} for line in lines]


def _assert_same_run(folder, other, last):
    a, b = (f / "checkpoints" / f"step-{last:06d}" for f in (folder, other))
    names = [p.name for p in a.glob("*.safetensors")]
    assert names
    for name in names:
        left, right = load_file(a / name), load_file(b / name)
        assert set(left) == set(right)
        for key in left:
            assert torch.equal(left[key], right[key]), key
    assert _metrics(folder) == _metrics(other)
    for path in sorted((folder / "trajectories").glob("*.parquet")):
        left, right = read_trajectories(path), read_trajectories(other / "trajectories" / path.name)
        assert [(t.group, t.member, t.completion_ids, t.rewards) for t in left] == [
            (t.group, t.member, t.completion_ids, t.rewards) for t in right
        ]
        np.testing.assert_array_equal(
            np.concatenate([t.tracks["advantage"] for t in left]),
            np.concatenate([t.tracks["advantage"] for t in right]),
        )
    assert sorted(p.name for p in (folder / "trajectories").iterdir()) == sorted(
        p.name for p in (other / "trajectories").iterdir()
    )


def _recipe(tiny_model_dir, folder, **changes):
    folder.mkdir(exist_ok=True)
    # 16 rows, 2 to 4 of them a step: a run of 10 steps is in its second epoch, or third, when it ends.
    return tiny_recipe(
        tiny_model_dir,
        folder,
        **{
            "trainer.steps": 10,
            "trainer.save_every": 5,
            "deterministic": True,
            "engine": {"max_logprob_gap": 100.0},
            **changes,
        },
    )


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_ten_steps_are_five_plus_a_resumed_five(tmp_path, tiny_model_dir, monkeypatch, layout):
    """Weights, optimizer effects, metrics and trajectories, to the last digit; the model itself samples."""
    whole = run.train(_recipe(tiny_model_dir, tmp_path / "whole", **LAYOUTS[layout]), progress=False)
    recipe = _recipe(tiny_model_dir, tmp_path / "parts", **LAYOUTS[layout])
    _killed_after(recipe, tmp_path / "parts", step=7)
    resumed = run.train(recipe, resume=tmp_path / "parts" / "runs" / "run", progress=False)
    _assert_same_run(whole, resumed, last=10)


def _killed_after(recipe, folder, step):
    """Train in another process and kill it (SIGKILL) when `step` steps are logged."""
    (folder / "recipe.json").write_text(json.dumps(recipe.model_dump(mode="json")))
    script = f"""
import json, os, signal, sys
from pathlib import Path
from transformers import TrainerCallback
from cib_rl.recipe import Recipe
from cib_rl.trainers import run
import torch
torch.set_num_threads({torch.get_num_threads()})

class Kill(TrainerCallback):
    def on_log(self, args, state, control, **_):
        if state.global_step == {step}:
            os.kill(os.getpid(), signal.SIGKILL)

recipe = Recipe.model_validate(json.loads(Path({str(folder / "recipe.json")!r}).read_text()))
run.train(recipe, callbacks=[Kill()], progress=False)
"""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[2])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr[-4000:]


def _short_run(tiny_model_dir, folder, monkeypatch, **changes):
    monkeypatch.setattr(run, "make_engine", lambda *_: RandomEngine())
    recipe = tiny_recipe(tiny_model_dir, folder, **{"trainer.steps": 2, "trainer.save_every": 1, **changes})
    return recipe, run.train(recipe, progress=False)


COUNTS = """
from pathlib import Path
from cib_rl.plugin import reward

@reward("counts", kind="outcome")
class Counts:
    calls = 0

    def __call__(self, trajectories):
        self.calls += 1
        if self.calls > 2 and Path({down!r}).exists():
            {mistake}
        return [float(t.num_tokens % 2 == 0) + 0.01 * self.calls * t.num_tokens for t in trajectories]

    def state_dict(self):
        return {{"calls": self.calls}}

    def load_state_dict(self, state):
        self.calls = state["calls"]
"""


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ('raise RuntimeError("the grader is down")', "the grader is down"),
        ('trajectories[0].answer = "x"', "'counts' changed `answer`"),
        ("return [1.0] * len(trajectories)", "nothing to learn from in this window"),
    ],
    ids=["fails", "changes what it is given", "tells nothing"],
)
def test_a_window_that_cannot_be_made_stops_the_run_with_a_checkpoint_from_which_it_goes_on(
    mistake, words, tmp_path, tiny_model_dir, monkeypatch
):
    monkeypatch.setattr(run, "make_engine", lambda *_: RandomEngine())
    down = tmp_path / "down"
    (tmp_path / "counts.py").write_text(COUNTS.format(down=str(down), mistake=mistake))
    changes = {
        "trainer.steps": 4, "deterministic": True, "rewards": [{"name": str(tmp_path / "counts.py")}],
        "trainer.filter.zero_variance": "outcome", "trainer.filter.max_extra_groups": 0,
    }  # fmt: skip

    def recipe(name):
        (tmp_path / name).mkdir()
        return tiny_recipe(tiny_model_dir, tmp_path / name, **changes)

    whole = run.train(recipe("whole"), progress=False)
    down.touch()
    stopped = recipe("stopped")
    folder = tmp_path / "stopped" / "runs" / "run"
    with pytest.raises(UserError, match=rf"{words}.*--resume") as failure:
        run.train(stopped, progress=False)
    assert str(folder) in str(failure.value) and find_checkpoint(folder).name == "step-000002"
    down.unlink()
    assert run.train(stopped, resume=folder, progress=False) == folder
    _assert_same_run(whole, folder, last=4)


def test_resuming_a_finished_run_says_so(tmp_path, tiny_model_dir, monkeypatch):
    recipe, folder = _short_run(tiny_model_dir, tmp_path, monkeypatch)
    with pytest.raises(UserError, match=r"end of a finished run \(2 of 2 steps\)"):
        run.train(recipe, resume=folder, progress=False)


def test_a_finished_run_goes_on_when_more_steps_are_asked_for(tmp_path, tiny_model_dir, monkeypatch):
    recipe, folder = _short_run(tiny_model_dir, tmp_path, monkeypatch)
    recipe.trainer.steps = 3
    assert run.train(recipe, resume=folder, progress=False) == folder
    assert [line["step"] for line in _metrics(folder)] == [1, 2, 3]


def test_a_run_that_goes_on_with_another_recipe_says_so_and_keeps_both(tmp_path, tiny_model_dir, monkeypatch, capsys):
    recipe, folder = _short_run(tiny_model_dir, tmp_path, monkeypatch)
    before = (folder / "recipe.yaml").read_text()
    recipe.trainer.steps, recipe.rewards[0].weight = 3, 0.5
    run.train(recipe, resume=folder)
    said = capsys.readouterr().out
    assert "from step 2 with another recipe" in said
    assert "trainer.steps: 2 → 3" in said and "rewards.0.weight: 1.0 → 0.5" in said
    assert load_recipe(folder / "recipe.yaml") == recipe
    assert (folder / "recipe-to-step-000002.yaml").read_text() == before
    recipe.trainer.steps = 4
    run.train(recipe, resume=folder, progress=False)
    assert load_recipe(folder / "recipe-to-step-000003.yaml").trainer.steps == 3


def test_a_run_that_goes_on_with_its_own_recipe_leaves_it_as_it_is(tmp_path, tiny_model_dir, monkeypatch, capsys):
    recipe, folder = _short_run(tiny_model_dir, tmp_path, monkeypatch)
    shutil.rmtree(folder / "checkpoints" / "step-000002")
    run.train(recipe, resume=folder)
    assert "another recipe" not in capsys.readouterr().out and not list(folder.glob("recipe-*"))


def test_resuming_from_an_earlier_checkpoint_sets_the_later_ones_aside(tmp_path, tiny_model_dir, monkeypatch):
    recipe, folder = _short_run(tiny_model_dir, tmp_path, monkeypatch)
    checkpoints = folder / "checkpoints"
    (checkpoints / "step-000002" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="resume from another one"):
        run.train(recipe, resume=folder, progress=False)
    recipe.trainer.save_every = 0  # saved at the end of step 2 alone
    run.train(recipe, resume=checkpoints / "step-000001", progress=False)
    assert {p.name for p in checkpoints.iterdir()} == {"step-000001", "step-000002", "abandoned-step-000002"}
    assert verify_checkpoint(find_checkpoint(folder)) == 2
    assert [line["step"] for line in _metrics(folder)] == [1, 2]


def test_resuming_with_a_tied_head_warns_of_no_missing_weights(tmp_path, tiny_model_dir, monkeypatch, caplog):
    """A tied head is saved once; transformers would report the second name as missing."""
    recipe, folder = _short_run(tiny_model_dir, tmp_path, monkeypatch)
    recipe.trainer.steps = 3
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "propagate", True)
    run.train(recipe, resume=folder, progress=False)
    assert "missing keys" not in caplog.text


def test_evaluations_after_the_checkpoint_are_made_again(tmp_path, tiny_model_dir, monkeypatch):
    task = {"name": "jsonl", "path": str(tmp_path / "tasks.jsonl")}
    changes = {"evaluation": {"task": task, "problems": 2, "every": 1}, "logging": {"tensorboard": True}}
    recipe, folder = _short_run(tiny_model_dir, tmp_path, monkeypatch, **changes)
    shutil.rmtree(folder / "checkpoints" / "step-000002")  # as after a crash in step 2, its evaluation done
    run.train(recipe, resume=folder, progress=False)
    assert sorted(path.name for path in (folder / "evaluations").iterdir()) == [f"step-00000{k}" for k in (0, 1, 2)]
    assert [line["step"] for line in _metrics(folder) if "eval/accuracy" in line] == [0, 1, 2]


def test_a_damaged_or_unfinished_checkpoint_is_never_resumed(tmp_path, tiny_model_dir, monkeypatch):
    _, folder = _short_run(tiny_model_dir, tmp_path, monkeypatch)
    newest = folder / "checkpoints" / "step-000002"
    assert find_checkpoint(folder) == newest and verify_checkpoint(newest) == 2
    (newest / "model.safetensors").write_bytes(b"x" * (newest / "model.safetensors").stat().st_size)
    with pytest.raises(UserError, match=r"model.safetensors is missing or damaged"):
        verify_checkpoint(newest)
    (newest / "manifest.json").unlink()
    assert find_checkpoint(folder).name == "step-000001"


def test_an_output_folder_in_use_is_left_alone(tmp_path, tiny_model_dir, monkeypatch):
    recipe, folder = _short_run(tiny_model_dir, tmp_path, monkeypatch)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    with pytest.raises(UserError, match="is in use"):
        run.train(recipe, progress=False)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_a_full_disk_leaves_the_previous_checkpoint_whole(tmp_path, tiny_model_dir, monkeypatch):
    """The limit on file size makes the operating system refuse the write, as a full disk would."""
    from cib_rl.trainers.checkpoint import CheckpointMixin

    saved = CheckpointMixin._save_checkpoint

    def limited(self, model, trial):
        if self.state.global_step == 2:
            before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
            try:
                saved(self, model, trial)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
                signal.signal(signal.SIGXFSZ, before)
        else:
            saved(self, model, trial)

    monkeypatch.setattr(CheckpointMixin, "_save_checkpoint", limited)
    with pytest.raises(UserError, match=r"cannot write checkpoint .*step-000002.*earlier checkpoints are untouched"):
        _short_run(tiny_model_dir, tmp_path, monkeypatch)
    checkpoints = tmp_path / "runs" / "run" / "checkpoints"
    assert [p.name for p in checkpoints.iterdir()] == ["step-000001"]
    assert verify_checkpoint(checkpoints / "step-000001") == 1


def test_only_the_newest_checkpoints_are_kept(tmp_path, tiny_model_dir, monkeypatch):
    _, folder = _short_run(tiny_model_dir, tmp_path, monkeypatch, **{"trainer.steps": 4, "trainer.keep_checkpoints": 2})
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step-000003", "step-000004"]
