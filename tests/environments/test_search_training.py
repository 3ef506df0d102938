"""Training over search episodes: a real BM25 index, scripted words, the whole of the rest real."""

from __future__ import annotations

import json
import random
import shutil
import socket

import pytest
import torch

from cib_rl.checks import check_recipe
from cib_rl.engines.base import Engine, Generation
from cib_rl.environments.search_protocol import Protocol
from cib_rl.errors import UserError
from cib_rl.retrieval.build import build_index
from cib_rl.run_folder import RunFolder
from cib_rl.trainers import run
from cib_rl.trajectory import StopReason
from cib_rl.trajectory_io import read_trajectories
from tests.conftest import build_tiny_model
from tests.environments.chat_templates import tool_tokenizer
from tests.retrieval.processes import served
from tests.trained_tokenizers import byte_level
from tests.trainers.support import tiny_recipe

pytestmark = [pytest.mark.trl]

PEOPLE = {"Ada": "Rome", "Bo": "Oslo", "Cy": "Bern", "Di": "Kyiv"}


class Searcher(Engine):
    """Searches for one or two people, then answers, sometimes wrongly; all from the request's seed and its context."""

    tokenizer = byte_level()

    async def generate(self, prompt_ids, sampling):
        rng, context = random.Random(sampling.seed), self.tokenizer.decode(prompt_ids[-60:])
        if "</information>" in context and rng.random() < 0.9:
            text = f"<think>wait, so</think><answer>{rng.choice(list(PEOPLE.values()))}</answer>"
        else:
            text = (
                f"<think>let me see</think><search>{' ## '.join(rng.sample(list(PEOPLE), rng.randint(1, 2)))}</search>"
            )
        ids = self.tokenizer.encode(text)[: sampling.max_tokens]
        logprobs = [-rng.uniform(0.5, 2) for _ in ids]
        return Generation(ids, logprobs, StopReason.STOP_STRING, weights_version=self.weights_version)

    def sync_weights(self, named_tensors, version):
        self.weights_version = version

    def close(self):
        pass


