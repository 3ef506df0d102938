"""The recipes of the three papers: their numbers, their dry run without a network, and a run of each in small."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest

from cib_rl.dry_run import dry_run
from cib_rl.recipe_io import load_recipe, recipes_dir
from cib_rl.retrieval.build import build_index
from cib_rl.trainers import run
from cib_rl.trajectory_io import read_trajectories
from tests.conftest import build_tiny_model
from tests.environments.chat_templates import tool_tokenizer
from tests.environments.test_search_training import PEOPLE, Searcher
from tests.retrieval.processes import served

SEARCH_R1, PARALLEL, INFORAGE = RECIPES = (
    "search/searchr1_ppo_qwen2.5-3b",
    "search/parallelsearch_ppo_qwen2.5-7b",
    "search/inforage_ppo_qwen2.5-3b",
)


@pytest.mark.parametrize("name", RECIPES)
def test_what_all_three_published(name):
    """arXiv 2503.09516 and 2508.09303 (appendices), InForage's scripts; windows of 512 in two mini-batches."""
    recipe = load_recipe(name)
    trainer, critic, search = recipe.trainer, recipe.critic, recipe.environment.kwargs
    assert (trainer.name, trainer.prompts_per_step, trainer.steps_per_window) == ("ppo", 256, 2)
    assert trainer.steps == 500 * 2 and recipe.sampling.group_size == 1 and recipe.sampling.temperature == 1.0
    assert (trainer.learning_rate, critic.learning_rate) == (1e-6, 1e-5)
    assert (trainer.kl, trainer.kl_in, trainer.epsilon) == (0.001, "reward", 0.2)
    assert search["k"] == 3 and search["retriever"]["name"] == "remote" and search["drop_failed"]
    assert trainer.micro_batch_size * 8 == 64  # over eight devices


def test_where_they_differ():
    search_r1, parallel, inforage = map(load_recipe, RECIPES)
    for recipe in (search_r1, parallel):
        assert (recipe.trainer.warmup_ratio, recipe.critic.warmup_ratio) == (0.285, 0.015)
        assert recipe.environment.kwargs["turns"] == 4 and recipe.environment.max_turn_length == 500
        assert recipe.environment.kwargs["max_context_length"] == 4096
        assert (recipe.credit[0].kwargs["gamma"], recipe.credit[0].kwargs["lam"]) == (1, 1)
    assert [r.name for r in search_r1.rewards] == ["qa_em"] and search_r1.environment.kwargs["preset"] == "search_r1"
    assert search_r1.environment.kwargs["max_block_length"] == 500

    assert parallel.environment.kwargs["preset"] == "parallel_search"
    assert parallel.environment.kwargs["max_block_length"] == 1000
    keys = parallel.rewards[1].kwargs
    assert [keys[k] for k in ("lambda_d", "lambda_s", "alpha", "lambda_f")] == [0.15, 0.35, 3, 0.1]
    assert keys["max_similarity"] < 1 and keys["max_document_overlap"] < 1 and keys["anchored"]

    assert (inforage.trainer.warmup_ratio, inforage.critic.warmup_ratio) == (0.3, 0.05)
    assert (inforage.environment.kwargs["turns"], inforage.environment.max_turn_length) == (6, 2048)
    assert inforage.environment.kwargs["max_block_length"] == 2048
    assert inforage.rewards[0].name == "qa_f1"
    assert (inforage.rewards[1].kwargs["beta"], inforage.rewards[1].kwargs["weight_of_gain"]) == (0.95, 0.2)


REHEARSAL = recipes_dir() / "search" / "rehearsal.yaml"
# InForage reads evidence, which the generated questions name in another column.
EVIDENCE = ["environment.evidence=supporting_ids", "environment.evidence_by=id"]
EVIDENCE += ["rewards.inforage.evidence=supporting_ids", "rewards.inforage.by=id"]


def _rehearsed(name, tmp_path, *sets):
    text = REHEARSAL.read_text(encoding="utf-8").replace(f"extends: {PARALLEL}", f"extends: {name}")
    (tmp_path / "rehearsed.yaml").write_text(text, encoding="utf-8")
    return load_recipe(tmp_path / "rehearsed.yaml", [*(EVIDENCE if name == INFORAGE else []), *sets])


@pytest.mark.parametrize("name", RECIPES)
def test_a_rehearsal_on_a_cpu_differs_in_six_lines(name, tmp_path):
    lines = [line for line in REHEARSAL.read_text().splitlines() if line and not line.startswith(("#", "extends"))]
    assert len(lines) == 6
    paper, small = load_recipe(name), _rehearsed(name, tmp_path)
    own = {line.partition(":")[0] for line in lines} | ({"rewards"} if name == INFORAGE else set())
    differ = {key for key in type(paper).model_fields if getattr(paper, key) != getattr(small, key)}
    assert differ == own
    trainer = {
        key for key in type(paper.trainer).model_fields if getattr(paper.trainer, key) != getattr(small.trainer, key)
    }
    assert trainer == {"steps", "prompts_per_step", "gradient_checkpointing", "autocast_bf16"}
    environment, world = paper.environment.kwargs, small.environment.kwargs
    differ = {key for key in environment | world if environment.get(key) != world.get(key)}
    assert differ - {"evidence", "evidence_by"} == {"retriever", "protocol", "max_context_length"}


