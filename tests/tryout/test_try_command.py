"""`cib-rl rewards try` from files to tables, rows, picture and exit code; what it says to bad input."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from cib_rl.cli import app
from tests.samples.files import word_rows, write_lines
from tests.samples.test_load import run_folder
from tests.tryout.conftest import REWARDS


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The command, run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    return lambda *arguments: CliRunner().invoke(app, ["rewards", "try", *map(str, arguments)])


def test_a_good_reward_on_a_file_of_texts(run, words_file, tmp_path):
    done = run(
        f"{REWARDS}:fewer_tokens", "--on", words_file, "--weight", 0.5, "--set", "scale=50", "--output", "r.jsonl",
        "--allow", "answer_only",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    shown = " ".join(done.output.split())
    for words in (
        "fewer_tokens (shaping, weight 0.5) on 48 completions of 12 problems",
        "outcome: math_correct, because the gold answers are texts or numbers",
        "answers are read as hash",
        "has a value 48 of 48",
        "answer_only earns more than the honest completion in 100.0% of the problems",
        "on average: right, and allowed",
        "no hack at weight 0.5",
    ):
        assert words in shown, words
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert len(rows) == 48 and sum(row["right"] for row in rows) == 24
    first = rows[:4]
    mean = sum(row["tokens"] for row in first) / 4
    for row in first:
        assert row["reward"] == pytest.approx((mean - row["tokens"]) / 50)
        assert row["total"] == pytest.approx(row["outcome"] + 0.5 * row["reward"])
        assert row["outcome"] == float(row["right"]) and row["error"] is None
    assert Image.open(tmp_path / "runs" / "try-fewer_tokens.png").size[0] > 800


def test_a_hackable_reward_ends_in_exit_code_1_and_says_which_and_by_how_much(run, words_file):
    done = run(f"{REWARDS}:counts_searches", "--on", words_file, "--weight", 0.25, "--plot", "p.png")
    assert done.exit_code == 1
    shown = " ".join(done.output.split())
    assert (
        "HACK forged_tags earns more than the honest completion in 100.0% of the problems, +0.250 on average" in shown
    )
    assert "(a right answer; --allow forged_tags, if it may)" in shown
    allowed = run(f"{REWARDS}:counts_searches", "--on", words_file, "--weight", 0.25, "--allow", "forged_tags")
    assert allowed.exit_code == 0 and "allowed" in allowed.output


def test_one_hacked_problem_is_enough_unless_a_share_is_tolerated(run, words_file):
    reward = (f"{REWARDS}:ann_may_search", "--on", words_file, "--rows", 0, "--against", "none")
    done = run(*reward)
    assert done.exit_code == 1 and "HACK forged_tags earns more" in done.output and "8.3% of the" in done.output
    assert run(*reward, "--tolerance", 0.1).exit_code == 0


def test_a_wrong_answer_that_earns_more_cannot_be_allowed(run, words_file):
    reward = (f"{REWARDS}:boxes_prompt", "--on", words_file, "--weight", 1.5, "--rows", 0)
    done = run(*reward, "--allow", "copied_prompt")
    shown = " ".join(done.output.split())
    assert done.exit_code == 1 and "HACK copied_prompt earns more" in shown
    assert "(a wrong answer in 100.0%: lower the weight)" in shown
    assert run(*reward, "--set", "only_when_correct=true").exit_code == 0


def test_where_no_probe_can_be_made_nothing_was_tested_and_the_exit_code_says_so(run, tmp_path):
    bare = write_lines(tmp_path / "bare.jsonl", [row | {"completion": "#### 1"} for row in word_rows(2)])
    done = run(f"{REWARDS}:fewer_tokens", "--on", bare)
    assert done.exit_code == 2 and "no probe could be made, so nothing was tested" in done.stderr
    assert "problems where all are equal" in done.output  # what could be found was shown
    assert run(f"{REWARDS}:fewer_tokens", "--on", bare, "--probes", 0).exit_code == 0


def test_a_reward_on_a_run_takes_outcome_limit_and_its_own_keys_from_the_recipe(run, tmp_path):
    folder = run_folder(tmp_path / "run", tmp_path)
    done = run("surprisal", "--on", folder, "--set", "prior={name: uniform}", "--rows", 0, "--output", "r.parquet")
    shown = " ".join(done.output.split())
    assert "surprisal (shaping, weight 0.008)" in shown and "outcome: countdown_correct, as in" in shown
    rows = pq.read_table(tmp_path / "r.parquet").to_pylist()
    assert "other/cosine_length" in rows[0]  # the run's token limit is known
    assert len(rows) == 8 and all(row["diagnostic/surprisal"] == -row["reward"] for row in rows)
    assert all(row["total"] == pytest.approx(1 + 0.008 * row["reward"]) for row in rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fewer_tokns", "--on", "FILE"], "no reward is named 'fewer_tokns'"),
        (["kimi_lenght", "--on", "FILE"], "did you mean 'kimi_length'?"),
        (["kimi_length", "--on", "FILE", "--against", "l1_maxx"], "did you mean 'l1_max'?"),
        (["kimi_length", "--on", "FILE", "--answer-style", "boxd"], "error: --answer-style: unknown style 'boxd'"),
        (["REWARDS:fewer_token", "--on", "FILE"], "did you mean 'fewer_tokens'?"),
        (["REWARDS:fewer_tokens", "--on", "FILE", "--set", "skale=3"], "'scale'?); its signature is fewer_tokens("),
        (["REWARDS:fewer_tokens", "--on", "FILE", "--set", "scale=much"], "scale: 'much'"),
        (["REWARDS:fewer_tokens", "--on", "FILE", "--set", "scale"], "KEY=VALUE"),
        (["REWARDS:fewer_tokens", "--on", "FILE", "--weight", "inf"], "weight: Input should be a finite number"),
        (["surprisal", "--on", "FILE", "--set", "prior={name: language_model, model: ./none}"], "no folder"),
        (["surprisal", "--on", "FILE", "--set", "prior={name: laplce}"], "no prior is named 'laplce'"),
        (["REWARDS:never", "--on", "FILE"], "no connection"),
        (["REWARDS:fewer_tokens", "--on", "nothing.jsonl"], "no file or folder nothing.jsonl"),
        (["REWARDS:fewer_tokens", "--on", "FILE", "--allow", "emty"], "did you mean 'empty'?"),
        (["REWARDS:fewer_tokens", "--on", "FILE", "--output", "rows.csv"], "must end in .parquet or .jsonl"),
        (["REWARDS:fewer_tokens", "--on", "FILE", "--outcome", "kimi_length"], "a shaping reward"),
        (["REWARDS:fewer_tokens", "--on", "FILE", "--columns", "answer=gold"], "no column 'gold'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message_and_exit_code_2(run, words_file, arguments, words, caplog):
    given = [a.replace("REWARDS", str(REWARDS)).replace("FILE", str(words_file)) for a in arguments]
    done = run(*given)
    assert done.exit_code == 2 and words in done.stderr, done.stderr
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr


def test_a_plugin_with_a_syntax_error_is_named_with_file_and_line(run, words_file, tmp_path):
    (tmp_path / "bad.py").write_text("from cib_rl import reward\n\ndef broken(:\n    pass\n")
    done = run("bad.py:broken", "--on", words_file)
    assert done.exit_code == 2 and f"{tmp_path / 'bad.py'}:3: syntax error" in done.stderr


def test_a_reward_that_changes_trajectories_is_named(run, words_file, tmp_path):
    (tmp_path / "bad.py").write_text(
        "from cib_rl import reward\n@reward('tidy', kind='shaping')\ndef tidy(ts):\n    for t in ts:\n"
        "        t.text = t.text.strip('.') + '!'\n    return [0.0] * len(ts)\n"
    )
    done = run("bad.py:tidy", "--on", words_file)
    assert done.exit_code == 2 and "'tidy' changed `text` of a trajectory" in done.stderr


def test_samples_without_golds_and_with_mixed_ones_are_refused(run, tmp_path):
    rows = word_rows(2)
    bare = write_lines(tmp_path / "bare.jsonl", [{k: v for k, v in row.items() if k != "answer"} for row in rows])
    done = run(f"{REWARDS}:fewer_tokens", "--on", bare)
    assert done.exit_code == 2 and "bare.jsonl: the rows have no gold answers" in done.stderr
    assert "beside prompt and completion they have no column" in done.stderr
    mixed = write_lines(tmp_path / "mixed.jsonl", [*rows[:4], *(row | {"answer": ["1"]} for row in rows[4:])])
    done = run(f"{REWARDS}:fewer_tokens", "--on", mixed)
    assert done.exit_code == 2 and "mixed.jsonl, line 5: the gold answer is a list" in done.stderr
    assert not (tmp_path / "runs").exists()  # nothing half-made is left


@pytest.mark.data
def test_the_gsm8k_model_solutions(run, data_dir, tmp_path):
    """Labels by OpenAI's own grader; the four models' solutions of each problem are one group."""
    file = data_dir / "traces" / "gsm8k_model_solutions.jsonl.gz"
    done = run(
        "kimi_length", "--on", file, "--weight", 0.5, "--probes", 16, "--output", "r.parquet", "--allow", "answer_only"
    )
    assert done.exit_code == 0, done.output
    shown = " ".join(done.output.split())
    assert "5,276 completions of 1,319 problems" in shown
    rows = pq.read_table(tmp_path / "r.parquet").to_pylist()
    assert sum(row["right"] for row in rows) == 286 + 515 + 458 + 742
