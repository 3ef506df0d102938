"""docs/recipe.md: its tables are those of the schema, every key is explained, every command in it is one."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from cib_rl.recipe import Recipe
from cib_rl.recipe_io import list_launch_files, load_recipe
from cib_rl.tasks import _KEYS, SOURCES

PAGE = Path(__file__).parents[2] / "docs" / "recipe.md"


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("make_recipe", PAGE.with_name("make_recipe.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_made_from_the_schema_as_it_is(maker) -> None:
    assert maker.page() == PAGE.read_text(encoding="utf-8"), "run: python docs/make_recipe.py"


def test_every_key_is_explained_and_every_section_has_a_table(maker) -> None:
    text = PAGE.read_text(encoding="utf-8")
    found = dict(maker.sections(Recipe))
    assert {"", "task", "trainer.filter", "trainer.importance", "logging"} <= found.keys()
    for path, schema in found.items():
        assert not path or f"### `{path}`" in text
        for name, info in schema.model_fields.items():
            assert info.description or maker.models_in(info.annotation), f"{path}.{name} has no description"


def test_the_overrides_it_shows_are_taken() -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = re.findall(r"--set (?:'([^']+)'|([\w.]+=[\w.-]+))", text.partition("## Keys")[0])
    sets = [quoted or plain for quoted, plain in shown if not plain.startswith(("a.b=", "task.name="))]
    assert len(sets) >= 5
    recipe = load_recipe("quickstart", sets)
    assert recipe.task.name == "jsonl" and recipe.evaluation is None and recipe.credit[0].kwargs["scale"] == "none"


def test_the_keys_of_every_source_of_rows_are_named() -> None:
    table = PAGE.read_text(encoding="utf-8").partition("## Rows")[2].partition("## ")[0]
    for name in SOURCES:
        (row,) = [line for line in table.splitlines() if line.startswith(f"| `{name}`")]
        assert all(f"`{key}`" in row for key in _KEYS.get(name, ()))
    assert all(f"launch/{name}" in list_launch_files() for name in ("zero2.yaml", "zero2.json"))
