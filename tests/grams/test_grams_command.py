"""`cib-rl grams`: sources, refusals, what is written and shown. The encoder is a stand-in; test_mine has a real one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from cib_rl.cli import app
from cib_rl.errors import UserError
from cib_rl.grams import embed
from cib_rl.grams.corpus import right_solutions

RIGHT, WRONG = "let me check that . <answer>{}</answer>", "all of it fails . <answer>0</answer>"


@pytest.fixture(autouse=True)
def encoder(monkeypatch):
    """Every gram a direction of its own."""
    monkeypatch.setattr(embed, "sentence_encoder", lambda model: lambda texts: np.eye(len(texts)))


@pytest.fixture
def graded(tmp_path):
    rows = [
        {"prompt": f"q{i}", "completion": t.format(i + 1), "answer": str(i + 1)}
        for i in range(6)
        for t in (RIGHT, WRONG)
    ]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "s.jsonl"


def run(*arguments):
    return CliRunner().invoke(app, ["grams", *map(str, arguments)])


def test_only_right_completions_are_mined_and_the_file_says_how(graded, tmp_path):
    out = tmp_path / "new" / "g.json"
    result = run("mine", "--from", graded, "--out", out, "--top", 1, "--add", "wait a moment", "--ban", "let me check")
    assert result.exit_code == 0, result.output
    content = json.loads(out.read_text())
    grams = [entry["gram"] for entry in content["grams"]]
    assert sorted(grams) == ["let me check that", "me check that", "wait a moment"]
    assert content["settings"]["solutions"] == 6 and content["settings"]["sources"] == ["s.jsonl"]
    shown = run("show", out)
    assert "me check that" in shown.output and "3 grams" in shown.output


def test_texts_and_columns_are_taken_as_right(graded, tmp_path):
    (tmp_path / "t.txt").write_text("one\nsolution\n\nanother one\n\n")
    assert right_solutions([tmp_path / "t.txt"]) == ["one\nsolution", "another one"]
    assert len(right_solutions([graded], column="completion")) == 12
    assert len(right_solutions([graded, tmp_path / "t.txt"])) == 8


def test_what_cannot_be_mined_is_refused_by_name(graded, tmp_path):
    with pytest.raises(UserError, match=r"s.jsonl, line 1: column 'solution' holds no text; the row has prompt"):
        right_solutions([graded], column="solution")
    (tmp_path / "t.txt").write_text("\n\n")
    with pytest.raises(UserError, match=r"no right solution in .*t.txt"):
        right_solutions([tmp_path / "t.txt"])
    with pytest.raises(UserError, match=r"none.txt: cannot be read"):
        right_solutions([tmp_path / "none.txt"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--longest", "2"], "--longest 2 is below --shortest 3"), ([], "exists already; nothing is overwritten")],
)
def test_bad_options_change_nothing(graded, tmp_path, arguments, says):
    out = tmp_path / "g.json"
    if not arguments:
        out.write_text("mine")
    result = run("mine", "--from", graded, "--out", out, *arguments)
    assert result.exit_code != 0
    assert says in " ".join(result.output.split())
    assert not out.exists() or out.read_text() == "mine"


def test_a_placebo_is_drawn_beside_the_grams_and_the_file_says_how(graded, tmp_path):
    (tmp_path / "g.txt").write_text("let me check\nnever said\n")
    out = tmp_path / "p.json"
    result = run("placebo", "--like", tmp_path / "g.txt", "--from", graded, "--column", "completion", "--out", out)
    assert result.exit_code == 0, result.output
    content = json.loads(out.read_text())
    (entry,) = content["grams"]
    assert entry["gram"] in ("all of it", "of it fails") and entry["like"] == "let me check"
    assert content["settings"]["placebo_of"] == "g.txt" and content["settings"]["without_partner"] == 1
    assert "1 placebo grams" in result.output
    again = run("placebo", "--like", tmp_path / "g.txt", "--from", graded, "--column", "completion", "--out", out)
    assert again.exit_code != 0 and "nothing is overwritten" in " ".join(again.output.split())


def test_the_shipped_grams_are_shown_by_name():
    result = run("show", "shipped")
    assert result.exit_code == 0, result.output
    assert all(kind in result.output for kind in ("deduction", "branching", "backtracking", "verification"))


def test_hits_counts_solutions_words_and_grams(tmp_path):
    """Words are 6 with the full stop, and 3: `let me check` covers 3 + 3 of 9."""
    (tmp_path / "s.txt").write_text("Let me check that now.\n\nlet me check\n\n")
    (tmp_path / "g.txt").write_text("let me check\nwait\n")
    result = run("hits", tmp_path / "g.txt", "--from", tmp_path / "s.txt")
    assert result.exit_code == 0, result.output
    assert "2  let me check" in result.output
    assert "1 of 2 grams found; in 2 of 2 solutions (100.0%), on 66.67% of 9 words" in result.output
