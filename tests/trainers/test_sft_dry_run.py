"""The dry run of supervised training: it shows what would be learned, finds what is wrong, and leaves nothing."""

from __future__ import annotations

import io
import json

import pytest
import torch
import yaml
from rich.console import Console
from typer.testing import CliRunner

from cib_rl.cli import app
from cib_rl.memory import estimate_supervised, shape_of, shape_of_config
from cib_rl.trainers.sft import run_sft
from cib_rl.trainers.sft_data import Example
from cib_rl.trainers.sft_dry_run import _model, _Plan, _table_of, dry_run_sft
from cib_rl.trainers.sft_model import make_optimizers, new_config, new_model
from cib_rl.trainers.sft_settings import SFTModel, SFTSettings
from tests.conftest import build_tiny_tokenizer
from tests.trained_tokenizers import byte_level

SHAPE = {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 48, "max_positions": 256}
TALK = [
    {"role": "user", "content": "who was it?"},
    {"role": "assistant", "content": "search: it"},
    {"role": "tool", "content": "it was b"},
    {"role": "assistant", "content": "b"},
]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        json.dumps({"messages": TALK, "ok": True}) + "\n" + json.dumps({"messages": TALK, "ok": False}) + "\n"
    )
    return str(path)


def settings(folder, **models):
    return SFTSettings.model_validate({"output": folder / "out", "models": models})


def shown(recipe, **keys):
    console = Console(width=200, record=True, file=io.StringIO())
    passed = dry_run_sft(recipe, console=console, **keys)
    return passed, console.export_text()


def test_it_shows_a_row_with_what_is_learned_and_counts(tmp_path, rows, tiny_model_dir):
    model = {"data": rows, "where": {"ok": True}, "model": str(tiny_model_dir), "steps": 10, "batch_size": 3}
    before = sorted(tmp_path.rglob("*"))
    passed, text = shown(settings(tmp_path, m=model))
    assert passed and sorted(tmp_path.rglob("*")) == before
    marked = [line.split("│")[1:4] for line in text.splitlines() if line.startswith(("│ read", "│ learned"))]
    assert [[cell.strip() for cell in line] for line in marked] == [
        ["read", "12", "who was it?"],
        ["learned", "11", "search: it<eos>"],
        ["read", "10", ""],
        ["learned", "2", "b<eos>"],
    ]
    assert "1 rows: messages; 1 of 2 rows left out by where" in text
    assert "1 contexts of 35 to 35 tokens, 35 in all; 13 (37.1%) learned" in text
    assert "10 steps, each 3 contexts, 30 in all: 30.0 times the 1 there are" in text


def test_brackets_in_a_row_are_no_markup():
    tokenizer = byte_level()
    ids = tuple(tokenizer.encode("a [bold]b[/bold] c"))
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(_table_of(Example(ids, ((1, len(ids)),)), tokenizer, "row"))
    assert " [bold]b[/bold] c" in console.export_text()


def test_every_problem_is_found_in_one_go(tmp_path, rows, tiny_model_dir):
    (tmp_path / "out" / "one").mkdir(parents=True)
    models = {
        "one": {"data": str(tmp_path / "nowhere.jsonl")},
        "two": {"data": rows, "model": str(tmp_path)},
        "three": {"data": rows, "model": str(tiny_model_dir), "max_length": 9000},
        "four": {"data": rows, "model": str(tiny_model_dir), "max_length": 20},
        "five": {"data": rows, "model": str(tiny_model_dir), "environment": {"chat_template": "always"}},
    }
    passed, text = shown(settings(tmp_path, **models))
    assert not passed
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    for line, (check, reason) in zip(
        errors,
        [
            ("output", "one exists already"),
            ("one: data", "no file or folder"),
            ("two: tokenizer", "is no model folder"),
            ("three: model", "max_length 9,000 exceeds the 512 positions"),
            ("four: rows", "fits in max_length 20"),
            ("five: rows", "need a chat template"),
        ],
        strict=True,
    ):
        assert line.startswith(f"error: {check}: ") and reason in line


