"""The dry run: what it shows, what it finds, and that it neither trains nor writes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cib_rl.checks import check_recipe
from cib_rl.cli import app
from cib_rl.dry_run import dry_run
from cib_rl.memory import Shape, estimate, shape_from_name, shape_of, zero_stage
from cib_rl.recipe import LoraSection
from cib_rl.recipe_io import dump_recipe, load_recipe

RECIPE = """\
model: {model}
task: {{name: jsonl, path: {rows}}}
environment: {{max_completion_length: 32, answer: tag}}
sampling: {{group_size: 4}}
rewards:
  - {{name: math_correct}}
trainer: {{steps: 6, prompts_per_step: 2, learning_rate: 1e-4, token_budget: 512, num_iterations: 2}}
evaluation: {{task: {{name: jsonl, path: {held_out}}}, problems: 5, samples: 2, every: 4}}
"""


@pytest.fixture
def recipe_file(tmp_path, tiny_model_dir, monkeypatch):
    """A right recipe in an empty working directory, with a private cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    rows = tmp_path / "rows.jsonl"
    held_out = tmp_path / "held_out.jsonl"
    for file in (rows, held_out):
        file.write_text("".join(json.dumps({"prompt": f"{i}+1=", "answer": str(i + 1)}) + "\n" for i in range(5)))
    (tmp_path / "mine.py").write_text(MINE)
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE.format(model=tiny_model_dir, rows=rows, held_out=held_out))
    return path


def problems(path, *sets, devices=1) -> dict[str, str]:
    """Failed check -> detail."""
    found = check_recipe(load_recipe(path, sets), devices=devices)
    return {check.name: check.detail for check in found.checks if check.status == "failed"}


LENGTH = "{name: surprisal, prior: {name: uniform}}"
MINE = """\
from cib_rl.plugin import reward, success

@reward("asks", kind="shaping", needs_success=True)
class Asks:
    def __init__(self, *, context):
        raise AssertionError("a dry run builds no class")

    def __call__(self, trajectories):
        return success(trajectories)

class NoPlace:
    def __call__(self):
        return []

def stage(trajectories, advantages):
    return advantages

def trl(completions, solution):
    return [1.0] * len(completions)

class Bare:
    def __call__(self, trajectories):
        return [1.0] * len(trajectories)
"""


def _prior(spec: str) -> str:
    return f"rewards=[{{name: math_correct}}, {{name: surprisal, prior: {spec}}}]"


def _with(*sections: str) -> str:
    return f"rewards=[{{name: math_correct}}, {', '.join(sections)}]"


def test_a_right_recipe_passes_and_shows_its_plan(recipe_file):
    before = sorted(recipe_file.parent.iterdir())
    console = Console(record=True, width=160)
    recipe = load_recipe(recipe_file)
    assert dry_run(recipe, console=console)
    text = console.export_text()
    assert dump_recipe(recipe) in text
    assert "steps: 6, each 2 prompts x 4 = 8 completions, 8 on each of 1 device(s)" in text
    assert "completions sampled: 24 in windows of 8; at most 768 tokens" in text  # 6 steps, 2 per window
    assert "evaluations: 3, each of 10 completions" in text
    assert "5 gold answers graded" in text and "an estimate, not a measurement" in text
    assert "57 tokens, pad '<pad>', without chat template" in text
    assert [path for path in sorted(recipe_file.parent.iterdir()) if path.name != "home"] == before


def test_the_command_exits_with_1_when_a_check_fails(recipe_file):
    def run(*arguments):
        return CliRunner().invoke(app, ["train", str(recipe_file), "--dry-run", *arguments])

    assert run().exit_code == 0
    done = run("--set", "model=/nowhere/model")
    assert done.exit_code == 1 and "error: model: no folder /nowhere/model" in done.output
    assert run("--devices", "3").exit_code == 1


