"""Bad input: one clear message saying how to mend it, a non-zero exit code, nothing overwritten, no half-made run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cib_rl.cli import EXIT_USER_ERROR, app
from cib_rl.run_folder import RunFolder
from tests.trainers.support import HERE, write_tasks

pytestmark = [pytest.mark.trl]

REWARDS = """
from cib_rl.plugin import reward

@reward("raises", kind="outcome")
def raises(trajectories):
    raise KeyError("no such column")

@reward("nan", kind="outcome")
def nan(trajectories):
    return [float("nan")] * len(trajectories)

@reward("short", kind="outcome")
def short(trajectories):
    return [1.0]

def trl(completions, solution, hint=None, **kwargs):
    return [1.0] * len(completions)

class NoPlace:
    def __call__(self):
        return []

class Stage:
    def __call__(self, trajectories, scores):
        return []

def two(trajectories, scores):
    return []
"""


FIRST = {"name": f"{HERE}:first_token"}  # no outcome


def _write(folder: Path, model_dir: Path, **changes) -> Path:
    """A recipe file in `folder` with paths relative to it; dotted keys change it, None removes a key."""
    write_tasks(folder / "tasks.jsonl", 8)
    (folder / "rewards.py").write_text(REWARDS)
    values = {
        "model": str(model_dir),
        "run_name": "run",
        "output": str(folder / "runs"),
        "task": {"name": "jsonl", "path": str(folder / "tasks.jsonl")},
        "environment": {"max_completion_length": 8},
        "sampling": {"group_size": 2},
        "rewards": [{"name": f"{HERE}:even_length"}],
        "trainer": {"steps": 1, "prompts_per_step": 2, "learning_rate": 0.001},
        "logging": {"tensorboard": False},
    }
    for dotted, value in changes.items():
        *parents, key = dotted.split(".")
        section = values
        for parent in parents:
            section = section.setdefault(parent, {})
        section[key] = value
        if value is None:
            del section[key]
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def _rows(folder: Path, *rows: dict) -> None:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _train(recipe: Path):
    return CliRunner().invoke(app, ["train", str(recipe)])


def _assert_refused(result, message: str, folder: Path, *, made_folder: bool = False) -> None:
    import re

    assert result.exit_code == EXIT_USER_ERROR, f"{result.output}\n{result.exception!r}"
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    assert re.search(message, result.stderr[result.stderr.index("error: ") :], re.DOTALL), result.stderr
    assert "Traceback" not in result.output
    assert (folder / "runs").exists() == made_folder
    if made_folder:
        assert not list((folder / "runs").rglob("manifest.json"))


BEFORE_THE_FIRST_STEP = {
    "no such model folder": ({"model": "./nothing"}, r"model: no folder .*nothing"),
    "unknown task source": ({"task.name": "json"}, "task.name: unknown source 'json'; known: countdown, fiction, hub,"),
    "unknown task key": ({"task.colums": {"prompt": "q"}}, "task: unknown key `colums` of jsonl; known: .*columns"),
    "no such task file": ({"task.path": "nowhere.jsonl"}, r"task\.path: no file .*nowhere\.jsonl"),
    "missing column": (
        {"task.columns": {"prompt": "question"}},
        r"tasks\.jsonl, line 1: no column 'question' \(task\.columns\.prompt\); it has id, prompt, answer",
    ),
    "unknown reward": ({"rewards": [{"name": "math_corect"}]}, "math_corect.*math_correct"),
    "unknown reward key": ({"rewards": [{"name": "math_correct", "timeot": 1}]}, "timeot"),
    "a reward that asks for successes, and no outcome": (
        {"rewards": [{"name": "kimi_length"}]}, "reward 'kimi_length': it asks .* needs an outcome reward; there is"
    ),
    "an evaluation, and no outcome": (
        {"rewards": [{"name": f"{HERE}:first_token"}], "evaluation": {"task": {"name": "countdown"}, "before": False}},
        "an evaluation needs an outcome reward; there are only first_token",
    ),
    "a filter by outcomes, and none": (
        {"rewards": [FIRST], "trainer.filter": {"zero_variance": "outcome"}},
        "trainer.filter.zero_variance: outcome needs an outcome reward; there are only first_token",
    ),
    "weighting by difficulty, and no outcome": (
        {"rewards": [FIRST], "credit": [{"name": "group"}, {"name": "difficulty"}]},
        "credit stage 'difficulty' needs an outcome reward; there are only first_token",
    ),
    "a budget of right answers, and no outcome": (
        {"rewards": [FIRST], "budget": {"tokens": "-40%", "count": "right"}},
        "budget.count: right needs an outcome reward; there are only first_token",
    ),
    "a budget that could mean two rewards": (
        {"rewards": [FIRST, {**FIRST, "label": "again"}], "budget": {"tokens": 9}},
        "budget.reward: name one shaping reward .* there are: first_token, again",
    ),
    "a column that a TRL function requires": (
        {"rewards": [{"name": "rewards.py:trl", "kind": "outcome"}]},
        "reward 'trl' needs 'solution', but the task rows have only id, answer; map",
    ),
    "a column that a target names": (
        {"rewards": [{"name": "surprisal", "prior": {"name": "laplace", "target": "task.length"}}]},
        "prior laplace needs a number of at least 0 in the column 'length' of each task row; row '0' has no such",
    ),
    "a reward class that takes no trajectories": (
        {"rewards": [{"name": "rewards.py:NoPlace", "kind": "outcome"}]},
        r"reward 'NoPlace' is called as \(trajectories\), which NoPlace\.__call__\(\) does not take",
    ),
    "a baseline that takes too little": (
        {"credit": [{"name": "rewards.py:two"}]},
        r"credit\[0\]: stage 'rewards.py:two' is called as \(trajectories, scores, reduce\), which "
        r"two\(trajectories, scores\) does not take",
    ),
    "a reshaper that takes too little": (
        {"credit": [{"name": "group"}, {"name": "rewards.py:Stage"}]},
        r"credit\[1\]: stage 'rewards.py:Stage' is called as \(trajectories, scores, advantages\), which "
        r"Stage\.__call__\(trajectories, scores\) does not take",
    ),
    "unknown environment": ({"environment.name": "two_turn"}, "environment.name: unknown 'two_turn'"),
    "unknown environment key": ({"environment.max_turns": 3}, "environment: unknown key `max_turns`"),
    "unknown answer style": ({"environment.answer": "tagg"}, "environment.answer: unknown style 'tagg'; known: tag"),
    "unknown engine": ({"engine.name": "sglang"}, r"recipe\.yaml:\d+.*engine\.name.*'transformers' or 'vllm'"),
    "unknown credit stage": ({"credit": [{"name": "grup"}]}, r"credit\[0\]\.name: unknown baseline 'grup'; known"),
    "unknown credit key": ({"credit": [{"name": "group", "flor": 1}]}, r"no keyword 'flor' \(did you mean 'floor'"),
    "unknown scale": ({"credit": [{"name": "group", "scale": "std"}]}, r"credit\[0\]: stage 'group': scale: 'std'"),
    "unknown schedule": ({"trainer.schedule": "cosin"}, r"recipe\.yaml:\d+.*trainer\.schedule.*one of 'constant'"),
    "unknown dtype": ({"engine.dtype": "float33"}, r"recipe\.yaml:\d+.*engine\.dtype.*one of 'float32'"),
    "no tracker": ({"logging.wandb": True}, "logging.wandb: wandb is not installed: pip install wandb"),
    "no such tokenizer folder": ({"tokenizer": "./nothing"}, r"error: tokenizer: no folder .*nothing"),
    "no DeepSpeed file": ({"trainer.deepspeed": "zero9.json"}, r"trainer\.deepspeed: no file .*zero9\.json"),
    "too long a context": ({"engine.max_model_len": 9999}, r"engine\.max_model_len is 9999, but .* holds 512 tokens"),
    "micro-batch": ({"trainer.micro_batch_size": 3}, r"trainer\.micro_batch_size: 3 does not divide the 4 completions"),
    "evaluation without rows": (
        {"evaluation": {"task": {"name": "jsonl", "path": "nowhere.jsonl"}}}, r"evaluation: task\.path: no file"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BEFORE_THE_FIRST_STEP)
def test_what_can_be_known_before_the_first_step_is_refused_then(tmp_path, tiny_model_dir, case, monkeypatch):
    monkeypatch.setattr("cib_rl.trackers.find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)  # where rewards.py is
    changes, message = BEFORE_THE_FIRST_STEP[case]
    _assert_refused(_train(_write(tmp_path, tiny_model_dir, **changes)), message, tmp_path)


def test_data_sets_that_are_empty_or_lack_a_column(tmp_path, tiny_model_dir):
    recipe = _write(tmp_path, tiny_model_dir, **{"task.path": str(tmp_path / "rows.jsonl")})
    _rows(tmp_path)
    _assert_refused(_train(recipe), r"rows\.jsonl holds no rows", tmp_path)
    _rows(tmp_path, {"prompt": "1+1", "answer": "2"}, {"prompt": "1+2"})
    _assert_refused(_train(recipe), r"rows\.jsonl, line 2: no 'answer'; it has prompt", tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1+1", "answer": "2"}\n{"prompt": ')
    _assert_refused(_train(recipe), r"rows\.jsonl, line 2: not JSON", tmp_path)


def test_gold_answers_that_do_not_grade_as_right(tmp_path, tiny_model_dir):
    rewards = [{"name": "math_correct"}]
    recipe = _write(tmp_path, tiny_model_dir, rewards=rewards, **{"task.path": str(tmp_path / "rows.jsonl")})
    _rows(tmp_path, {"id": "good", "prompt": "1+1", "answer": "2"}, {"id": "bad", "prompt": "q", "answer": "\\frac{"})
    _assert_refused(_train(recipe), r"gold.*bad.*task\.max_ungradable", tmp_path)


@pytest.mark.parametrize(
    ("rewards", "row", "message"),
    [
        (
            [{"name": "math_correct"}],
            {"answer": "\\frac{"},
            r"evaluation: 1 of 2 .*bad.*evaluation\.task\.max_ungradable",
        ),
        (
            [{"name": "math_correct"}],
            {"prompt": [{"role": "user", "content": "1+1"}]},
            "evaluation: a prompt is a list of messages, but the tokenizer has no chat template",
        ),
        (
            [{"name": "math_correct"}, {"name": "l1_max", "target": "task.length"}],
            {"length": "long"},
            "evaluation: reward l1_max needs a number of at least 0 in the column 'length' .* row 'bad' holds 'long'",
        ),
    ],
)
def test_held_out_rows_are_checked_as_those_trained_on(tmp_path, tiny_model_dir, monkeypatch, rewards, row, message):
    monkeypatch.setattr("cib_rl.trainers.run.load_policy", lambda *_: pytest.fail("the policy was loaded"))
    good = {"id": "good", "prompt": "1+1", "answer": "2", "length": 5}
    changes = {"task.path": str(tmp_path / "rows.jsonl"), "rewards": rewards}
    held_out = {"name": "jsonl", "path": str(tmp_path / "held.jsonl")}
    recipe = _write(tmp_path, tiny_model_dir, **changes, evaluation={"task": held_out, "before": False})
    _rows(tmp_path, good)
    (tmp_path / "held.jsonl").write_text("\n".join(map(json.dumps, [good, {**good, "id": "bad", **row}])))
    _assert_refused(_train(recipe), message, tmp_path)


@pytest.mark.parametrize("length", [None, "7", -1, True])
def test_a_row_whose_target_is_no_number_is_named(tmp_path, tiny_model_dir, length):
    for reward in ({"name": "l1_max"}, {"name": "surprisal", "prior": {"name": "laplace"}}):
        reward.get("prior", reward)["target"] = "task.length"
        rewards = [{"name": f"{HERE}:even_length"}, reward]
        recipe = _write(tmp_path, tiny_model_dir, rewards=rewards, **{"task.path": str(tmp_path / "rows.jsonl")})
        row = {"prompt": "1+1", "answer": "2", "length": 5}
        _rows(tmp_path, {"id": "good", **row}, {"id": "bad", **row, "length": length})
        _assert_refused(_train(recipe), f"needs a number .*column 'length'.* row 'bad' holds {length!r}", tmp_path)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("raises", r"reward 'raises' failed on all 4 trajectories of this step; the first: KeyError: 'no such column'"),
        ("nan", r"reward 'nan' failed on all 4 trajectories of this step; the first: returned nan"),
        ("short", r"reward 'short' failed on all 4 trajectories.*returned 1 values for 2 trajectories"),
    ],
)
def test_a_reward_that_always_fails_stops_the_run(tmp_path, tiny_model_dir, reward, message):
    recipe = _write(tmp_path, tiny_model_dir, rewards=[{"name": f"{tmp_path / 'rewards.py'}:{reward}"}])
    _assert_refused(_train(recipe), message, tmp_path, made_folder=True)


def test_a_folder_that_is_no_model(tmp_path, tiny_model_dir):
    (tmp_path / "model").mkdir()
    recipe = _write(tmp_path, tmp_path / "model")
    _assert_refused(_train(recipe), r"model is no model folder \(it has neither config\.json", tmp_path)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model_dir / name, tmp_path / "model")
    _assert_refused(_train(recipe), r"model: cannot load .*model", tmp_path)


def _with_tokenizer(folder: Path, model: Path, tokenizer) -> Path:
    shutil.copytree(model, folder / "model")
    for path in (folder / "model").glob("*token*"):
        path.unlink()
    if tokenizer is not None:
        tokenizer.save_pretrained(folder / "model")
    return folder / "model"


def test_a_model_without_tokenizer(tmp_path, tiny_model_dir):
    recipe = _write(tmp_path, _with_tokenizer(tmp_path, tiny_model_dir, None))
    _assert_refused(_train(recipe), "tokenizer: cannot load one from", tmp_path)


def test_a_tokenizer_without_end_token(tmp_path, tiny_model_dir, tiny_tokenizer):
    tiny_tokenizer.eos_token = None
    recipe = _write(tmp_path, _with_tokenizer(tmp_path, tiny_model_dir, tiny_tokenizer))
    _assert_refused(_train(recipe), "no end-of-sequence token: completions could never end", tmp_path)


def test_a_tokenizer_without_pad_token_pads_with_the_end_token_and_trains(tmp_path, tiny_model_dir, tiny_tokenizer):
    tiny_tokenizer.pad_token = None
    result = _train(_write(tmp_path, _with_tokenizer(tmp_path, tiny_model_dir, tiny_tokenizer)))
    assert result.exit_code == 0, result.output
    (line,) = RunFolder(tmp_path / "runs" / "run").read_metrics()
    assert line["loss"] is not None and line["gap/max"] < 1e-4


def test_messages_without_a_chat_template(tmp_path, tiny_model_dir):
    recipe = _write(tmp_path, tiny_model_dir, **{"task.path": str(tmp_path / "rows.jsonl")})
    _rows(tmp_path, {"prompt": [{"role": "user", "content": "1+1"}], "answer": "2"})
    _assert_refused(_train(recipe), "list of messages, but the tokenizer has no chat template", tmp_path)


def test_an_output_folder_in_use_is_left_as_it_is(tmp_path, tiny_model_dir):
    (tmp_path / "runs" / "run").mkdir(parents=True)
    (tmp_path / "runs" / "run" / "notes.txt").write_text("mine")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if "runs" in p.parts}
    result = _train(_write(tmp_path, tiny_model_dir))
    assert result.exit_code == EXIT_USER_ERROR
    assert "is in use; give another run_name or output, or continue it with --resume" in result.stderr
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if "runs" in p.parts} == before


def test_an_output_that_is_a_file_is_refused_before_the_model_is_loaded(tmp_path, tiny_model_dir, monkeypatch):
    monkeypatch.setattr("cib_rl.trainers.run.load_policy", lambda *_: pytest.fail("the model was loaded"))
    (tmp_path / "notes.txt").write_text("mine")
    for name in ("run", None):
        recipe = _write(tmp_path, tiny_model_dir, output=str(tmp_path / "notes.txt"), run_name=name)
        _assert_refused(_train(recipe), r"output: .*notes\.txt is a file; a folder is needed", tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "recipe.yaml", "--set", "trainer.stepps=3"], "unknown key `trainer.stepps`; did you mean `steps`?"),
        (["train", "recipe.yaml", "--set", "model=./nothing"], "error: model: no folder "),
    ],
)
def test_the_command_itself_exits_with_the_code_and_one_message(tmp_path, tiny_model_dir, arguments, message):
    _write(tmp_path, tiny_model_dir)
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[2])}
    command = [sys.executable, "-c", "from cib_rl.cli import main; main()", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == EXIT_USER_ERROR, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr and done.stdout == ""
    assert not (tmp_path / "runs").exists()
