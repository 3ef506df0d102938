"""The classes of `docs/environments.md` play, train, and say what is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from cib_rl.engines.base import Sampling
from cib_rl.environments.factory import make_environment
from cib_rl.errors import UserError
from cib_rl.recipe import EnvironmentSection
from cib_rl.rollout import Episode, Rollouts
from cib_rl.trainers import run
from cib_rl.trajectory import StopReason
from tests.environments.scripted import ScriptedEngine
from tests.environments.test_search import Script
from tests.trained_tokenizers import byte_level
from tests.trainers.support import HERE, RandomEngine, tiny_recipe

PAGE = (Path(__file__).parents[2] / "docs" / "environments.md").read_text()
FILES = {name: code for name, code in re.findall(r"^```python\n# (\S+)\n(.*?)^```$", PAGE, re.M | re.S)}
SECTIONS = [yaml.safe_load(text)["environment"] for text in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)]
GUESS, SEARCH = SECTIONS


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _play(engine, tokenizer, section):
    environment = make_environment(EnvironmentSection(**section), tokenizer)
    task = {"id": "0", "prompt": "a number? ", "answer": "7"}
    (made,) = Rollouts(environment, engine, tokenizer, "tag").run([Episode(task, 0, 0, 1)], Sampling(max_tokens=256))
    return made


def test_the_example_tells_higher_and_lower_until_it_is_found(folder):
    tokenizer = byte_level()
    says = [
        "<answer>3</answer>",
        "<answer>x</answer>",
        "<answer>9</answer>",
        "<answer>7</answer>",
        "<answer>1</answer>",
    ]
    t = _play(Script(tokenizer, says), tokenizer, GUESS)
    assert t.text == f"{says[0]}\nhigher\n{says[1]}\nno number\n{says[2]}\nlower\n{says[3]}"
    assert (t.answer, t.stop_reason, t.diagnostics) == ("7", StopReason.STOP_STRING, {"guesses": 4.0})
    assert t.policy_text == "".join(says[:4])
    t = _play(Script(tokenizer, says), tokenizer, GUESS | {"turns": 2})
    assert t.stop_reason is StopReason.MAX_TURNS and t.truncated and len(t.turns) == 2


@pytest.mark.trl
def test_the_example_trains(folder, tiny_model_dir, monkeypatch):
    monkeypatch.setattr(run, "make_engine", lambda *_: RandomEngine())
    rewards = [{"name": f"{HERE}:even_length"}]
    done = run.train(tiny_recipe(tiny_model_dir, folder, environment=GUESS, rewards=rewards), progress=False)
    line = json.loads((done / "metrics.jsonl").read_text().splitlines()[0])
    assert line["diagnostics/guesses"] >= 1


def test_wrong_keys_are_named(folder, tiny_tokenizer):
    with pytest.raises(UserError, match=r"environment.turn: no key of Guess; known: turns"):
        _play(ScriptedEngine(tiny_tokenizer), tiny_tokenizer, GUESS | {"turn": 2})
    with pytest.raises(UserError, match=r"guess.py has no environment 'Gess' \(did you mean 'Guess'\?\)"):
        _play(ScriptedEngine(tiny_tokenizer), tiny_tokenizer, GUESS | {"name": "guess.py:Gess"})


def test_the_retriever_is_searched(folder):
    (folder / "texts.json").write_text(json.dumps({"Esk": "The Esk is a river."}))
    tokenizer = byte_level()
    says = ["<search>Esk ## Tay</search>", "<answer>a river</answer>"]
    t = _play(Script(tokenizer, says), tokenizer, SEARCH)
    assert "The Esk is a river." in t.text and "Nothing was found." in t.text and t.answer == "a river"
    assert [[d["id"] for d in some] for some in t.turns[0].documents] == [["Esk"], []]
