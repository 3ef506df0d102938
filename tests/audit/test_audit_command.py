"""`cib-rl audit` from files to numbers, words and picture; what it says to bad input."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from cib_rl.cli import app
from tests.samples.files import word_rows, write_lines
from tests.samples.test_load import run_folder


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The command, run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    return lambda *arguments: CliRunner().invoke(app, ["audit", *map(str, arguments)])


def test_an_audit_of_a_list_of_completions_per_row(run, tmp_path):
    rows = word_rows(24)
    rows = [
        {
            "prompt": rows[i]["prompt"],
            "completions": [r["completion"] for r in rows[i : i + 4]],
            "answer": rows[i]["answer"],
        }
        for i in range(0, len(rows), 4)
    ]
    path = write_lines(tmp_path / "samples.jsonl.gz", rows)
    done = run(path, "--prior", "uniform", "--output", "numbers.json")
    assert done.exit_code == 0, done.output
    shown = " ".join(done.output.split())
    assert "24 problems × 4 samples" in shown and "0 / 24 / 0 problems" in shown and "Worth a run" in shown
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["accuracy"]["value"] == 0.5 and numbers["groups_by_outcome"]["mixed"] == 24
    assert numbers["cost"]["agreement"]["value"] == 1.0 and numbers["verdict"][0].startswith("Worth a run")
    assert Image.open(tmp_path / "runs" / "audit.png").size[0] > 800


def test_an_audit_of_a_run_with_the_shipped_prior(run, tmp_path):
    done = run(run_folder(tmp_path / "run", tmp_path), "--prior", "shipped:quickstart/prior", "--plot", "p.png")
    assert done.exit_code == 0, done.output
    shown = " ".join(done.output.split())
    # Four problems, twice the same completion each: nothing to choose between.
    assert "4 / 0 / 0 problems" in shown and "Not enough to tell" in shown
    assert "surprisal, nats per token" in shown and (tmp_path / "p.png").is_file()


def test_all_wrong_samples_are_an_audit_too(run, tmp_path):
    path = write_lines(tmp_path / "w.jsonl", [row | {"answer": "7"} for row in word_rows(3)])
    done = run(path)
    assert done.exit_code == 0, done.output
    shown = " ".join(done.output.split())
    assert "No problem has two right answers" in shown and "no prior named" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.jsonl"], "no file or folder none.jsonl"),
        (["FILE", "--outcome", "math_corect"], "did you mean 'math_correct'?"),
        (["FILE", "--prior", "./none"], "no folder"),
        (["FILE", "--prior", "{model: x}"], "needs a name"),
        (["FILE", "--model", "shipped:quickstart/policy"], "has no tokens for"),
        (["FILE", "--answer-style", "bxed"], "unknown style 'bxed'"),
        (["FILE", "--columns", "answer"], "KEY=VALUE"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(run, tmp_path, arguments, words):
    path = write_lines(tmp_path / "w.jsonl", word_rows(2))
    done = run(*(a.replace("FILE", str(path)) for a in arguments))
    assert done.exit_code == 2 and words in done.stderr and done.stderr.startswith("error: "), done.stderr


@pytest.mark.data
def test_the_gsm8k_model_solutions(run, data_dir, tmp_path):
    done = run(data_dir / "traces" / "gsm8k_model_solutions.jsonl.gz", "--output", "numbers.json")
    assert done.exit_code == 0, done.output
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["problems"] == 1319 and numbers["per_problem"] == [4, 4]
    assert numbers["accuracy"]["value"] == (286 + 515 + 458 + 742) / 5276
    groups = numbers["groups_by_outcome"]
    assert groups["all_right"] + groups["mixed"] + groups["all_wrong"] == 1319
