"""docs/sft.md: its recipe is one, its keys and defaults are those of the code, its commands exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cib_rl.cli import app
from cib_rl.recipe_io import load_recipe
from cib_rl.trainers.sft_dry_run import dry_run_sft
from cib_rl.trainers.sft_settings import SFTModel, SFTSettings
from tests.conftest import build_tiny_model
from tests.trained_tokenizers import byte_level

PAGE = (Path(__file__).parents[2] / "docs" / "sft.md").read_text(encoding="utf-8")
RECIPE = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1]


def test_the_recipe_passes_its_dry_run_on_a_row_of_its_kind(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "warm.yaml").write_text(RECIPE, encoding="utf-8")
    completion = "<search>a</search>\n<evidence>b</evidence>\n<answer>c</answer>"
    rows = [{"prompt": "who", "completion": completion, "correct": right} for right in (True, False)]
    (tmp_path / "trajectories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    build_tiny_model(vocab_size=len(byte_level())).save_pretrained("tiny")
    byte_level().save_pretrained("tiny")
    config = json.loads((tmp_path / "tiny" / "config.json").read_text())
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))
    recipe = load_recipe("warm.yaml", ["models.policy.model=tiny"], schema=SFTSettings)
    assert dry_run_sft(recipe)
    shown = capsys.readouterr().out
    assert "1 rows: texts; 1 of 2 rows left out by where" in " ".join(shown.replace("│", " ").split())


def test_every_key_is_explained_with_its_default():
    table = PAGE[PAGE.index("| key of a model |") :]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    named = {}
    for keys, defaults in rows:
        names, values = re.findall(r"`(\w+)`", keys), [part.strip(" `") for part in defaults.split(",")]
        named |= dict(zip(names, values if len(values) == len(names) else [""] * len(names), strict=True))
    assert set(named) == set(SFTModel.model_fields)
    for name, value in named.items():
        if value:
            assert yaml.safe_load(value if "e-" not in value else f"{float(value)}") == pytest.approx(
                SFTModel.model_fields[name].default
            ), name


def test_the_commands_of_the_page_are_those_of_the_program():
    words = CliRunner().invoke(app, ["sft", "--help"]).output
    for option in set(re.findall(r"cib-rl sft .*?(--\w[\w-]+)", PAGE)) | {"--set"}:
        assert option in words
