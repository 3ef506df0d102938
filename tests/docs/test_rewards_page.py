"""docs/rewards.md: its example runs, its catalogue is that of the code, its keys are the recipe's."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import yaml

from cib_rl.plugin import RewardContext, RewardSuite
from cib_rl.plugin.signature import RESERVED
from cib_rl.recipe import RewardSection
from tests.plugin.conftest import trajectory

PAGE = Path(__file__).parents[2] / "docs" / "rewards.md"


def test_the_catalogue_is_made_from_the_code_as_it_is() -> None:
    spec = importlib.util.spec_from_file_location("make_rewards", PAGE.with_name("make_rewards.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.page() == PAGE.read_text(encoding="utf-8"), "run: python docs/make_rewards.py"


def test_the_example_is_thirty_lines_and_does_what_it_says(tmp_path: Path) -> None:
    blocks = re.findall(r"```(python|yaml)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (_, source), (_, recipe) = blocks[:2]
    assert len(source.splitlines()) <= 30
    (tmp_path / "my_rewards.py").write_text(source)
    sections = [RewardSection(**section) for section in yaml.safe_load(recipe)["rewards"]]

    class Words:
        def decode(self, ids: list[int]) -> str:
            return {5: "NO", 6: "no"}[ids[0]]

    (tmp_path / "judge.py").write_text(
        "from cib_rl import reward\n"
        "@reward('math_correct', kind='outcome')\ndef judge(ts): return [t.task['right'] for t in ts]\n"
    )
    sections[0] = RewardSection(name="judge.py:judge")
    suite = RewardSuite(sections, RewardContext(base_dir=tmp_path, tokenizer=Words()))
    rows = [trajectory(0, tokens=n, right=right) for n, right in ((10, 1.0), (11, 1.0), (12, 1.0), (2, 0.0))]
    scores = suite.score(rows)
    assert scores.values["shortest_of_group"].tolist() == [1.0, 1.0, 0.0, 0.0]  # slack 1.1 of the recipe
    assert scores.values["no_shouting"].tolist() == [-1.0] * 4  # the first token of each
    assert scores.total[0] == 1.0 + 0.2 * 1.0 + 0.01 * -1.0


def test_the_table_of_keys_is_complete() -> None:
    table = PAGE.read_text(encoding="utf-8").partition("## Keys of every reward")[2].partition("## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(RESERVED)