class Caller(Searcher):
    """The same by tool calls, one or two in a message."""

    tokenizer = tool_tokenizer("qwen2.5")

    async def generate(self, prompt_ids, sampling):
        rng, context = random.Random(sampling.seed), self.tokenizer.decode(prompt_ids[-60:])
        if "</tool_response>" in context and rng.random() < 0.9:
            text = f"<think>wait, so</think><answer>{rng.choice(list(PEOPLE.values()))}</answer>"
        else:
            calls = [{"name": "search", "arguments": {"query": q}} for q in rng.sample(list(PEOPLE), rng.randint(1, 2))]
            text = "<think>let me see</think>"
            text += "\n".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in calls)
        ids = self.tokenizer.encode(text + "<|im_end|>")[: sampling.max_tokens]
        return Generation(
            ids, [-rng.uniform(0.5, 2) for _ in ids], StopReason.EOS, weights_version=self.weights_version
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Models with tokenizers that can write tags, and call tools, an index, and questions."""
    folder = tmp_path_factory.mktemp("search")
    for name, tokenizer in (("model", byte_level()), ("caller", Caller.tokenizer)):
        build_tiny_model(vocab_size=len(tokenizer)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    rows = [{"id": name, "title": name, "text": f"{name} was born in {town}."} for name, town in PEOPLE.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build_index(folder / "corpus.jsonl", folder / "index")
    return folder


def _recipe(place, folder, **changes):
    folder.mkdir(exist_ok=True)
    model = changes.pop("model", place / "model")
    values = {
        "environment": {
            "name": "search", "max_completion_length": 300, "turns": 3, "k": 1,
            "retriever": {"name": "bm25", "path": str(place / "index")},
        },
        "rewards": [
            {"name": "qa_em"},
            {"name": "parallel_search", "weight": 0.5},
            {"name": "inforage", "weight": 0.5},
            {"name": "surprisal", "weight": 1e-3, "prior": {"name": "language_model", "model": str(place / "model")}},
        ],
        "credit": [{"name": "group"}, {"name": "hicra", "grams": ["let me", "wait so", "was born", "born in"]}],
        "trainer.steps": 4, "trainer.save_every": 1, "trainer.steps_per_window": 2, "deterministic": True,
    }  # fmt: skip
    recipe = tiny_recipe(model, folder, **{**values, **changes})
    lines = [
        {"id": str(i), "prompt": f"Where was {name} born?", "answer": town, "type": "na", "supporting_ids": [name]}
        for i, (name, town) in enumerate(PEOPLE.items())
    ]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return recipe


def _weights(recipe, resume=None, engine=Searcher):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "make_engine", lambda *_: engine())
        with run.prepare(recipe, checkpoint=resume) as trainer:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
            return {n: p.detach().clone() for n, p in trainer.model.named_parameters()}, trainer.run_folder


@pytest.mark.parametrize("tools", [False, True], ids=["tags", "tools"])
@pytest.mark.parametrize("trainer", ["grpo", "ppo"])
def test_documents_are_never_scored_credited_or_marked(place, tmp_path, trainer, tools):
    changes = {"trainer.steps": 2}
    if tools:
        tags = {"search": "tool_call", "information": "tool_response"}
        model = str(place / "caller")
        changes["rewards"] = [
            {"name": "qa_em"},
            {"name": "parallel_search", "weight": 0.5, **tags},
            {"name": "inforage", "weight": 0.5, "per_turn": trainer == "ppo"},
            {"name": "surprisal", "weight": 1e-3, "prior": {"name": "language_model", "model": model}},
            {"name": "format", "weight": 0.1, **tags},
        ]
        changes["model"] = model
        changes |= {"environment.preset": "tool_calls", "environment.turns": 2}
    if trainer == "ppo":
        credit = [{"name": "gae", "lam": 0.9}, {"name": "hicra", "grams": ["let me", "wait so", "was born"]}]
        changes |= {"trainer.name": "ppo", "credit": credit}
    _, folder = _weights(_recipe(place, tmp_path / "run", **changes), engine=Caller if tools else Searcher)
    trajectories = read_trajectories(folder.trajectories / "step-000000-rank0.parquet")
    seen = {"planning": 0, "turns": 0}
    for t in trajectories:
        assert t.num_tokens < len(t.policy_mask) and "was born in" in t.text and "was born in" not in t.policy_text
        for name in ("surprisal", "planning", "advantage", *(("return",) if trainer == "ppo" else ())):
            assert not any(v for v, m in zip(t.tracks[name], t.policy_mask, strict=True) if not m), name
        seen["planning"] += sum(t.tracks["planning"])
        seen["turns"] += len(t.turns)
        if tools:
            assert (t.rewards.pop("format") == 1.0) == (t.answer is not None)
        for turn in t.turns[:-1]:
            assert turn.searched and [[d["id"] for d in some] for some in turn.documents] == [[q] for q in turn.queries]
        assert set(t.rewards) == {"qa_em", "parallel_search", "inforage", "surprisal"}
    assert seen["planning"] > 0 and seen["turns"] > 2 * len(trajectories) - 1
    line = folder.read_metrics()[0]
    assert line["diagnostics/queries"] >= line["diagnostics/searches"] >= 1 and "diagnostics/evidence_recall" in line


def test_four_steps_are_one_and_three_to_the_last_digit(place, tmp_path):
    """The checkpoint of step 1 is in the middle of a window of search episodes."""
    whole, _ = _weights(_recipe(place, tmp_path / "whole"))
    (tmp_path / "parts" / "runs").mkdir(parents=True)
    shutil.copytree(tmp_path / "whole" / "runs" / "run", tmp_path / "parts" / "runs" / "run")
    checkpoints = tmp_path / "parts" / "runs" / "run" / "checkpoints"
    for step in (2, 3, 4):
        shutil.rmtree(checkpoints / f"step-{step:06d}")
    parts, folder = _weights(_recipe(place, tmp_path / "parts"), resume=checkpoints / "step-000001")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    lines, others = (RunFolder(f).read_metrics() for f in (tmp_path / "whole" / "runs" / "run", folder.path))
    for line, other in zip(lines, others, strict=True):
        for name, value in line.items():
            if not name.startswith(("seconds", "time", "step_time")):
                assert value == other[name] or value != value, name


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"retriever": {"name": "bm25", "path": "nowhere"}}, "nowhere"),
        ({"retriever": {"name": "faiss"}}, "unknown 'faiss'"),
        ({}, "environment: `retriever` is missing"),
        ({"retriever": {"name": "remote", "url": "http://127.0.0.1:9/retrieve"}}, "127.0.0.1:9"),
        ({"retriever": {"name": "bm25", "path": "INDEX"}, "turn": 3}, "unknown key `turn`; did you mean `turns`?"),
        ({"retriever": {"name": "bm25", "path": "INDEX"}, "max_turn_lenght": 9}, "did you mean `max_turn_length`?"),
        ({"retriever": {"name": "bm25", "path": "INDEX"}, "k": 0}, "`k` must be at least 1, not 0$"),
    ],
)
def test_a_search_that_cannot_work_is_refused_before_training(place, tmp_path, environment, says):
    own = json.loads(json.dumps(environment).replace("INDEX", str(place / "index")))
    recipe = _recipe(place, tmp_path / "run", environment={"name": "search", "max_completion_length": 300, **own})
    with pytest.raises(UserError, match=says):
        _weights(recipe)
    assert not (tmp_path / "run" / "runs" / "run").exists()


def test_a_retriever_that_takes_connections_and_never_answers_is_refused_before_training(place, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        retriever = {"name": "remote", "url": url, "attempt_timeout": 0.3}
        environment = {"name": "search", "max_completion_length": 300, "retriever": retriever}
        with pytest.raises(UserError, match=rf"retriever.url: {url}/retrieve: no answer within 0.3 s; start one with"):
            _weights(_recipe(place, tmp_path / "run", environment=environment))
    assert not (tmp_path / "run" / "runs" / "run").exists()


def test_a_dry_run_asks_the_retriever_and_tells_one_that_is_not_there_from_one_that_is_wrong(place, tmp_path):
    def found(model=place / "model", **retriever):
        environment = {"name": "search", "max_completion_length": 300, "retriever": retriever}
        checks = check_recipe(_recipe(place, tmp_path / "run", environment=environment, model=model)).checks
        return next((check.status, check.detail) for check in checks if check.name == "retriever")

    with served(place / "index") as (address, _):
        assert found(name="remote", url=address) == ("ok", "remote: answered a query for 3 documents")
        status, detail = found(name="remote", url=f"{address}/wrong")
        assert status == "failed" and "/wrong: status 404" in detail
    status, detail = found(name="remote", url="http://127.0.0.1:9")
    assert status == "unchecked" and "retriever.url: http://127.0.0.1:9/retrieve: " in detail
    status, detail = found(name="remote", url="http://127.0.0.1:9", model="some/of-the-hub")
    assert status == "unchecked" and detail.startswith("remote: not asked before")
    status, detail = found(name="remote", ulr="http://127.0.0.1:9", model="some/of-the-hub")
    assert status == "failed" and "did you mean `url`?" in detail


def test_prompts_that_cannot_be_asked_are_refused_before_training(place, tmp_path):
    recipe = _recipe(place, tmp_path / "run")
    rows = (tmp_path / "run" / "tasks.jsonl").read_text().splitlines()
    rows[2] = json.dumps(json.loads(rows[2]) | {"prompt": [{"role": "user", "content": "Where?"}]})
    (tmp_path / "run" / "tasks.jsonl").write_text("\n".join(rows) + "\n")
    with pytest.raises(
        UserError, match="row '2': to search in tags, prompt must be the question as text, not messages"
    ):
        _weights(recipe)
    assert not (tmp_path / "run" / "runs" / "run").exists()


def test_evidence_that_cannot_be_read_is_refused_before_training(place, tmp_path):
    recipe = _recipe(place, tmp_path / "run", rewards=[{"name": "qa_em"}])
    rows = (tmp_path / "run" / "tasks.jsonl").read_text().splitlines()
    rows[3] = json.dumps(json.loads(rows[3]) | {"supporting_ids": [["Ada", 0]]})
    (tmp_path / "run" / "tasks.jsonl").write_text("\n".join(rows) + "\n")
    says = r"row '3': supporting_ids must be its id, .*\[\['Ada', 0\]\]; environment.evidence names the column"
    with pytest.raises(UserError, match=says):
        _weights(recipe)
    (check,) = [c for c in check_recipe(recipe, base_dir=tmp_path / "run").checks if c.name == "environment"]
    assert check.status == "failed" and "row '3': supporting_ids" in check.detail


def test_a_column_of_evidence_that_no_row_has_is_told_of(place, tmp_path, caplog):
    keys = {"name": "search", "max_completion_length": 300, "retriever": {"name": "bm25", "path": str(place / "index")}}
    for column, warned in (("nonesuch", True), (None, False)):
        caplog.clear()
        named = keys | ({"evidence": column} if column else {})  # by default a column is looked for, and may be missing
        check_recipe(_recipe(place, tmp_path / str(column), environment=named), base_dir=tmp_path / str(column))
        assert ("no row has a column 'nonesuch'" in caplog.text) == warned


def test_the_retriever_is_closed_where_a_run_is_refused(place, tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr("cib_rl.environments.search.Search.close", lambda self: closed.append(self))
    recipe = _recipe(place, tmp_path / "run", rewards=[{"name": "parallel_search"}])  # no outcome
    with pytest.raises(UserError, match="outcome"):
        _weights(recipe)
    assert len(closed) == 1


def test_the_dry_run_counts_the_prompt_with_its_template_and_checks_keys_without_a_tokenizer(place, tmp_path):
    found = check_recipe(_recipe(place, tmp_path / "run"), base_dir=tmp_path / "run")
    detail = next(check.detail for check in found.checks if check.name == "environment")
    template = Protocol().template.replace("{question}", "Where was Ada born?")
    assert (
        f"the longest prompt ({len(byte_level().encode(template))} tokens, row " in detail
        and "leaves no room" in detail
    )
    away = _recipe(place, tmp_path / "away", **{"environment.turn": 3}).model_copy(update={"model": "some/of-the-hub"})
    (check,) = [check for check in check_recipe(away, base_dir=tmp_path / "away").checks if check.name == "environment"]
    assert check.status == "failed" and "unknown key `turn`; did you mean `turns`?" in check.detail
