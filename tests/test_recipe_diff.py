"""Two recipes side by side: what differs, and only that."""

from __future__ import annotations

import json

import pytest
import yaml
from typer.testing import CliRunner

from cib_rl.cli import app
from cib_rl.recipe_diff import differences, resolved
from cib_rl.recipe_io import dump_recipe, list_recipes, load_recipe


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(
        "extends: search/tiny\nrewards: [{name: qa_em}]\ntrainer: {steps: 91, epsilon: 0.2}\nsampling: {top_p: 0.9}\n"
        "environment: {k: 3}\n"
    )
    return str(file)


def test_keys_that_differ_are_told_and_what_only_repeats_a_default_is_not(own):
    default = load_recipe("search/tiny").trainer.epsilon
    assert default == 0.2  # which the file says once more
    assert differences(resolved("search/tiny"), resolved(own)) == [
        ("environment.k", "2", "3"),
        ("sampling.top_p", "1.0", "0.9"),
        ("rewards.1.name", '"parallel_search"', "-"),
        *((f"rewards.1.{key}", value, "-") for key, value in SECOND_REWARD.items()),
        ("trainer.steps", "90", "91"),
    ]


SECOND_REWARD = {
    "weight": "1.0", "only_when_correct": "false", "max_error_share": "0.5", "labels": '"type"',
    "max_word_overlap": "0.6", "max_document_overlap": "0.7", "anchored": "true",
}  # fmt: skip


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_is_equal_to_itself_and_to_its_run_folders(name, tmp_path):
    assert differences(resolved(name), resolved(name)) == []
    if "models" not in resolved(name):
        (tmp_path / "recipe.yaml").write_text(dump_recipe(load_recipe(name)))
        assert differences(resolved(name), resolved(str(tmp_path))) == []


def test_what_differs_turns_one_recipe_into_the_other(own, tmp_path):
    """The second value of every key, set in the first recipe, leaves no difference."""
    found = differences(resolved(own), resolved("search/tiny"))
    data = resolved(own)
    for key, _, after in found:
        place = data
        *above, last = key.split(".")
        for name in above:
            if isinstance(place, list):
                place += [{}] * (int(name) + 1 - len(place))
            place = place[int(name) if isinstance(place, list) else name]
        place[last] = json.loads(after)
    (tmp_path / "back.yaml").write_text(yaml.safe_dump(data))
    assert found and differences(resolved(str(tmp_path / "back.yaml")), resolved("search/tiny")) == []


def test_the_command_prints_a_line_a_key(own):
    done = CliRunner().invoke(app, ["recipes", "diff", "search/tiny", own])
    lines = [line.split() for line in done.output.splitlines()]
    assert done.exit_code == 0 and ["environment.k", "2", "→", "3"] in lines and len(lines) == 11
    assert CliRunner().invoke(app, ["recipes", "diff", own, own]).output == ""
    assert "no recipe 'nope'" in CliRunner().invoke(app, ["recipes", "diff", own, "nope"]).output
