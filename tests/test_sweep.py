"""Sweeps: the grid, the state on disk, resuming, the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cib_rl import sweep as module
from cib_rl.errors import RecipeError, UserError
from cib_rl.sweep import make_points, sweep
from cib_rl.sweep_report import result_of

GRID = ["rewards.surprisal.weight=0,3e-3"]


@pytest.fixture
def trained(monkeypatch):
    """Replaces the training process: notes the arguments, writes metrics, and fails or is interrupted when told to."""
    calls = []
    outcomes = {}

    def train(arguments, log):
        sets = dict(text.split("=", 1) for text in arguments[arguments.index("--set") + 1 :: 2])
        folder = Path(json.loads(sets["output"])) / json.loads(sets["run_name"])
        calls.append(arguments)
        code = outcomes.pop(len(calls) - 1, 0)
        folder.mkdir(parents=True, exist_ok=True)
        if code == 0:
            weight = float(sets["rewards.surprisal.weight"])
            last = {"step": 40, "eval/accuracy": 0.7, "eval/tokens/mean": 100 - weight}
            lines = [{"step": 0, "eval/accuracy": 0.5}, last]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return code

    monkeypatch.setattr(module, "_train", train)
    return calls, outcomes


def test_points_are_all_combinations():
    points = make_points([*GRID, "engine.name=vllm,transformers"], "0,1")
    assert len(points) == 8 and len({point.name for point in points}) == 8
    assert points[0].overrides == {"rewards.surprisal.weight": 0, "engine.name": "vllm"} and points[1].seed == 1


@pytest.mark.parametrize(
    ("grid", "seeds", "words"),
    [
        (["a"], "0", "KEY=VALUE"),
        (["a="], "0", "KEY=VALUE"),
        (["a=1", "a=2"], "0", "given twice"),
        (["a=1,1"], "0", "are the same"),
        (["a=[1"], "0", "not a list"),
        ([], "x", "whole numbers"),
        ([], "", "empty"),
    ],
)
def test_malformed_grids_are_refused(grid, seeds, words):
    with pytest.raises(UserError, match=words):
        make_points(grid, seeds)


def test_a_sweep_runs_every_point_once_and_reports(trained, tmp_path, capsys):
    calls, _ = trained
    output = tmp_path / "sweep"
    sweep("quickstart", GRID, "0,1", ["trainer.steps=2"], output)
    assert len(calls) == 4
    assert (output / "plot.png").stat().st_size > 0
    table = (output / "table.csv").read_text().splitlines()
    assert table[0].startswith("rewards.surprisal.weight,seed,state,accuracy,tokens")
    assert table[4].startswith("0.003,1,done,0.7,99.997")
    assert "steps: 2" in (output / "recipe.yaml").read_text()
    sweep("quickstart", GRID, "0,1", ["trainer.steps=2"], output)
    assert len(calls) == 4  # nothing is trained again
    sweep("quickstart", [GRID[0] + ",0.01"], "0,1", ["trainer.steps=2"], output)
    assert len(calls) == 6  # the grid may grow


def test_failed_points_are_named_and_tried_again_under_a_new_name(trained, tmp_path):
    calls, outcomes = trained
    outcomes[1] = 2
    output = tmp_path / "sweep"
    with pytest.raises(UserError, match=r"1 of 2 points failed: rewards\.surprisal\.weight=0\.003,seed=0"):
        sweep("quickstart", GRID, "0", [], output)
    sweep("quickstart", GRID, "0", [], output)
    assert len(calls) == 3
    assert sorted(path.name for path in (output / "runs").iterdir()) == [
        "rewards.surprisal.weight=0,seed=0",
        "rewards.surprisal.weight=0.003,seed=0",
        "rewards.surprisal.weight=0.003,seed=0.2",
    ]


def test_an_interrupted_point_resumes_from_its_checkpoint(trained, tmp_path):
    calls, outcomes = trained
    outcomes[1] = 130
    output = tmp_path / "sweep"
    with pytest.raises(KeyboardInterrupt):
        sweep("quickstart", GRID, "0", [], output)
    run = output / "runs" / "rewards.surprisal.weight=0.003,seed=0"
    (run / "checkpoints" / "step-000005").mkdir(parents=True)
    (run / "checkpoints" / "step-000005" / "manifest.json").write_text("{}")
    sweep("quickstart", GRID, "0", [], output)
    assert "--resume" not in calls[1]
    assert len(calls) == 3 and calls[2][calls[2].index("--resume") + 1] == str(run)


def test_a_wrong_point_stops_the_sweep_before_anything_runs(trained, tmp_path):
    calls, _ = trained
    with pytest.raises(RecipeError, match=r"trainer\.steps"):
        sweep("quickstart", ["trainer.steps=1,x"], "0", [], tmp_path / "sweep")
    assert not calls and not (tmp_path / "sweep").exists()


def test_another_sweeps_folder_and_a_folder_in_use_are_refused(trained, tmp_path):
    calls, _ = trained
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="in use"):
        sweep("quickstart", GRID, "0", [], tmp_path / "used")
    sweep("quickstart", GRID, "0", [], tmp_path / "one")
    with pytest.raises(UserError, match="another recipe"):
        sweep("quickstart", GRID, "0", ["trainer.steps=9"], tmp_path / "one")
    assert len(calls) == 2 and (tmp_path / "used" / "thesis.tex").read_text() == "x"


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ("rewards.surprisal.wieght=0,1", "no keyword 'wieght'"),
        ("rewards.surprisal.prior.nmae=uniform,laplace", "'nmae'"),
        ("credit.group.flor=0.1,0.2", r"no keyword 'flor' \(did you mean 'floor'"),
    ],
)
def test_a_misspelt_key_of_a_plugin_stops_the_sweep_before_anything_runs(trained, tmp_path, grid, words):
    calls, _ = trained
    with pytest.raises(UserError, match=words):
        sweep("quickstart", [grid], "0", [], tmp_path / "sweep")
    assert not calls and not (tmp_path / "sweep").exists()


def test_what_a_failed_point_said_is_shown(trained, tmp_path, capsys, monkeypatch):
    def train(arguments, log):
        log.write_text("some noise\nerror: model: no folder nowhere\n")
        return 2

    monkeypatch.setattr(module, "_train", train)
    with pytest.raises(UserError, match="1 of 1 points failed"):
        sweep("quickstart", [], "0", [], tmp_path / "sweep")
    assert "  error: model: no folder nowhere\n" in capsys.readouterr().out


def test_points_are_told_apart_in_80_columns(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    sweep("quickstart", GRID, "0", [], tmp_path / "sweep")
    shown = "".join(line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if "│" in line)
    assert "rewards.surprisal.weight=0rewards.surprisal.weight=0.003" in shown


def test_a_row_holds_one_evaluation_and_nothing_else():
    before = {"step": 0, "eval/accuracy": 0.5, "eval/tokens/mean": 60.0, "eval/tokens/right": 40.0}
    training = {"step": 1, "accuracy": 0.9, "tokens/mean": 50.0, "tokens/right": 30.0}
    after = {"step": 1, "eval/accuracy": 0.0, "eval/tokens/mean": 64.0}  # nothing right: no tokens of right answers
    assert result_of([before, training, after]) == {"accuracy": 0.0, "tokens": 64.0}


def test_without_an_evaluation_the_last_training_steps_are_averaged():
    lines = [{"accuracy": step, "tokens/mean": 5.0} for step in range(20)]
    assert result_of(lines) == {"accuracy": sum(range(10, 20)) / 10, "tokens": 5.0}
