"""The evaluation inside training: the recipe's rows, its sampling, the trainer's engine; shared among processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cib_rl.environments.factory import make_environment
from cib_rl.errors import UserError
from cib_rl.evals.runner import evaluate_policy
from cib_rl.plugin import RewardContext, RewardSuite
from cib_rl.recipe import Recipe
from cib_rl.rollout import Rollouts


def recipe_for(rows: Path, reward: str, **evaluation) -> Recipe:
    """A recipe whose held-out rows are in `rows`."""
    task = {"name": "jsonl", "path": str(rows)}
    return Recipe.model_validate(
        {
            "model": "tiny",
            "task": task,
            "environment": {"max_completion_length": 8, "answer": r"regex:(\d)"},
            "rewards": [{"name": reward}],
            "trainer": {"steps": 1, "prompts_per_step": 2, "learning_rate": 1e-4},
            "evaluation": {"task": task, "samples": 2, "seed": 11, **evaluation},
        }
    )


def play(recipe: Recipe, engine, tokenizer, base_dir: Path):
    """`evaluate_policy` as the trainer calls it."""
    suite = RewardSuite(recipe.rewards, RewardContext(base_dir=base_dir))
    rollouts = Rollouts(make_environment(recipe.environment, tokenizer), engine, tokenizer, recipe.environment.answer)
    try:
        return evaluate_policy(recipe, rollouts, suite, base_dir)
    finally:
        suite.close()


@pytest.fixture
def folder(tmp_path):
    rows = [{"id": f"r{i}", "prompt": f"{i}+1=", "answer": "4"} for i in range(7)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "digits.py").write_text(
        "from cib_rl.plugin import reward\n\n\n@reward('digits', kind='outcome')\n"
        "def digits(trajectories):\n    return [float(t.answer is not None) for t in trajectories]\n"
    )
    return tmp_path


@pytest.fixture
def engine(tiny_model, tiny_tokenizer):
    from cib_rl.engines.transformers import TransformersEngine

    engine = TransformersEngine(tiny_model, tiny_tokenizer)
    yield engine
    engine.close()


def test_the_recipes_rows_samples_and_sampling_are_used(folder, engine, tiny_tokenizer):
    recipe = recipe_for(folder / "rows.jsonl", "digits.py:digits", problems=5, temperature=0.5)
    result = play(recipe, engine, tiny_tokenizer, folder)
    assert (result.questions, len(result.samples)) == ([f"r{i}" for i in range(5)], 10)
    assert result.settings["sampling"]["temperature"] == 0.5 and result.settings["weights_version"] == 0
    again = play(recipe, engine, tiny_tokenizer, folder)
    assert again.samples == result.samples  # the same held-out answers at every call, for the same weights


def test_too_few_rows_are_an_error_only_where_the_recipe_asks_for_more(folder, engine, tiny_tokenizer):
    result = play(recipe_for(folder / "rows.jsonl", "digits.py:digits"), engine, tiny_tokenizer, folder)
    assert len(result.questions) == 7
    with pytest.raises(UserError, match=r"asks for 8 problems, evaluation\.task holds 7"):
        play(recipe_for(folder / "rows.jsonl", "digits.py:digits", problems=8), engine, tiny_tokenizer, folder)
    with pytest.raises(UserError, match=r"evaluation\.task is missing"):
        play(recipe_for(folder / "rows.jsonl", "digits.py:digits", task=None), engine, tiny_tokenizer, folder)


SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
folder, tests = Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, tests)
from conftest import build_tiny_model, build_tiny_tokenizer
sys.path.insert(0, tests + "/evals")
from test_policy import play, recipe_for
from cib_rl.engines.transformers import TransformersEngine
torch.distributed.init_process_group("gloo")
assert torch.distributed.get_world_size() == 2
tokenizer = build_tiny_tokenizer()
engine = TransformersEngine(build_tiny_model(), tokenizer)
played = []
generate = engine.generate
async def counted(ids, sampling):
    played.append(1)
    return await generate(ids, sampling)
engine.generate = counted
result = play(recipe_for(folder / "rows.jsonl", "digits.py:digits"), engine, tokenizer, folder)
engine.close()
texts = [[s.question, s.sample, s.text] for s in result.samples]
(folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps([texts, len(played)]))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_share_the_rows_and_both_hold_the_whole_result(folder, engine, tiny_tokenizer):
    (folder / "script.py").write_text(SCRIPT)
    tests = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0"]
    done = subprocess.run(
        [*command, "--standalone", str(folder / "script.py"), str(folder), str(tests)],
        cwd=tests.parent,
        env={"PYTHONPATH": str(tests.parent), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    alone = play(recipe_for(folder / "rows.jsonl", "digits.py:digits"), engine, tiny_tokenizer, folder)
    assert ranks[0][0] == ranks[1][0] == [[s.question, s.sample, s.text] for s in alone.samples]
    assert [count for _, count in ranks] == [8, 6]  # 4 and 3 rows of 2 samples


def test_kinds_are_told_apart_by_a_column_that_every_row_must_have(folder, engine, tiny_tokenizer):
    rows = [{"id": f"r{i}", "prompt": f"{i}+1=", "answer": "4", "hard": i % 2} for i in range(6)]
    path = folder / "kinds.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = play(recipe_for(path, "digits.py:digits", by="hard"), engine, tiny_tokenizer, folder)
    assert [s.kind for s in result.samples] == [str(i % 2) for i in range(6) for _ in range(2)]
    del rows[3]["hard"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"evaluation\.by: row 'r3' has no column 'hard'"):
        play(recipe_for(path, "digits.py:digits", by="hard"), engine, tiny_tokenizer, folder)
