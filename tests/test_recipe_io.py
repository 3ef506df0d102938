"""Reading recipes: what a right one gives, and what each kind of wrong one says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl import recipe_io
from cib_rl.errors import RecipeError
from cib_rl.recipe import Recipe
from cib_rl.recipe_io import copy_recipe, dump_recipe, find_recipe, list_recipes, load_recipe, override_recipe
from cib_rl.yaml_lines import parse_document, parse_scalar

GOOD = """\
model: some/model
task: {name: countdown}
environment:
  max_completion_length: 64
rewards:
  - {name: countdown_correct}
  - name: surprisal
    weight: 5e-5
trainer:
  steps: 3
  prompts_per_step: 4
  learning_rate: 1e-4
  filter: {zero_variance: off}
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def fails(ref, overrides=()) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(ref, overrides)
    return str(caught.value)


def test_a_recipe_is_read_with_yaml_1_2_scalars(write):
    recipe = load_recipe(write(GOOD))
    assert recipe.rewards[1].weight == 5e-5
    assert recipe.trainer.learning_rate == 1e-4
    assert recipe.trainer.filter.zero_variance == "off"
    assert recipe.source_name == "mine"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),
        ("yes", "yes"),
        ("true", True),
        ("5e-5", 5e-5),
        ("-1.5E+3", -1500.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("010", 10),
        ("-3", -3),
        ("0x10", "0x10"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        (".inf", float("inf")),
        ("", None),
        ("~", None),
        ("null", None),
        ("[1, a]", [1, "a"]),
        ("2024-01-01", "2024-01-01"),
    ],
)
def test_scalars(text, value):
    found = parse_scalar(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("  steps: 3", "  stps: 3", 10, ["`trainer.stps`", "did you mean `steps`"]),
        ("{zero_variance: off}", "{zero_varianse: off}", 13, ["`trainer.filter.zero_varianse`", "`zero_variance`"]),
        ("trainer:\n", "trainer:\n  quux: 1\n", 10, ["unknown key `trainer.quux`", "valid keys:", "prompts_per_step"]),
        ("  steps: 3", "  steps: ten", 10, ["`trainer.steps`", "a whole number", "'ten'"]),
        ("  steps: 3", "  steps:", 10, ["`trainer.steps`", "a whole number", "empty"]),
        ("  steps: 3", "  steps: 0", 10, ["`trainer.steps`", "at least 1", "0"]),
        ("5e-5", "[1]", 8, ["`rewards.1.weight`", "a number", "a list"]),
        ("5e-5", ".nan", 8, ["`rewards.1.weight`", "a finite number"]),
        ("{zero_variance: off}", "{zero_variance: of}", 13, ["'off'", "'outcome'", "'of'"]),
        ("model: some/model", "model: 3", 1, ["`model`", "text", "3"]),
        ("task: {name: countdown}", "task: countdown", 2, ["`task`", "a section", "'countdown'"]),
        ("model: some/model", "lora: {r: 1.5}\nmodel: x", 1, ["`lora.r`", "whole number"]),
        ("  max_completion_length: 64", "  max_completion_lenght: 64", 4,
         ["`environment.max_completion_length` is missing", "`max_completion_lenght` a misspelling"]),
        ("  steps: 3\n", "", 9, ["`trainer.steps` is missing and has no default"]),
        ("  steps: 3", "  steps: 3\n  steps: 4", 11, ["`trainer.steps` is given twice", "line 10"]),
        ("  steps: 3", "  steps: [3", 11, ["not valid YAML"]),
        ("  steps: 3", "  steps: 3\n steps: 4", 11, ["not valid YAML"]),
        ("  - name: surprisal", "  - name: countdown_correct", 5, ["`rewards`", "labelled 'countdown_correct'"]),
        ("model: some/model", "engine: {name: vllm}\nmodel: x\nsampling: {top_p: 0.9}", 3,
         ["sampling.top_p", "trainer.importance.enabled"]),
        ("model: some/model", "model: x\nsampling: {group_size: 1}", 2, ["sampling.group_size: 1", "at least 2"]),
        ("trainer:", "3: x\ntrainer:", 9, ["`3` must be text"]),
    ],
)  # fmt: skip
def test_a_wrong_recipe_names_file_line_key_and_the_way_out(write, old, new, line, words):
    assert old in GOOD
    path = write(GOOD.replace(old, new, 1))
    message = fails(path)
    assert message.startswith(f"{path}:{line}: "), message
    assert all(word in message for word in words), message