def test_a_tokenizer_larger_than_the_model_is_found(tmp_path, rows, tiny_model_dir, make_tiny_model):
    make_tiny_model(vocab_size=40).save_pretrained(tmp_path / "small")
    model = {"data": rows, "model": str(tmp_path / "small"), "tokenizer": str(tiny_model_dir)}
    passed, text = shown(settings(tmp_path, m=model))
    assert not passed and "the tokenizer has 57 tokens, the model embeddings for 40" in text


def test_a_tokenizer_that_the_recipe_makes_itself_is_not_looked_for(tmp_path, rows):
    policy = {"data": rows, "vocab_size": 280, "shape": SHAPE}
    prior = {"data": rows, "tokenizer": str(tmp_path / "out" / "policy"), "blind": True, "shape": SHAPE}
    passed, text = shown(settings(tmp_path, policy=policy, prior=prior))
    assert passed and "is made by this recipe before" in text


def test_demonstrations_are_drawn_and_shown(tmp_path):
    passed, text = shown(settings(tmp_path, policy={"shape": SHAPE, "max_length": 240}))
    assert passed and "of 512 drawn here" in text and "│ learned │" in text


def test_with_resume_it_says_where_each_model_stands(tmp_path):
    recipe = settings(tmp_path, a={"shape": SHAPE, "max_length": 240, "steps": 1, "batch_size": 2})
    passed, text = shown(recipe, resume=True)
    assert not passed and "holds nothing to resume" in text
    run_sft(recipe, lambda line: None)
    two = settings(tmp_path, a=recipe.models["a"].model_dump(), b={"shape": SHAPE, "max_length": 240})
    passed, text = shown(two, resume=True)
    assert passed and "a is finished; b starts anew" in text


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_memory_counted_for_the_optimizers_is_what_they_keep(tmp_path, optimizer):
    chosen = SFTModel(shape=SHAPE, max_length=240, optimizer=optimizer)
    plan = _Plan("m", chosen, frozenset(), tokenizer=build_tiny_tokenizer())
    assert _model(plan)[0] == "ok"
    model = new_model(chosen.shape, build_tiny_tokenizer())
    optimizers = make_optimizers(model, chosen)
    model(input_ids=torch.tensor([[5, 6, 7]])).logits.sum().backward()
    kept = 0
    for one in optimizers:
        one.step()
        kept += sum(value.numel() for state in one.state.values() for name, value in state.items() if name != "step")
    assert plan.states == kept
    items = {item.name: item.size for item in estimate_supervised(plan.shape, states=kept, tokens=100, autocast=False)}
    weights = sum(weight.numel() for weight in model.parameters())
    assert items["model: weights"] == items["model: gradients"] == 4 * weights
    assert items["model: optimizer states"] == 4 * kept and items["logits"] == 12 * 100 * 57


def test_the_command_line_knows_both(tmp_path, rows, tiny_model_dir):
    model = {"data": rows, "model": str(tiny_model_dir), "steps": 1, "batch_size": 1}
    recipe = tmp_path / "r.yaml"
    recipe.write_text(yaml.safe_dump({"output": str(tmp_path / "out"), "models": {"m": model}}))
    result = CliRunner().invoke(app, ["sft", str(recipe), "--dry-run"])
    assert result.exit_code == 0 and "no check failed" in result.output and not (tmp_path / "out").exists()
    result = CliRunner().invoke(app, ["sft", str(recipe), "--dry-run", "--set", "models.m.data=none.jsonl"])
    assert result.exit_code == 1 and "error: m: data: no file or folder none.jsonl" in result.output
    result = CliRunner().invoke(app, ["sft", str(recipe), "--resume"])
    assert result.exit_code == 2 and "holds nothing to resume" in result.output
    assert CliRunner().invoke(app, ["sft", str(recipe)]).exit_code == 0
    assert CliRunner().invoke(app, ["sft", str(recipe), "--resume"]).exit_code == 0


def test_the_shape_of_a_new_model_is_that_of_the_model_itself(tmp_path):
    chosen = SFTModel(shape=SHAPE, max_length=240)
    new_model(chosen.shape, build_tiny_tokenizer()).save_pretrained(tmp_path / "m")
    assert shape_of(str(tmp_path / "m")) == shape_of_config(new_config(chosen.shape, build_tiny_tokenizer()))
