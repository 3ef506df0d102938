"""`evaluate` from a model folder to a saved result, on the real engine and environment; bad input before any work."""

from __future__ import annotations

import json
import shutil
import sys
import types

import pytest

from cib_rl.errors import UserError
from cib_rl.evals.benchmarks.base import Benchmark, local_math_file
from cib_rl.evals.result_io import load_result
from cib_rl.evals.runner import evaluate, model_fingerprint
from cib_rl.plugin import reward
from cib_rl.recipe import RewardSection


@pytest.fixture
def tiny(monkeypatch):
    """The import path of a benchmark on which a random model is sometimes right: any digit in the text will do."""

    @reward("has_answer", kind="outcome")
    def has_answer(trajectories):
        """1 where there is an answer."""
        return [float(t.answer is not None) for t in trajectories]

    module = types.ModuleType("tiny_benchmark_of_the_tests")
    module.has_answer = has_answer
    module.TINY = Benchmark(
        name="tiny",
        task=lambda data, problems: local_math_file(data),
        environment={"max_completion_length": 12, "answer": r"regex:(\d)"},
        rewards=(RewardSection(name=f"{module.__name__}:has_answer"),),
        about="a random model is sometimes right",
        measure=lambda t, tokenizer: {"digits": float(sum(c.isdigit() for c in t.policy_text))},
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return f"{module.__name__}:TINY"


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": f"r{i}", "problem": f"{i}+2=", "answer": "4"}) + "\n" for i in range(6)))
    return path


def test_evaluating_a_model_folder_saves_a_whole_result(tiny_model_dir, tiny, rows, tmp_path):
    result = evaluate(str(tiny_model_dir), tiny, samples=3, problems=5, data=rows, output=tmp_path / "out")
    assert len(result.samples) == 15 and result.questions == [f"r{i}" for i in range(5)]
    assert all(0 < s.tokens <= 12 and s.numbers["digits"] >= 0 for s in result.samples)
    assert 0 < result.summary()["accuracy"] < 1
    loaded = load_result(tmp_path / "out", trajectories=True)
    assert loaded.samples == result.samples
    settings, versions = loaded.settings, loaded.versions
    assert (settings["benchmark"], settings["model"], settings["data"]) == ("tiny", str(tiny_model_dir), str(rows))
    assert settings["environment"]["max_completion_length"] == 12 and settings["sampling"]["temperature"] == 1.0
    assert versions["model"] == model_fingerprint(str(tiny_model_dir)) and versions["chat_template"] is None
    assert {"python", "torch", "transformers"} <= versions.keys()


def test_the_same_seed_gives_the_same_answers_and_more_samples_keep_the_first(tiny_model_dir, tiny, rows):
    def texts(**more):
        result = evaluate(str(tiny_model_dir), tiny, data=rows, **more)
        return {(s.question, s.sample): s.text for s in result.samples}

    once, more, other = texts(samples=1, seed=3), texts(samples=2, seed=3), texts(samples=1, seed=4)
    assert {key: more[key] for key in once} == once
    assert once != other


def test_options_change_what_is_asked_and_are_recorded(tiny_model_dir, tiny, rows):
    result = evaluate(
        str(tiny_model_dir), tiny, data=rows, max_tokens=4, temperature=0.0, top_p=0.9, environment={"suffix": "a"}
    )
    assert max(s.tokens for s in result.samples) <= 4
    assert result.settings["sampling"] | {"temperature": 0.0, "top_p": 0.9} == result.settings["sampling"]
    assert result.settings["environment"]["suffix"] == "a"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"benchmark": "nothing"}, "no benchmark 'nothing'"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"problems": 7}, "asked for 7 problems"),
        ({"data": "absent.jsonl"}, "no file absent.jsonl"),
        ({"engine": "magic"}, "engine: `name` must be one of 'transformers' or 'vllm', not 'magic'"),
        ({"engine_options": {"max_num_seq": 4}}, "unknown key `max_num_seq`; did you mean `max_num_seqs`"),
        ({"dtype": "float33"}, "engine: `dtype` must be one of 'float32', 'bfloat16' or 'float16', not 'float33'"),
        ({"temperature": -1.0}, "temperature must be finite and not negative"),
        ({"top_p": 7.0}, "top_p must be in"),
        ({"model_ref": "./nowhere"}, "no folder"),
        ({"max_tokens": 0}, "max_completion_length"),
    ],
)
def test_bad_input_is_one_clear_message_before_any_work(tiny_model_dir, tiny, rows, change, words, tmp_path):
    arguments = {"model_ref": str(tiny_model_dir), "benchmark": tiny, "data": rows, "output": tmp_path / "out"} | change
    with pytest.raises(UserError, match=words):
        evaluate(**arguments)
    assert not (tmp_path / "out").exists()


def test_an_environment_that_cannot_be_is_refused_before_the_model_is_loaded(tiny_model_dir, tiny, rows, monkeypatch):
    monkeypatch.setattr("cib_rl.evals.runner.start_engine", lambda *_, **__: pytest.fail("the engine was started"))
    for change, words in (({"answer": "boxd"}, "unknown style 'boxd'"), ({"sufix": "x"}, "unknown key `sufix`")):
        with pytest.raises(UserError, match=words):
            evaluate(str(tiny_model_dir), tiny, data=rows, environment=change)


def test_a_result_it_cannot_be_compared_with_is_refused_before_generating(tiny_model_dir, tiny, rows, monkeypatch):
    before = evaluate(str(tiny_model_dir), tiny, data=rows, problems=4)
    assert evaluate(str(tiny_model_dir), tiny, data=rows, problems=4, before=before).questions == before.questions
    monkeypatch.setattr("cib_rl.evals.runner.start_engine", lambda *_, **__: pytest.fail("the engine was started"))
    with pytest.raises(UserError, match="different questions"):
        evaluate(str(tiny_model_dir), tiny, data=rows, problems=5, before=before)
    other = rows.with_name("other.jsonl")
    other.write_text(rows.read_text().replace("+2=", "+3="))
    with pytest.raises(UserError, match="other prompts or golds under the same question ids"):
        evaluate(str(tiny_model_dir), tiny, data=other, problems=4, before=before)


def test_a_folder_that_is_no_model_and_an_output_in_use_are_refused(tiny_model_dir, tiny, rows, tmp_path):
    with pytest.raises(UserError, match="no model folder"):
        evaluate(str(tmp_path), tiny, data=rows)
    (tmp_path / "used").mkdir()
    with pytest.raises(UserError, match="used exists"):
        # The model does not exist either: the output is looked at first, before anything is loaded or sampled.
        evaluate("./no-model", tiny, data=rows, output=tmp_path / "used")
    assert list((tmp_path / "used").iterdir()) == []


def test_a_fingerprint_names_the_weights_and_not_the_folder(tiny_model_dir, make_tiny_model, tmp_path):
    copy = shutil.copytree(tiny_model_dir, tmp_path / "copy")
    assert model_fingerprint(str(copy)) == model_fingerprint(str(tiny_model_dir))
    make_tiny_model(seed=1).save_pretrained(tmp_path / "other")
    assert model_fingerprint(str(tmp_path / "other")) != model_fingerprint(str(tiny_model_dir))