def test_a_missing_top_level_key_names_the_file(write):
    message = fails(write(GOOD.replace("model: some/model\n", "")))
    assert "mine.yaml: `model` is missing" in message and "hub id, folder" in message


def test_all_problems_are_reported_at_once(write):
    message = fails(write(GOOD.replace("steps: 3", "steps: x").replace("1e-4", "-1")))
    assert [line.split(": ")[1] for line in message.splitlines()] == [
        "`trainer.steps` must be a whole number, not 'x'",
        "`trainer.learning_rate` must be greater than 0.0, not -1",
    ]


@pytest.mark.parametrize(("text", "words"), [("", "empty"), ("- a\n", "top level"), ("# only\n", "empty")])
def test_what_is_no_mapping_is_refused(write, text, words):
    assert words in fails(write(text))


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in fails(tmp_path / "bad.yaml")


# ---------------------------------------------------------------- overrides


def test_overrides_reach_sections_list_items_and_defaults(write):
    recipe = load_recipe(
        write(GOOD),
        [
            "trainer.steps=7",
            "rewards.surprisal.weight=1e-3",
            "rewards.0.label=right",
            "rewards.right.weight=2",
            "rewards.surprisal.prior={name: uniform}",
            "credit.group.scale=none",
            "lora.r=4",
            "run_name=off",
            "engine.max_model_len=",
        ],
    )
    assert recipe.trainer.steps == 7
    assert [r.weight for r in recipe.rewards] == [2, 1e-3]
    assert recipe.rewards[1].kwargs == {"prior": {"name": "uniform"}}
    assert recipe.credit[0].kwargs == {"scale": "none"}
    assert recipe.lora.r == 4
    assert recipe.run_name == "off"
    assert recipe.engine.max_model_len is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.stps=3", ["unknown key `trainer.stps`", "`steps`"]),
        ("trainer.steps=x", ["`trainer.steps`", "whole number"]),
        ("trainer.steps", ["KEY=VALUE"]),
        ("=3", ["KEY=VALUE"]),
        ("trainer.steps=[", ["not valid YAML"]),
        ("rewards.surprisl.weight=1", ["no item named 'surprisl'", "'surprisal'"]),
        ("rewards.2.weight=1", ["2 items", "no item 2"]),
        ("rewards.-1.weight=1", ["no item -1"]),
        ("model.x=1", ["'some/model'", "no keys below"]),
    ],
)
def test_a_wrong_override_is_named(write, override, words):
    message = fails(write(GOOD), [override])
    assert message.startswith(f"--set {override}: ") and all(word in message for word in words), message


def test_an_override_can_mend_a_wrong_file(write):
    assert load_recipe(write(GOOD.replace("steps: 3", "steps: x")), ["trainer.steps=5"]).trainer.steps == 5


def test_mappings_override_only_the_keys_they_hold(write):
    recipe = load_recipe(write(GOOD), {"trainer": {"steps": 9}, "environment.timeout": 3})
    assert (recipe.trainer.steps, recipe.trainer.prompts_per_step, recipe.environment.timeout) == (9, 4, 3.0)
    again = override_recipe(recipe, {"seed": 5})
    assert (again.seed, again.trainer.steps, again.source_name, recipe.seed) == (5, 9, "mine", 0)


# ---------------------------------------------------------------- writing


def test_a_dumped_recipe_reads_back_equal(write):
    recipe = load_recipe(write(GOOD), ["lora.target_modules=[q_proj]", "environment.stop=['\\n', off]"])
    assert load_recipe(write(dump_recipe(recipe), "again.yaml")) == recipe


