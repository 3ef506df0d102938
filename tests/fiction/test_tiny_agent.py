"""The tiny search agent, end to end on the shipped weights, with few steps."""

import json

import pytest
from typer.testing import CliRunner

from cib_rl.cli import app
from cib_rl.recipe_io import load_recipe
from cib_rl.trainers.sft import run_sft
from cib_rl.trainers.sft_settings import SFTSettings
from cib_rl.trajectory_io import read_trajectories


@pytest.mark.slow
@pytest.mark.trl
@pytest.mark.parametrize("recipe", ["search/tiny", "search/tiny_ppo"])
def test_it_trains_and_tells_turns_by_kind_of_question(tmp_path, recipe):
    few = ["trainer.steps=2", "trainer.prompts_per_step=8", "evaluation.problems=40", "logging.trajectories=false"]
    few += ["critic.warmup_steps=1"] if recipe.endswith("ppo") else []
    arguments = ["quickstart", recipe, "--output", str(tmp_path)] + [a for s in few for a in ("--set", s)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    for words in ("comparison: turns", "bridge: accuracy", "95%"):
        assert words in result.output, words
    (run,) = tmp_path.iterdir()
    first, *rest = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert first["eval/comparison/turns"] > 2.5 and first["eval/accuracy"] > 0.6  # the shipped warm start searches
    line = next(line for line in rest if "search/turns" in line)
    assert line["search/turns"] > 2.5 and 0 < line["search/valid"] <= 1


@pytest.mark.slow
@pytest.mark.trl
def test_by_tool_calls_it_is_warmed_up_and_trained_on_what_the_environment_reads(tmp_path, monkeypatch):
    """A hundred steps of warm-up are enough for calls that can be carried out."""
    monkeypatch.chdir(tmp_path)
    shape = "models.policy.shape={hidden_size: 64, layers: 2, heads: 2, intermediate_size: 128, max_positions: 960}"
    warm = ["models.policy.steps=100", "models.policy.batch_size=16", "models.policy.fiction.parallel=0.5", shape]
    run_sft(load_recipe("search/warmstart_tools", warm, schema=SFTSettings))
    few = ["trainer.steps=2", "trainer.prompts_per_step=4", "evaluation=null"]
    result = CliRunner().invoke(app, ["train", "search/tiny_tools", *(a for s in few for a in ("--set", s))])
    assert result.exit_code == 0, result.output
    (run,) = (tmp_path / "runs").glob("tiny_tools-*")
    made = read_trajectories(run / "trajectories" / "step-000000-rank0.parquet")
    searched = [turn for t in made for turn in t.turns if turn.searched and turn.queries]
    assert len(searched) > len(made) / 2 and any(len(turn.queries) > 1 for turn in searched)