@pytest.mark.trl
@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_rehearsal_runs(name, tmp_path):
    """With the real engine and index: two windows, their updates, an evaluation before and after."""
    sets = [f"output={tmp_path}", "run_name=run", "evaluation.problems=8", "evaluation.task.count=8"]
    folder = run.train(_rehearsed(name, tmp_path, *sets), progress=False)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    windows = [line for line in lines if "search/turns" in line]
    assert sum("critic/loss" in line for line in lines) == 4 and len(windows) == 2
    assert all(line["search/failed"] == 0 and line["diagnostics/evidence_recall"] > 0 for line in windows)
    assert sum("eval/comparison/turns" in line for line in lines) == 2


@pytest.fixture
def by_grpo(tmp_path):
    """The recipe that docs/search.md makes of ParallelSearch's."""
    page = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(extends: .*?)^```$", page, re.M | re.S)
    (tmp_path / "grpo.yaml").write_text(block, encoding="utf-8")
    return str(tmp_path / "grpo.yaml")


def test_the_same_rewards_without_a_critic(by_grpo):
    ppo, grpo = load_recipe(PARALLEL), load_recipe(by_grpo)
    assert (grpo.trainer.name, grpo.critic, grpo.credit[0].name) == ("grpo", None, "group")
    assert grpo.rewards == ppo.rewards and grpo.environment == ppo.environment and grpo.sampling.group_size > 1


@pytest.mark.parametrize("name", [*RECIPES, "by GRPO"])
def test_a_dry_run_needs_no_network(name, monkeypatch, by_grpo):
    name = by_grpo if name == "by GRPO" else name

    def unreachable(*_, **__):
        raise AssertionError("a dry run asked for an address")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(socket.socket, "connect", unreachable)
    assert dry_run(load_recipe(name), devices=8)


class Reader(Searcher):
    """Searches and answers in the tags of either preset."""

    tokenizer = tool_tokenizer("qwen2.5")

    async def generate(self, prompt_ids, sampling):
        shown = self.tokenizer.decode(prompt_ids[-60:]).replace("</evidence>", "</information>")
        return await super().generate(self.tokenizer.encode(shown), sampling)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, an index, and both data sets in the form that the hub has them in."""
    folder = tmp_path_factory.mktemp("papers")
    build_tiny_model(vocab_size=len(Reader.tokenizer)).save_pretrained(folder / "model")
    Reader.tokenizer.save_pretrained(folder / "model")
    documents = [{"id": n, "title": n, "text": f"{n} was born in {town}."} for n, town in PEOPLE.items()]
    _write(folder / "corpus.jsonl", documents)
    build_index(folder / "corpus.jsonl", folder / "index")

    nq, hotpot, distractor = [], [], []
    for i, (name, town) in enumerate(PEOPLE.items()):
        row, kind = {"id": str(i), "question": f"Where was {name} born?"}, {"type": ("comparison", "bridge")[i % 2]}
        nq.append(row | {"golden_answers": [town]})
        hotpot.append(nq[-1] | {"metadata": kind})
        distractor.append(row | kind | {"answer": town, "supporting_facts": {"title": [name], "sent_id": [0]}})
    _data_set(folder / "flashrag", nq={"train": nq}, hotpotqa={"train": hotpot, "dev": hotpot})
    _data_set(folder / "hotpot", distractor={"train": distractor, "validation": distractor})
    return folder


def _write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _data_set(folder, **configs):
    """Files of a data set with several configurations, as its card names them."""
    card = "---\nconfigs:\n"
    for config, splits in configs.items():
        card += f"- config_name: {config}\n  data_files:\n"
        for split, rows in splits.items():
            _write(folder / config / f"{split}.jsonl", rows)
            card += f"  - {{split: {split}, path: {config}/{split}.jsonl}}\n"
    (folder / "README.md").write_text(card + "---\n")


@pytest.mark.trl
@pytest.mark.server
@pytest.mark.parametrize("name", RECIPES)
def test_each_trains_in_small_over_a_server_and_the_data_sets_own_form(name, place, tmp_path, monkeypatch):
    """All of the recipe but sizes and places: presets, labels, rewards, critic, penalty, evaluation by kind."""
    monkeypatch.setattr(run, "make_engine", lambda *_: Reader())
    flashrag, hotpot = str(place / "flashrag"), str(place / "hotpot")
    with served(place / "index") as (address, _):
        sets = [f"model={place / 'model'}", "engine={name: transformers, max_logprob_gap: 100}"]
        sets += [f"task.path={hotpot}"] if name == INFORAGE else [f"task.sources.{i}.path={flashrag}" for i in (0, 1)]
        sets += [f"evaluation.task.path={hotpot if name == INFORAGE else flashrag}", "evaluation.problems=4"]
        sets += [f"environment.retriever.url={address}/retrieve", f"output={tmp_path}", "run_name=run"]
        sets += ["trainer.steps=2", "trainer.prompts_per_step=8", "trainer.save_every=2"]
        folder = run.train(load_recipe(name, sets), progress=False)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    updates = [line for line in lines if "critic/loss" in line]
    (window,) = [line for line in lines if "search/turns" in line]  # both updates are of one window
    assert len(updates) == 2 and window["search/queries"] > 0.5 and window["search/failed"] == 0
    assert any("eval/comparison/turns" in line and "eval/bridge/turns" in line for line in lines)
    trajectories = read_trajectories(folder / "trajectories" / "step-000000-rank0.parquet")
    tag = "evidence" if name == INFORAGE else "information"
    assert any(f"<{tag}>" in t.text for t in trajectories) and all(not t.errors for t in trajectories)
    assert any("was born in" in t.text for t in trajectories)
    if name == PARALLEL:
        assert {t.task["type"] for t in trajectories} <= {"na", "comparison", "bridge"}
        assert any(t.diagnostics["decomposed"] for t in trajectories)
    if name == INFORAGE:
        assert {t.diagnostics["evidence_recall"] for t in trajectories} == {0.0, 1.0}
