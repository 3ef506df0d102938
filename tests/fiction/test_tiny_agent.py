"""The tiny search agent, end to end on the shipped weights, with few steps."""

import json

import pytest
from typer.testing import CliRunner

from cib_rl.cli import app


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