def test_every_problem_is_found_in_one_go(recipe_file):
    assert set(problems(recipe_file, "model=./none", "task.path=none.jsonl", "rewards.0.name=math_corect")) == {
        "model", "tokenizer", "task", "reward math_corect",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sets", "name", "words"),
    [
        (["task.path=none.jsonl"], "task", "none.jsonl"),
        (["task.columns={prompt: question}"], "task", "no column 'question'"),
        (["rewards.0.name=math_corect"], "reward math_corect", "did you mean 'math_correct'"),
        (["rewards.0.timeuot=3"], "reward math_correct", "no keyword 'timeuot'"),
        (["rewards.0.name=yours.py:f"], "reward yours.py:f", "yours.py"),
        (["credit=[{name: group, flor: 1}]"], "credit", "did you mean 'floor'"),
        ([_prior("{name: unifrom}")], "prior of surprisal", "no prior is named 'unifrom'"),
        ([_prior("{name: laplace, taget: 9}")], "prior of surprisal", "did you mean 'target'"),
        ([_prior("{name: language_model, model: ./none}")], "prior of surprisal", "no folder"),
        (["environment.chat_template=always"], "environment", "no chat template"),
        (["environment.system=hello"], "environment", "needs a chat template"),
        (["environment.name=nope"], "environment", "unknown 'nope'"),
        (["trainer.micro_batch_size=3"], "layout", "does not divide"),
        (["engine.max_model_len=2"], "environment", "leaves no room"),
        (["trainer.deepspeed=none.json"], "trainer.deepspeed", "no file"),
        (["lora.target_modules=[nope]"], "model", "matches no linear layer"),
        (["tokenizer=./none"], "tokenizer", "no folder"),
        (["evaluation.task={name: jsonl, path: other.jsonl}"], "evaluation.task", "other.jsonl"),
        (["rewards=[{name: kimi_length}]", "evaluation=null"], "success", "reward 'kimi_length': it asks which"),
        ([f"rewards=[{LENGTH[:-1]}, only_when_correct: true}}]", "evaluation=null"], "success", "only_when_correct"),
        ([f"rewards=[{LENGTH}]"], "success", "an evaluation needs an outcome reward; there are only surprisal"),
        (["success.outcome=math"], "success", "success.outcome: no outcome is labelled 'math'; known: math_correct"),
        (["rewards.0.name=mine.py:Bare"], "reward mine.py:Bare", "does not say what it is"),
        (["rewards=[{name: 'mine.py:asks'}]", "evaluation=null"], "success", "reward 'asks': it asks which"),
        (["rewards=[{name: 'mine.py:asks', kind: outcome}]"], "reward mine.py:asks", "cannot be one itself"),
        ([_with("{name: 'mine.py:trl', kind: shaping}")], "reward mine.py:trl", "'trl' needs 'solution', but the task"),
        ([_with("{name: 'mine.py:NoPlace', kind: shaping}")], "reward mine.py:NoPlace", "is called as (trajectories)"),
        ([_with("{name: 'mine.py:Bare', kind: shaping, call_timeout: 1}")], "reward mine.py:Bare", "is for async"),
        ([_with("{name: truncation, limit: [9, 8]}")], "reward truncation", "need steps_per_round"),
        ([_with("{name: soft_overlong, limit: 5, cache: 9}")], "reward soft_overlong", "longer than the limit"),
        ([_with("{name: l1_max, target: 'task.length'}")], "reward l1_max", "has no such column"),
        ([_prior("{name: laplace, target: -2}")], "prior of surprisal", "at least 0, got -2"),
        ([_prior("{name: laplace, target: task.length}")], "prior of surprisal", "row '0' has no such column"),
        ([_prior("{name: laplace, target: task.answer}")], "prior of surprisal", "row '0' holds '1'"),
        (["credit=[{name: 'mine.py:stage'}]"], "credit", "is called as (trajectories, scores, reduce)"),
        (["budget={tokens: 9}"], "budget", "name one shaping reward (its weight is what is moved); there are: none"),
        ([_prior("{name: uniform}"), "budget={tokens: 9, reward: length}"], "budget", "got 'length'"),
        (
            [f"rewards=[{LENGTH}]", "evaluation=null", "budget={tokens: 9, count: right}"],
            "success",
            "budget.count: right",
        ),
        (["engine.max_model_len=9999"], "engine", "but the model's context holds 512 tokens"),
        (["evaluation.task=null"], "evaluation.task", "is missing: name the held-out rows"),
        (["evaluation.problems=9"], "evaluation.task", "asks for 9 problems, evaluation.task holds 5"),
    ],
)
def test_each_problem_is_named(recipe_file, sets, name, words):
    found = problems(recipe_file, *sets)
    assert list(found) == [name] and words in found[name], found


def test_a_gold_answer_that_grades_as_wrong_is_found(recipe_file):
    rows = recipe_file.parent / "rows.jsonl"
    rows.write_text(rows.read_text() + json.dumps({"id": "odd", "prompt": "x", "answer": "\\frac{"}) + "\n")
    found = problems(recipe_file)
    assert list(found) == ["golds"] and "odd" in found["golds"]


