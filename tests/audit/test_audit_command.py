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


def react_rows():
    """As in files of agents' conversations: answers at the end of an action, rows without golds, golds that differ."""
    rows = []
    for i, row in enumerate(word_rows(6)):
        thought, _, said = row["completion"].rpartition("\n#### ")
        talk = [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": f"Thought: {thought}\nAction: finish[{said}]"},
            {"role": "user", "content": "Observation: Episode finished"},
        ]
        rows.append({"id": f"r{i}", "question": row["prompt"], "messages": talk, "answers": [row["answer"]]})
    rows[2]["answers"] = ["unknown"]
    del rows[5]["answers"], rows[7]["answers"]
    return rows


def test_rows_without_golds_and_questions_with_several_are_audited_and_named(run, tmp_path):
    done = run(write_lines(tmp_path / "agent.jsonl.gz", react_rows()), "--output", "numbers.json")
    assert done.exit_code == 0, done.output
    shown = " ".join(done.output.split())
    assert "left out: 2 of 24 rows, which have no gold answer; the first is line 6" in shown
    assert "1 of 6 prompts stand with more than one gold answer (the first: line 1 and line 3)" in shown
    assert r"answers are read as regex:(?m)finish\[(.*)\], found in 100.0%" in shown  # as it must be typed
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["problems"] == 7 and numbers["per_problem"] == [1, 4]
    # Of each of the six questions two answers are right, but for the one whose right answer has lost its gold.
    assert numbers["accuracy"]["value"] == pytest.approx(11 / 22)


# Of the public traces: problems, samples per problem, what is said of golds. Golds of the last are the answers given.
TRACES = {
    "fireact_trajectories.jsonl.gz": (1808, [1, 3], "left out: 5 of 2,088 rows, which have no gold answer"),
    "gsm8k_socratic_test.jsonl": (1319, [1, 1], "the last line is read"),
    "ircot_cot_demos.jsonl": (89, [1, 1], "found in 100.0% of the completions"),
    "webdancer_think_search.jsonl": (200, [1, 1], "27 of 173 prompts stand with more than one gold answer"),
}


@pytest.mark.data
@pytest.mark.parametrize("name", TRACES)
def test_the_other_public_traces(run, data_dir, tmp_path, name):
    done = run(data_dir / "traces" / name, "--output", "numbers.json")
    assert done.exit_code == 0, done.output
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    problems, samples, words = TRACES[name]
    assert (numbers["problems"], numbers["per_problem"]) == (problems, samples)
    assert words in " ".join(done.output.split())


@pytest.mark.data
def test_the_gsm8k_model_solutions(run, data_dir, tmp_path):
    done = run(data_dir / "traces" / "gsm8k_model_solutions.jsonl.gz", "--output", "numbers.json")
    assert done.exit_code == 0, done.output
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["problems"] == 1319 and numbers["per_problem"] == [4, 4]
    assert numbers["accuracy"]["value"] == (286 + 515 + 458 + 742) / 5276
    groups = numbers["groups_by_outcome"]
    assert groups["all_right"] + groups["mixed"] + groups["all_wrong"] == 1319
