"""The code of `docs/integrations.md` runs."""

from __future__ import annotations

import functools
import importlib
import importlib.resources
import re
from pathlib import Path

import datasets
import pytest
import trl

from tests.conftest import build_tiny_model, build_tiny_tokenizer
from tests.integrations.support import CHAT, rows

PAGE = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
FILES = {re.match(r"# (\S+\.py)\n", code)[1]: code for code in PYTHON if code.startswith("# ")}
COMMANDS = [code for language, code in BLOCKS if language == ""]


@pytest.fixture
def model(tmp_path):
    """A tiny model under the name that the page has for the policy, its prior and its tokenizer."""
    folder = tmp_path / "model"
    build_tiny_model().save_pretrained(folder)
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    return folder


def with_tiny_model(code, folder):
    replaced, count = re.subn(r'"Qwen/[\w.-]+"', repr(str(folder)), code)
    assert count
    return replaced


@pytest.mark.trl
def test_the_lines_for_trl_train(model, tmp_path, monkeypatch):
    small = functools.partial(
        trl.GRPOConfig, max_steps=1, max_completion_length=8, use_cpu=True, report_to="none", disable_tqdm=True
    )
    monkeypatch.setattr(trl, "GRPOConfig", small)
    data = [{k: row[k] for k in ("prompt", "solution")} for row in rows(conversational=True)]
    monkeypatch.setattr(datasets, "load_dataset", lambda path, split: datasets.Dataset.from_list(data))
    monkeypatch.chdir(tmp_path)
    train, further = (code for code in PYTHON if "import as_trl" in code)
    (hicra,) = (code for code in PYTHON if "import HicraMixin" in code)
    scope: dict = {}
    exec(with_tiny_model(train, model), scope)
    exec(further, scope)
    assert {"rewards/math_correct/mean", "rewards/surprisal/mean"} <= set(scope["trainer"].state.log_history[0])
    assert scope["trainer"].state.global_step == 1
    assert (scope["kimi"].__name__, scope["cost"].__name__) == ("kimi_length", "tokens")
    exec(hicra, scope)
    assert "hicra/planning_share" in scope["trainer"].state.log_history[0]


def test_the_files_for_verl_hold_what_the_commands_name(reward_loop, model, tmp_path):
    """Each command's file is a block of the page, which defines the object that the command names."""
    files = {name: code for name, code in FILES.items() if "register_verl_hicra" not in code}
    named = 0
    for command in COMMANDS:
        if "adv_estimator" in command:
            continue
        keys = dict(re.findall(r"(\S+)=(\S+)", command))
        file = next(value for key, value in keys.items() if key.endswith(".path"))
        name = next(value for key, value in keys.items() if key.endswith(".name"))
        code = with_tiny_model(files[file], model) if "Qwen" in files[file] else files[file]
        scope: dict = {}
        exec(code, scope)
        assert callable(scope[name])
        named += 1
        if "reward_model.reward_manager" in keys:
            found = importlib.import_module("verl.workers.reward_manager").get_reward_manager_cls("cib")
            assert found is scope[name]
    assert named == len(files) == 3


def test_the_file_for_hicra_registers_what_its_command_names(verl, model, tmp_path, monkeypatch):
    algorithms = pytest.importorskip("verl.trainer.ppo.core_algos")
    trainer = importlib.import_module("verl.trainer.ppo.ray_trainer")
    monkeypatch.setattr(trainer, "compute_advantage", trainer.compute_advantage)
    monkeypatch.setattr(algorithms, "ADV_ESTIMATOR_REGISTRY", dict(algorithms.ADV_ESTIMATOR_REGISTRY))
    (command,) = (command for command in COMMANDS if "adv_estimator" in command)
    module, name = (re.search(rf"{key}=(\w+)", command)[1] for key in ("VERL_USE_EXTERNAL_MODULES", "adv_estimator"))
    (tmp_path / "grams.txt").write_text("wait\n")
    monkeypatch.chdir(tmp_path)
    exec(with_tiny_model(FILES[f"{module}.py"], model), {})
    assert callable(algorithms.get_adv_estimator_fn(name))


def test_the_keys_of_the_commands_are_verls(real_verl):
    """verl 0.7.1 and later; the older ones' keys are those without the leading `reward.`."""
    omegaconf = pytest.importorskip("omegaconf")
    defaults = importlib.resources.files("verl") / "trainer" / "config" / "reward" / "reward.yaml"
    if not defaults.is_file():
        pytest.skip("this verl has the older configuration")
    config = omegaconf.OmegaConf.create({"reward": omegaconf.OmegaConf.load(str(defaults))})
    keys = [key for command in COMMANDS for key in re.findall(r"\s(reward\.\S+)=", command)]
    assert len(keys) == 6
    for key in keys:
        parent, _, last = key.rpartition(".")
        assert last in omegaconf.OmegaConf.select(config, parent), key