def test_the_held_out_rows_are_checked_too(recipe_file):
    def held_out(**row):
        (recipe_file.parent / "held_out.jsonl").write_text(
            json.dumps({"id": "odd", "prompt": "1+1=", "answer": "2"} | row)
        )
        return problems(recipe_file, "evaluation.problems=1", _with("{name: l1_max, target: task.length}", LENGTH))

    rows = recipe_file.parent / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "1+1=", "answer": "2", "length": 3}))
    assert held_out(length=3) == {}
    assert (
        "evaluation: reward l1_max needs a number of at least 0 in the column 'length'" in held_out()["reward l1_max"]
    )
    found = held_out(length=3, answer="\\frac{")
    assert list(found) == ["evaluation.golds"] and "evaluation.task.max_ungradable: 1" in found["evaluation.golds"]
    found = held_out(length=3, prompt=[{"role": "user", "content": "1+1="}])
    assert list(found) == ["evaluation.task"] and "no chat template" in found["evaluation.task"]


def test_a_scale_of_outcomes_without_outcomes_is_no_mistake_but_said(recipe_file):
    found = check_recipe(load_recipe(recipe_file, [f"rewards=[{LENGTH}]", "evaluation=null"]))
    detail = next(check.detail for check in found.checks if check.name == "success")
    assert found.passed and "scale: outcome_std divides by its floor alone" in detail


def test_an_empty_data_set_is_found(recipe_file):
    (recipe_file.parent / "rows.jsonl").write_text("")
    assert "no rows" in problems(recipe_file)["task"]


def test_groups_are_never_split_over_devices(recipe_file):
    assert problems(recipe_file, devices=2) == {}
    assert "cannot be shared whole" in problems(recipe_file, devices=3)["layout"]


def test_an_output_folder_in_use_is_found_and_left_alone(recipe_file):
    used = recipe_file.parent / "runs" / "first"
    used.mkdir(parents=True)
    assert problems(recipe_file, "run_name=first") == {}  # an empty folder may be used
    (used / "metrics.jsonl").write_text("precious")
    assert "in use" in problems(recipe_file, "run_name=first")["output"]
    assert "is a file" in problems(recipe_file, f"output={used / 'metrics.jsonl'}")["output"]
    assert (used / "metrics.jsonl").read_text() == "precious"


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "is no model folder"),
        (lambda folder: [path.unlink() for path in folder.glob("*.safetensors")], "no weights"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as a causal language model"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "model"),
    ],
)
def test_a_folder_that_is_no_model_is_named(recipe_file, tiny_model_dir, tmp_path, broken, words):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_model_dir, folder)
    broken(folder)
    found = problems(recipe_file, f"model={folder}")
    if words == "model":  # a causal head can be put on nearly every config; what loads is not an error
        return
    assert words in found["model"] and str(folder) in found["model"]


def test_a_tokenizer_without_end_of_sequence_is_refused_and_without_pad_served(
    recipe_file, tmp_path, tiny_model_dir, tiny_tokenizer
):
    for name in ("padless", "endless"):
        shutil.copytree(tiny_model_dir, tmp_path / name)
    tiny_tokenizer.pad_token = None
    tiny_tokenizer.save_pretrained(tmp_path / "padless")
    assert problems(recipe_file, f"tokenizer={tmp_path / 'padless'}") == {}
    tiny_tokenizer.eos_token = None
    tiny_tokenizer.save_pretrained(tmp_path / "endless")
    assert "no end-of-sequence token" in problems(recipe_file, f"tokenizer={tmp_path / 'endless'}")["tokenizer"]


def test_messages_need_a_chat_template(recipe_file):
    row = {"prompt": [{"role": "user", "content": "1+1="}], "answer": "2"}
    (recipe_file.parent / "rows.jsonl").write_text(json.dumps(row) + "\n")
    assert "no chat template" in problems(recipe_file)["environment"]


def test_what_would_be_downloaded_is_unchecked(recipe_file):
    sets = ["model=some-org/some-model-7B", "task={name: hub, path: some/data}"]
    found = check_recipe(load_recipe(recipe_file, sets))
    assert found.passed
    states = {check.name: check.status for check in found.checks}
    unchecked = {name for name, status in states.items() if status == "unchecked"}
    assert unchecked == {"model", "tokenizer", "task", "environment", "golds"}
    assert found.policy.parameters == 7e9


