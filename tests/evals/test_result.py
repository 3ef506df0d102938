"""The record: complete or refused, errors counted and never 0, undefined never 0, saved and loaded without loss."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from cib_rl.errors import UserError
from cib_rl.evals.result import EvalResult, Sample
from cib_rl.evals.result_io import load_result
from cib_rl.trajectory import Segment, StopReason, Trajectory

ROW = Sample("a", 0, "right", 5, False, "eos", "x", "4", "4", 1, 7)


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ([ROW], "= 2, got 1 samples: sample 1 of question 'a' is missing"),
        ([], "sample 0 of question 'a' is missing"),
        ([ROW, replace(ROW, sample=1), replace(ROW, sample=1)], "sample 1 of question 'a' is there 2 times"),
        ([ROW, replace(ROW, sample=1), replace(ROW, question="b")], "sample 0 of question 'b' was not asked for"),
        ([ROW, replace(ROW, sample=2)], "sample 1 of question 'a' is missing; sample 2 of question 'a' was not asked"),
    ],
)
def test_other_samples_than_asked_are_an_error(samples, words):
    with pytest.raises(UserError, match=words):
        EvalResult(samples, ["a"], 2)


def test_a_question_id_given_twice_is_an_error():
    with pytest.raises(UserError, match="'a' occurs 2 times"):
        EvalResult([ROW], ["a", "a"], 1)


def test_errors_are_counted_and_leave_every_mean(make_result):
    # 39 right answers of 10 tokens and one error with 0 tokens: accuracy 1, mean 10, not 39/40 and 9.75.
    answers = {f"q{i}": [("right", 10)] for i in range(39)} | {"broken": [("error", 0)]}
    summary = make_result(answers).summary()
    assert (summary["accuracy"], summary["tokens/mean"]) == (1.0, 10.0)
    assert (summary["errors"], summary["graded"], summary["error_share"]) == (1, 39, 1 / 40)


def test_too_many_errors_are_refused_with_their_messages(make_result):
    result = make_result({f"q{i}": [("error" if i < 2 else "right", 10)] for i in range(20)})
    with pytest.raises(UserError, match=r"2 of 20 samples could not be graded.*2× broke"):
        result.summary()
    assert result.summary(max_error_share=0.1)["errors"] == 2
    nothing = make_result({"q": [("error", 1)]})
    with pytest.raises(UserError, match="1 of 1"):
        nothing.summary(max_error_share=1.0)


@pytest.mark.parametrize(("outcome", "undefined", "accuracy"), [("wrong", "right", 0.0), ("right", "wrong", 1.0)])
def test_tokens_of_answers_that_do_not_exist_are_none_and_not_zero(make_result, outcome, undefined, accuracy):
    summary = make_result({q: [(outcome, 30), (outcome, 50)] for q in "abc"}).summary()
    assert summary["accuracy"] == accuracy
    assert summary[f"tokens/{undefined}"] is None and summary[f"tokens/{undefined}/low"] is None
    assert summary[f"tokens/{outcome}"] == 40


def test_an_empty_completion_is_a_wrong_answer_of_no_tokens(make_result):
    result = make_result({"a": [("wrong", 0)], "b": [("right", 8)]}, text="", answer=None)
    summary = result.summary()
    assert (summary["graded"], summary["tokens/mean"], summary["tokens/wrong"]) == (2, 4.0, 0.0)


def test_pass_at_k_is_given_up_to_the_fewest_graded_samples(make_result):
    answers = {q: [("right", 1)] + [("wrong", 1)] * 7 for q in map(str, range(20))}
    summary = make_result(answers).summary()
    assert [k for k in summary if k.startswith("pass@") and "/" not in k] == ["pass@2", "pass@4", "pass@8"]
    assert summary["pass@8"] == 1 and summary["pass@2"] == pytest.approx(0.25)
    answers["0"] = [("error", 1)] * 5 + [("wrong", 1)] * 3
    assert "pass@4" not in make_result(answers).summary()


def test_named_numbers_are_averaged_over_the_samples_that_have_them():
    rows = [replace(ROW, question=q, numbers=n) for q, n in (("a", {"waste": 4.0}), ("b", {"waste": 8.0}), ("c", {}))]
    rows.append(replace(ROW, question="d", numbers={"waste": float("nan")}))
    assert EvalResult(rows, list("abcd"), 1).summary()["numbers/waste"] == 6.0


def test_saving_and_loading_gives_the_same_result(tmp_path):
    gold = {"numbers": [3, 8], "target": 24}
    rows = [
        replace(ROW, gold=gold, numbers={"waste/recheck": 2.5, "é": -1.0}, text="line\n  “é” <|eos|>", seed=2**62),
        replace(ROW, sample=1, outcome="error", error="environment: boom", answer=None, stop_reason=None, tokens=0),
        replace(ROW, question="b", outcome="wrong", gold=None, truncated=True, stop_reason="length"),
        replace(ROW, question="b", sample=1, gold=["4", 4], text=""),
    ]
    episodes = [
        Trajectory({"id": r.question}, 0, r.sample, [Segment([1, 2])], stop_reason=StopReason.EOS) for r in rows
    ]
    result = EvalResult(rows, ["b", "a"], 2, {"seed": 3, "data": None}, {"torch": "2"}, episodes)
    folder = result.save(tmp_path / "deep" / "result")
    loaded = load_result(folder, trajectories=True)
    assert loaded.samples == rows
    assert (loaded.questions, loaded.settings, loaded.versions) == (["b", "a"], result.settings, result.versions)
    assert [t.segments for t in loaded.trajectories] == [t.segments for t in episodes]
    assert load_result(folder).trajectories is None
    # A quarter of the samples are errors: nothing is summarised, everything is kept.
    assert json.loads((folder / "result.json").read_text())["summary"] is None
    assert pq.read_table(folder / "samples.parquet").num_rows == 4


def test_an_existing_result_is_never_overwritten_unasked(tmp_path, make_result):
    first, second = make_result({"a": [("right", 1)]}), make_result({"a": [("wrong", 2)]})
    first.save(tmp_path / "r")
    with pytest.raises(UserError, match="exists"):
        second.save(tmp_path / "r")
    assert load_result(tmp_path / "r").samples == first.samples
    second.save(tmp_path / "r", overwrite=True)
    assert load_result(tmp_path / "r").samples == second.samples


def test_a_folder_without_a_result_and_a_damaged_one_are_clear_errors(tmp_path, make_result):
    with pytest.raises(UserError, match="holds no evaluation result"):
        load_result(tmp_path)
    folder = make_result({"a": [("right", 1)]}).save(tmp_path / "r")
    with pytest.raises(UserError, match="without its episodes"):
        load_result(folder, trajectories=True)
    (folder / "samples.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(UserError, match="not a readable evaluation result"):
        load_result(folder)


def test_a_saved_result_with_rows_lost_is_refused(tmp_path, make_result):
    folder = make_result({"a": [("right", 1)], "b": [("right", 2)]}).save(tmp_path / "r")
    table = pq.read_table(folder / "samples.parquet")
    pq.write_table(table.slice(0, 1), folder / "samples.parquet")
    with pytest.raises(UserError, match="sample 0 of question 'b' is missing"):
        load_result(folder)


def test_summary_is_flat_and_fit_for_json(make_result):
    summary = make_result({"a": [("right", 1)], "b": [("wrong", 2)]}).summary()
    json.dumps(summary, allow_nan=False)
    assert all(value is None or isinstance(value, int | float) for value in summary.values())
    assert not any(isinstance(value, np.generic) for value in summary.values())
