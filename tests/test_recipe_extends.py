"""Recipes that extend another: what is merged, what is replaced, and where a mistake is said to be."""

from __future__ import annotations

import pytest
import yaml

from cib_rl.errors import RecipeError
from cib_rl.recipe_io import copy_recipe, dump_recipe, load_recipe

BASE = """\
model: some/model
task: {name: jsonl, path: rows.jsonl, columns: {prompt: question}}
environment: {name: search, k: 2, max_completion_length: 64, retriever: {name: bm25, index: here}}
engine: {name: transformers, threads: 1}
rewards:
  - {name: qa_em}
  - {name: surprisal, weight: 5e-5}
trainer:
  steps: 3
  prompts_per_step: 4
  learning_rate: 1e-4
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # as every path in a recipe, `extends` starts at the working directory

    def write(text, name="mine.yaml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    write(BASE, "base.yaml")
    return write


def fails(ref):
    with pytest.raises(RecipeError) as caught:
        load_recipe(ref)
    return str(caught.value)


def test_sections_merge_key_by_key_and_lists_are_replaced(write):
    recipe = load_recipe(
        write("extends: base.yaml\nenvironment: {k: 5}\nrewards: [{name: qa_f1}]\ntrainer: {steps: 9, name: ppo}\n")
    )
    base = load_recipe("base.yaml")
    assert recipe.environment.kwargs == base.environment.kwargs | {"k": 5}
    assert recipe.environment.max_completion_length == 64
    assert [reward.name for reward in recipe.rewards] == ["qa_f1"]
    assert (recipe.trainer.name, recipe.trainer.steps, recipe.trainer.learning_rate) == ("ppo", 9, 1e-4)
    assert recipe.source_name == "mine"
    assert load_recipe("base.yaml") == base  # nothing was changed below the feet of the next one


def test_a_section_of_another_plugin_replaces_the_bases(write):
    recipe = load_recipe(
        write(
            "extends: base.yaml\ntask: {name: countdown}\nenvironment: {retriever: {name: remote, url: 'http://x'}}\n"
        )
    )
    assert recipe.task.path is None and recipe.task.columns == {}
    assert recipe.environment.kwargs["retriever"] == {"name": "remote", "url": "http://x"}
    assert recipe.environment.kwargs["k"] == 2


def test_null_empties_a_key_and_overrides_come_last(write):
    name = write("extends: base.yaml\nengine: {threads: null}\ntrainer: {steps: 9}\n")
    assert load_recipe(name, ["trainer.steps=10"]).engine.threads is None
    assert load_recipe(name, ["trainer.steps=10"]).trainer.steps == 10


def test_a_recipe_extends_one_that_extends(write):
    write("extends: base.yaml\ntrainer: {steps: 9}\nseed: 1\n", "middle.yaml")
    recipe = load_recipe(write("extends: middle.yaml\nseed: 2\n"))
    assert (recipe.seed, recipe.trainer.steps, recipe.model) == (2, 9, "some/model")


def test_shipped_recipes_are_extended_by_name(write):
    tiny = load_recipe("search/tiny")
    mine = load_recipe(write("extends: search/tiny\nmodel: my/model\n"))
    assert mine.model == "my/model" and mine.environment == tiny.environment
    copied = copy_recipe("search/tiny_ppo", "copied.yaml")
    assert load_recipe(copied) == load_recipe("search/tiny_ppo")


def test_the_resolved_recipe_stands_alone(write):
    recipe = load_recipe(write("extends: base.yaml\nseed: 7\n"))
    text = dump_recipe(recipe)
    assert "extends" not in yaml.safe_load(text)
    assert load_recipe(write(text, "resolved.yaml")) == recipe


def test_a_mistake_is_said_where_it_stands(write):
    write(BASE.replace("steps: 3", "steps: none"), "base.yaml")
    message = fails(write("extends: base.yaml\n\ntrainer: {prompts_per_step: 0}\nenvironmnt: {k: 1}\n"))
    assert "base.yaml:9: `trainer.steps`" in message
    assert "mine.yaml:3: `trainer.prompts_per_step`" in message
    assert "mine.yaml:4: " in message and "environmnt" in message
    assert "base.yaml:9" not in fails(write("extends: base.yaml\ntrainer: {steps: 2, prompts_per_step: 0}\n"))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("nope", "mine.yaml:2: extends: no recipe 'nope'"),
        ("[base.yaml]", "mine.yaml:2: extends: expected the name or the file of one recipe"),
        ("mine.yaml", "mine.yaml:2: extends: 'mine.yaml' extends this one in turn"),
        ("other.yaml", "other.yaml:1: extends: 'mine.yaml' extends this one in turn"),
        ("'.'", "is a folder"),
    ],
)
def test_what_cannot_be_extended_is_named(write, value, words):
    write("extends: mine.yaml\n", "other.yaml")
    assert words in fails(write(f"seed: 1\nextends: {value}\n"))
