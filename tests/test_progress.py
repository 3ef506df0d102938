"""What one sees of a run while it goes: bars in a terminal, plain lines in a log."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from cib_rl.progress import RunProgress
from cib_rl.trainers import run
from tests.trainers.support import tiny_recipe


def _log() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=120), out


def test_a_log_file_gets_a_line_now_and_then_and_one_at_the_end() -> None:
    console, out = _log()
    with RunProgress(console, every=1000).track("training", 3) as bar:
        bar.update(1, "accuracy 50%")
        bar.update(2, "accuracy 60%")
        bar.update(3, "accuracy 70%")
    assert re.fullmatch(r"training 3/3, 0:00:00 spent, 0:00:00 left, accuracy 70%\n", out.getvalue())


def test_the_time_left_counts_from_where_a_resumed_run_began(monkeypatch: pytest.MonkeyPatch) -> None:
    console, out = _log()
    now = [0.0]
    monkeypatch.setattr("cib_rl.progress.time.monotonic", lambda: now[0])
    with RunProgress(console, every=5).track("training", 100, done=50) as bar:
        now[0] = 10.0
        bar.update(60)  # 10 steps in 10 s: 40 more take 40 s
        now[0] = 12.0
        bar.update(62)  # too soon for another line
    assert out.getvalue() == "training 60/100, 0:00:10 spent, 0:00:40 left\n"


def test_a_terminal_shows_two_bars_at_once_and_keeps_the_training() -> None:
    out = io.StringIO()
    progress = RunProgress(Console(file=out, force_terminal=True, width=120))
    with progress.track("training", 2, keep=True) as training:
        training.update(1, "accuracy 50%")
        with progress.track("evaluation", 10) as evaluation:
            evaluation.update(5)
            assert progress.bars is not None
            assert [task.description for task in progress.bars.tasks] == ["training", "evaluation"]
        assert [task.description for task in progress.bars.tasks] == ["training"]
    assert progress.bars is None  # the terminal is given back
    assert out.getvalue().rfind("training") > out.getvalue().rfind("evaluation")  # what stays on the screen


def test_training_and_each_evaluation_tell_how_far_they_are(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = {"task": {"name": "countdown", "split": "heldout"}, "problems": 3}
    run.train(tiny_recipe(tiny_model_dir, tmp_path, evaluation=evaluation), progress=True)
    lines = [line.split(",")[0] for line in capsys.readouterr().out.splitlines() if " left" in line]
    assert [line for line in lines if line.startswith("evaluation")] == ["evaluation 3/3"] * 2
    assert lines[-1].startswith(("training", "evaluation")) and any(line.startswith("training") for line in lines)
