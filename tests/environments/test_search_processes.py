"""Search episodes over two processes: each plays its own groups, and they train what one process does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cib_rl.models import resolve_model
from cib_rl.recipe_io import load_recipe
from cib_rl.run_folder import RunFolder
from cib_rl.trajectory_io import read_trajectories
from tests.trainers.test_distributed import in_one_process, launch, moved_apart, plain_weights, records

pytestmark = [pytest.mark.trl, pytest.mark.slow]


def _recipe(name, folder, *sets):
    few = ["trainer.steps=2", "trainer.prompts_per_step=8", "evaluation=null", "deterministic=true", "run_name=run"]
    return load_recipe(name, [*few, f"output={folder}", "logging.tensorboard=false", *sets])


def test_two_processes_train_the_search_agent_as_one_does(tmp_path):
    more = {"search/tiny": [], "search/tiny_ppo": ["critic.warmup_steps=0"]}
    names = {name: name.replace("/", "-") for name in more}
    launch(tmp_path, {names[n]: {"recipe": _recipe(n, tmp_path / names[n], *sets)} for n, sets in more.items()})
    for name, job in names.items():
        assert [r["error"] for r in records(tmp_path, job)] == [None, None]
        one = _recipe(name, tmp_path / f"{job}-one", *more[name])
        alone, both = in_one_process(one), torch.load(tmp_path / f"{job}.pt", weights_only=True)
        start = plain_weights(resolve_model(one.model, Path()))
        assert moved_apart(both, alone, {n: start[n] for n in alone}) < 1e-2
        two, single = (RunFolder(tmp_path / folder / "run").read_metrics() for folder in (job, f"{job}-one"))
        for line, other in zip(two, single, strict=True):
            searched = [key for key in other if key.startswith(("search/", "diagnostics/", "tokens/", "stop/"))]
            assert "search/queries" in searched and "diagnostics/evidence_recall" in searched
            for key in searched:
                assert line[key] == pytest.approx(other[key], abs=1e-4), key
        windows = tmp_path / job / "run" / "trajectories"
        own, others = ({t.group for t in read_trajectories(windows / f"step-000000-rank{r}.parquet")} for r in (0, 1))
        assert own and others and not own & others