def test_a_path_that_a_mix_would_not_read_is_found_before_anything_is_downloaded(recipe_file):
    mixed = "task={name: mix, path: rows.jsonl, sources: [{name: hub, path: some/data}]}"
    assert problems(recipe_file, mixed)["task"].startswith("task.path: mix does not read it")


def test_what_adapters_of_a_model_that_is_not_here_need_is_said_to_be_unknown(recipe_file, capsys):
    sets = ["model=some-org/some-model-7B", "lora.r=8"]
    found = check_recipe(load_recipe(recipe_file, sets))
    assert found.passed and (found.policy.parameters, found.policy.trainable) == (7e9, 0)
    assert dry_run(load_recipe(recipe_file, sets))
    shown = capsys.readouterr().out
    assert "7,000.0 M trained" not in shown and "gradients and Adam states of the adapters" in shown
    assert "of the adapters" not in (dry_run(load_recipe(recipe_file, sets[:1])), capsys.readouterr().out)[1]


# ---------------------------------------------------------------- the estimate


def test_the_shape_is_the_models_own(tiny_model, tiny_model_dir):
    shape = shape_of(str(tiny_model_dir))
    assert shape.parameters == tiny_model.num_parameters()
    assert (shape.layers, shape.hidden, shape.query, shape.key, shape.mlp) == (2, 32, 64, 32, 64)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], r".*o_proj"])
def test_adapter_parameters_are_what_peft_makes(tiny_model, tiny_model_dir, targets):
    from peft import LoraConfig, get_peft_model

    peft = get_peft_model(tiny_model, LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    trained = sum(weight.numel() for weight in peft.parameters() if weight.requires_grad)
    lora = LoraSection(r=4, target_modules=targets)
    assert shape_of(str(tiny_model_dir), lora).trainable == trained


def test_names_that_state_a_size():
    assert shape_from_name("Qwen/Qwen2.5-1.5B").parameters == 1_500_000_000
    assert shape_from_name("a/b-350M-chat").parameters == 350_000_000
    assert shape_from_name("openai/gpt") is None


def test_activations_are_near_what_autograd_keeps(make_tiny_model, recipe_file, tiny_model_dir):
    """Against the bytes that autograd really saves in a forward pass, each storage counted once, weights left out."""
    import torch

    model = make_tiny_model(layers=6).train()
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    hold = []  # or a freed storage's address would be used, and counted, twice
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (hold.append(t), pack(t))[1], lambda t: t):
        model.model(torch.randint(0, 57, (2, 64))).last_hidden_state.sum()
    shape = Shape(1, 1, layers=6, hidden=32, query=64, key=32, mlp=64, vocabulary=64)
    recipe = load_recipe(
        recipe_file,
        ["trainer.token_budget=128", "trainer.micro_batch_size=2", "environment.max_completion_length=32"],
    )
    items = {item.name: item.size for item in estimate(recipe, shape, {}, prompt=32)}
    assert 0.5 < items["activations"] / sum(kept.values()) < 2


def test_checkpoints_of_all_passes_of_a_micro_batch_are_kept_in_the_weights_type(make_tiny_model, recipe_file):
    """Two passes under bfloat16 autocast, both alive until the backward: the inputs of their layers are counted."""
    import torch

    model, kept = make_tiny_model(layers=6).train(), []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda _, given: kept.append(given[0].nbytes))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in range(2):
            model(torch.randint(0, 57, (1, 64)))
    shape = Shape(1, 1, layers=6, hidden=32, query=64, key=32, mlp=64, vocabulary=64)
    sets = ["trainer.gradient_checkpointing=true", "trainer.autocast_bf16=true", "trainer.token_budget=64"]
    sets += ["trainer.micro_batch_size=2", "environment.max_completion_length=32"]
    items = {item.name: item.size for item in estimate(load_recipe(recipe_file, sets), shape, {}, prompt=32)}
    one_layer = 2 * 64 * (6 * 32 + 2 * 64 + 2 * 32 + 4 * 64)
    assert items["activations"] - one_layer == sum(kept)


