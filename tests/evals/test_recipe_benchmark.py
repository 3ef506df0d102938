"""A recipe as a benchmark: its held-out rows, its environment, its outcomes; the same numbers as in training."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from cib_rl.cli import app
from cib_rl.errors import UserError
from cib_rl.evals import runner
from cib_rl.evals.recipe_benchmark import from_recipe, recipe_of
from cib_rl.evals.result_io import load_result
from cib_rl.evals.runner import evaluate
from cib_rl.recipe_io import dump_recipe, load_recipe
from cib_rl.trainers import run

FEW = ["trainer.steps=1", "trainer.prompts_per_step=8", "evaluation.problems=30", "deterministic=true"]


@pytest.mark.trl
@pytest.mark.slow
def test_a_checkpoint_gets_the_numbers_that_its_training_had(tmp_path):
    """The run folder is the benchmark: environment, index, rows, kinds and seeds are those of its recipe."""
    folder = run.train(load_recipe("search/tiny", [*FEW, f"output={tmp_path}", "run_name=run"]), progress=False)
    trained = load_result(folder / "evaluations" / "step-000001")
    output = tmp_path / "after"
    command = ["eval", str(folder), "--benchmark", str(folder), "--deterministic", "--output", str(output)]
    command += ["--compare", str(folder / "evaluations" / "step-000000")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    again = load_result(output)
    assert again.questions == trained.questions and again.kinds == ["bridge", "comparison"]
    assert [(s.text, s.outcome, s.turns, s.tokens) for s in again.samples] == [
        (s.text, s.outcome, s.turns, s.tokens) for s in trained.samples
    ]
    assert "comparison: turns" in done.output and "bridge: accuracy" in done.output


def test_a_folder_does_not_take_the_place_of_a_shipped_benchmark(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("gsm8k", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(dump_recipe(load_recipe("search/tiny")))
    assert recipe_of("gsm8k") is None and recipe_of("mine").evaluation == load_recipe("search/tiny").evaluation


def test_what_a_recipe_leaves_open_and_what_the_command_line_changes(tmp_path):
    recipe = load_recipe("search/tiny")
    benchmark = from_recipe(recipe, "search/tiny")
    assert len(benchmark.rows(None, None)) == 600 and len(benchmark.rows(None, 7)) == 7
    assert [r.name for r in benchmark.rewards] == ["qa_em"]  # shaping needs no model here
    assert (benchmark.by, benchmark.temperature, benchmark.samples) == ("type", 1.0, 1)
    changed = benchmark.environment_section({"retriever.threads": 2, "k": 3})
    assert changed.kwargs["retriever"] == {"name": "bm25", "corpus": "fiction", "threads": 2}
    assert changed.kwargs["k"] == 3 and benchmark.environment["k"] == 2
    file = tmp_path / "mine.yaml"
    file.write_text(dump_recipe(recipe))
    assert recipe_of(str(file)).evaluation == recipe.evaluation and recipe_of("gsm8k") is None
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Who was it?", "answer": "A", "type": "na"}\n')
    assert [row["prompt"] for row in benchmark.rows(rows, None)] == ["Who was it?"]


def test_what_cannot_be_a_benchmark_is_said(tmp_path):
    bare = load_recipe("search/tiny", ["evaluation=null"])
    with pytest.raises(UserError, match=r"benchmark 'mine': the recipe has no evaluation.task"):
        from_recipe(bare, "mine")
    with pytest.raises(UserError, match=r"no benchmark 'search/tny'.*a recipe"):
        evaluate("shipped:search/policy", "search/tny")
    with pytest.raises(UserError, match=r"no recipe 'nowhere.yaml'"):
        evaluate("shipped:search/policy", "nowhere.yaml")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Who was it?", "answer": "A"}\n')
    with pytest.raises(UserError, match=r"evaluation.by: row .* has no column 'type'"):
        evaluate("shipped:search/policy", "search/tiny", data=rows)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"supporting_ids": 2.5}, r"row 'r1': supporting_ids must be its id, or a list of them; it holds 2.5"),
        ({"prompt": [{"role": "user", "content": "Who was it?"}]}, "row 'r1': to search in tags, prompt must be the"),
    ],
)
def test_rows_that_cannot_be_played_are_refused_before_an_engine_is_started(tmp_path, monkeypatch, row, says):
    monkeypatch.setattr(runner, "start_engine", lambda *_, **__: pytest.fail("an engine was started"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"id": "r1", "prompt": "Who was it?", "answer": "A", "type": "na"} | row) + "\n")
    with pytest.raises(UserError, match=says):
        evaluate("shipped:search/policy", "search/tiny", data=rows)


def test_rows_that_an_outcome_cannot_grade_are_refused_before_an_engine_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "start_engine", lambda *_, **__: pytest.fail("an engine was started"))
    (tmp_path / "picky.py").write_text(
        "from cib_rl.plugin import PluginError, reward\n\n\n"
        '@reward("picky", kind="outcome")\nclass Picky:\n'
        "    def check_rows(self, rows):\n        raise PluginError(f'picky: row {rows[0][\"id\"]!r} will not do')\n\n"
        "    def __call__(self, trajectories):\n        return [0.0 for _ in trajectories]\n"
    )
    (tmp_path / "mine.yaml").write_text(f'extends: search/tiny\nrewards: [{{name: "{tmp_path}/picky.py:picky"}}]\n')
    with pytest.raises(UserError, match=r"picky: row .* will not do"):
        evaluate("shipped:search/policy", str(tmp_path / "mine.yaml"))