@given(st.text(max_size=30), st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 10**9))
def test_any_value_survives_dumping(tmp_path_factory, text, weight, seed):
    recipe = Recipe(
        model="m",
        seed=seed,
        task={"name": "countdown"},
        environment={"max_completion_length": 1, "suffix": text, "stop": [text]},
        rewards=[{"name": "r", "weight": weight, "note": text}],
        trainer={"steps": 1, "prompts_per_step": 1, "learning_rate": 1e-6},
    )
    assert Recipe.model_validate(parse_document(dump_recipe(recipe), "dump").data) == recipe


# ---------------------------------------------------------------- shipped recipes


def _is_training_recipe(name: str) -> bool:
    return "models" not in parse_document(find_recipe(name).read_text(encoding="utf-8"), name).data


def test_every_shipped_training_recipe_fits_the_schema():
    names = [name for name in list_recipes() if _is_training_recipe(name)]
    assert {"quickstart", "math/cib_grpo_gsm8k", "math/cib_grpo_deepscaler"} <= set(names)
    for name in names:
        recipe = load_recipe(name)
        assert load_recipe(name, [f"seed={recipe.seed + 1}"]).seed == recipe.seed + 1


def test_the_papers_recipe_holds_the_papers_numbers():
    # arXiv 2603.08462, section 5.1, appendix D, table 2
    recipe = load_recipe("math/cib_grpo_deepscaler")
    trainer = recipe.trainer
    assert recipe.model == "agentica-org/DeepScaleR-1.5B-Preview"
    assert recipe.rewards[1].kwargs["prior"]["model"] == "Qwen/Qwen2.5-1.5B"
    assert recipe.rewards[1].weight == 1.5e-4
    assert (recipe.sampling.group_size, recipe.sampling.temperature) == (16, 0.8)
    assert trainer.prompts_per_step * recipe.sampling.group_size == 128
    assert recipe.environment.max_completion_length == 8196
    assert (trainer.learning_rate, trainer.warmup_ratio, trainer.kl) == (1e-6, 0.03, 5e-4)
    assert (trainer.steps, trainer.max_grad_norm, trainer.schedule) == (150, 1.0, "constant_with_warmup")
    assert recipe.credit[0].kwargs["scale"] == "reward_std"


@pytest.mark.parametrize(
    ("name", "near"), [("quickstrt", "quickstart"), ("cib_grpo_gsm8k", "math/cib_grpo_gsm8k"), ("nope.yaml", None)]
)
def test_an_unknown_name_lists_the_known_ones(name, near):
    message = fails(name)
    assert f"no recipe {name!r}" in message and "math/cib_grpo_deepscaler" in message
    assert (f"Did you mean {near!r}?" in message) if near else ("Did you mean" not in message)


def test_a_folder_is_no_recipe(tmp_path):
    assert "is a folder" in fails(tmp_path)


def test_copying_never_overwrites(tmp_path):
    path = copy_recipe("quickstart", tmp_path)
    assert path == tmp_path / "quickstart.yaml"
    path.write_text("mine")
    with pytest.raises(RecipeError, match="exists already"):
        copy_recipe("quickstart", tmp_path)
    with pytest.raises(RecipeError, match="exists already"):
        copy_recipe("quickstart", path)
    assert path.read_text() == "mine"
    with pytest.raises(RecipeError, match="cannot be written"):
        copy_recipe("quickstart", tmp_path / "none" / "x.yaml")


def test_every_schedule_on_offer_needs_no_settings_that_a_recipe_does_not_have():
    from typing import get_args

    import torch
    from transformers import get_scheduler

    from cib_rl.recipe import TrainerSection

    for name in get_args(TrainerSection.model_fields["schedule"].annotation):
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
        scheduler = get_scheduler(name, optimizer, num_warmup_steps=2, num_training_steps=10)
        for _ in range(10):
            optimizer.step()
            scheduler.step()


def test_launch_configurations_can_be_copied_but_are_no_recipes(tmp_path):
    assert not any(name.startswith("launch") for name in list_recipes())
    assert copy_recipe("launch/zero2.yaml", tmp_path).is_file()
    assert recipe_io.recipe_summary("quickstart").startswith("The embedded default")