def test_the_estimate_follows_the_recipe(recipe_file, tmp_path, monkeypatch):
    monkeypatch.setattr("cib_rl.memory._device_memory", lambda: 0)
    shape = Shape(1000, 1000, layers=2, hidden=8, query=8, key=4, mlp=16, vocabulary=100)

    def sizes(*sets, **options):
        return {item.name: item.size for item in estimate(load_recipe(recipe_file, sets), shape, {}, **options)}

    plain = sizes(prompt=8)
    assert (
        plain["policy: weights"] == 4000 and plain["policy: gradients"] == 4000 and plain["policy: Adam states"] == 8000
    )
    # 8 completions of 8 + 32 tokens, below the budget: 4 bytes x 320 tokens x (6 h + 2 q + 2 k + 4 f) x 2 layers
    assert plain["activations"] == 2 * 4 * 320 * (48 + 16 + 8 + 64)
    assert plain["KV cache"] == 2 * 4 * 2 * 4 * 8 * 40
    assert sizes("trainer.dtype=bfloat16")["policy: weights"] == 2000
    assert sizes("trainer.kl=0.1")["reference: weights"] == 4000
    assert "reference: weights" not in sizes("trainer.kl=0.1", "lora.r=1")
    assert sizes("trainer.gradient_checkpointing=true", prompt=8)["activations"] < plain["activations"]
    assert sizes("engine.max_num_seqs=4", prompt=8)["KV cache"] == plain["KV cache"] / 2

    only_the_name = Shape(1000, 1000)
    vllm = "engine={name: vllm, gpu_memory_utilization: 0.4, dtype: bfloat16}"
    named = estimate(load_recipe(recipe_file, [vllm]), only_the_name, {})
    assert any(item.name.startswith("vLLM: weights") and "40% of the device" in item.note for item in named)
    assert sizes(vllm)["vLLM: weights"] == 2000
    assert "activations" not in {item.name for item in named}

    config = tmp_path / "zero2.json"
    config.write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    divided = sizes(f"trainer.deepspeed={config}", devices=2)
    assert (divided["policy: weights"], divided["policy: gradients"], divided["policy: Adam states"]) == (
        4000,
        2000,
        4000,
    )
    assert zero_stage(str(tmp_path / "none.json")) == 0


def test_an_error_is_printed_as_it_is(recipe_file, capsys):
    # rich would make a picture of ":x:"
    with_prior = "rewards=[{name: surprisal, prior: {name: 'bad.py:x:'}}, {name: 'bad.py:x:'}]"
    assert not dry_run(load_recipe(recipe_file, [with_prior]))
    assert "bad.py:x:" in capsys.readouterr().out


def test_no_console_makes_pictures_of_words_between_colons():
    root = Path(__file__).parents[1]
    files = [f for folder in ("cib_rl", "evals", "rewards") for f in (root / folder).rglob("*.py")]
    made = [(f.name, call) for f in files for call in re.findall(r"Console\([^)]*\)", f.read_text(encoding="utf-8"))]
    assert len(made) > 5 and [pair for pair in made if "emoji=False" not in pair[1]] == []


def test_bfloat16_weights_that_would_round_updates_away_are_warned_of(recipe_file):
    def precision(*sets):
        found = check_recipe(load_recipe(recipe_file, sets))
        return next(check.detail for check in found.checks if check.name == "precision")

    assert "round away" in precision("trainer.dtype=bfloat16", "trainer.learning_rate=1e-6")
    assert precision("trainer.autocast_bf16=true") == "weights in float32, passes in bfloat16"
    assert "round away" not in precision("trainer.dtype=bfloat16", "trainer.learning_rate=1e-3")


def test_ppo_counts_its_critic_and_refuses_one_that_reads_other_tokens(recipe_file, tiny_model_dir, tmp_path):
    found = check_recipe(load_recipe(recipe_file, ("trainer.name=ppo",)))
    assert found.passed and found.critic is not None
    items = {
        i.name: i.size
        for i in estimate(load_recipe(recipe_file, ("trainer.name=ppo",)), found.policy, {}, critic=found.critic)
    }
    assert items["critic: Adam states"] == 2 * items["critic: weights"] == 8 * found.critic.trainable
    other = tmp_path / "other"
    shutil.copytree(tiny_model_dir, other)
    tokenizer = other / "tokenizer.json"
    tokenizer.write_text(
        tokenizer.read_text().replace('"a": ', '"@@": ').replace('"b": ', '"a": ').replace('"@@": ', '"b": ')
    )
    refused = problems(recipe_file, "trainer.name=ppo", f"critic.model={other}")
    assert set(refused) == {"critic.model"} and "another vocabulary" in refused["critic.model"]
    assert "no folder" in problems(recipe_file, "trainer.name=ppo", "critic.model=./nowhere")["critic.model"]
