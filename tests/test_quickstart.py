"""The quickstart, end to end on the shipped weights, with few steps."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from cib_rl.cli import app

SMALL = ["trainer.steps=2", "trainer.prompts_per_step=4", "evaluation.problems=24"]


@pytest.mark.parametrize("change", ["evaluation=null", "evaluation.after=false", "evaluation.before=false"])
def test_without_two_evaluations_it_is_refused_before_training(tmp_path, monkeypatch, change):
    monkeypatch.setattr("cib_rl.quickstart.train", lambda *_: pytest.fail("it was trained"))
    result = CliRunner().invoke(app, ["quickstart", "--output", str(tmp_path / "runs"), "--set", change])
    assert result.exit_code == 2 and "cib-rl train quickstart" in result.stderr


@pytest.mark.slow
@pytest.mark.trl
def test_it_trains_evaluates_compares_and_plots_and_never_overwrites(tmp_path):
    arguments = ["quickstart", "--output", str(tmp_path)] + [a for s in SMALL for a in ("--set", s)]
    runs = []
    for _ in range(2):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        for words in ("before", "after", "tokens", "truncated", "95%", "minutes", "plots"):
            assert words in result.output, words
        runs.append({p.name: p for p in tmp_path.iterdir()})
    assert len(runs[0]) == 1 and len(runs[1]) == 2
    (run,) = runs[0].values()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"] for line in lines} == {0, 1, 2}
    last = [line for line in lines if "surprisal/token" in line][-1]
    # The rate bounds I(X;Z) from above: cost under the blind prior, less the policy's own entropy.
    assert last["rate_nats"] == pytest.approx(last["surprisal/completion"] - last["entropy_nats"], rel=1e-6)
    assert yaml.safe_load((run / "recipe.yaml").read_text())["trainer"]["steps"] == 2
    assert (run / "checkpoints" / "step-000002" / "manifest.json").is_file()
    assert len(list((run / "trajectories").glob("*.parquet"))) == 2
    assert len(list((run / "evaluations").iterdir())) == 2
    assert any((run / "plots").glob("*.png"))
