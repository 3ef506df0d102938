"""`docs/metrics.md` names every number that runs log, and none that they do not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cib_rl.run_folder import RunFolder
from cib_rl.trainers import run
from tests.environments.test_search_training import Searcher, _recipe, place  # noqa: F401  (a fixture)
from tests.trainers.support import RandomEngine, tiny_recipe

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
NAMED = [
    key for row in re.findall(r"^\| (`.*?) \|", PAGE, re.M) for key in re.findall(r"`([^`]+)`", row)
]  # the first column of the tables
PLACES = {"LABEL": r"[\w/]+", "NAME": r"[\w/]+", "REASON": r"\w+", "KIND": r"\w+", "@K": r"@\d+", "…": r"[\w/]+"}
ALSO = ["step", "time", "kl_reward"]  # in the text, or a second column
# What takes an accident, an option or another engine; each has a test of its own.
RARE = {
    "nonfinite_gradients", "nonfinite_losses", "kl", "budget/target", "budget/tokens", "budget/price", "logged/NAME",
    "hicra/…", "seconds/search_p50",
}  # fmt: skip


def _pattern(key):
    parts = re.split(f"({'|'.join(PLACES)})", key)
    text = "".join(PLACES.get(part, re.escape(part)) for part in parts)
    return re.compile(text + (r"(/low|/high)?" if key.startswith("eval/") else ""))


@pytest.fixture(scope="module")
def logged(place, tmp_path_factory, tiny_model_dir):  # noqa: F811
    """Keys of a PPO run that searches, with surprisal, grams, KL in the reward and evaluations, and of a GRPO run."""
    folder = tmp_path_factory.mktemp("logged")
    rows = {"name": "jsonl", "path": str(folder / "ppo" / "tasks.jsonl")}
    ppo = {
        "trainer.name": "ppo",
        "trainer.kl": 0.01,
        "trainer.kl_in": "reward",
        "credit": [{"name": "gae"}, {"name": "hicra", "grams": ["let me", "was born"]}],
        "evaluation": {"task": rows, "problems": 4, "samples": 4, "by": "type"},
    }
    grpo = {"trainer.kl": 0.01, "trainer.num_iterations": 2, "trainer.max_kl": 100.0}
    (folder / "grpo").mkdir()
    runs = []
    with pytest.MonkeyPatch.context() as patch:
        for engine, recipe in (
            (Searcher, _recipe(place, folder / "ppo", **ppo)),
            (RandomEngine, tiny_recipe(tiny_model_dir, folder / "grpo", **grpo)),
        ):
            patch.setattr(run, "make_engine", lambda *_, engine=engine: engine())
            runs.append(RunFolder(run.train(recipe, progress=False)))
    return {key for one in runs for line in one.read_metrics() for key in line}


@pytest.mark.trl
def test_every_number_that_is_logged_is_on_the_page(logged):
    patterns = [_pattern(key) for key in NAMED + ALSO]
    missing = sorted(key for key in logged if not any(p.fullmatch(key) for p in patterns))
    assert not missing, missing


@pytest.mark.trl
def test_every_number_on_the_page_is_logged(logged):
    unseen = [key for key in NAMED if key not in RARE and not any(_pattern(key).fullmatch(found) for found in logged)]
    assert not unseen, unseen
