"""Samples as trajectories: from texts, from a run, from an evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cib_rl.errors import UserError
from cib_rl.recipe_io import load_recipe
from cib_rl.samples.choose import spread_evenly
from cib_rl.samples.load import load_samples
from cib_rl.samples.options import as_mapping, as_prior, as_spec
from cib_rl.samples.outcome import choose_outcome
from cib_rl.trajectory import StopReason
from cib_rl.trajectory_io import write_trajectories
from tests.samples.files import prompt_of, word_rows, write_lines

COUNTDOWN = {"id": "c1", "prompt": "numbers 3 4 5 target 12 <think>", "numbers": [3, 4, 5], "target": 12, "answer": {}}
TRACE = " 3 + 4 = 7, 7 + 5 = 12, found it. </think> <answer> 3 + 4 + 5 </answer>"


def countdown_rows(groups: int = 1, members: int = 2) -> list[dict]:
    return [
        COUNTDOWN | {"id": f"c{g}", "prompt": f"numbers 3 4 5 target 12 <think>{' ' * g}", "completion": TRACE}
        for g in range(groups)
        for _ in range(members)
    ]


def run_folder(path: Path, tmp_path: Path) -> Path:
    """A run folder of the quickstart recipe with two windows of trajectories."""
    (path / "trajectories").mkdir(parents=True)
    recipe = load_recipe("quickstart", ["success.threshold=0.7"])
    (path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    rows = write_lines(tmp_path / "rows.jsonl", countdown_rows(4))
    made = load_samples(rows, model="shipped:quickstart/policy").trajectories
    for t in made:
        t.rewards, t.diagnostics, t.errors = {"surprisal": -3.0}, {"x": 1.0}, ["reward judge: away"]
        t.set_track("surprisal", [0.0] * len(t.completion_ids))
    write_trajectories(path / "trajectories" / "step-000000-rank0.parquet", made[:4], step=0)
    write_trajectories(path / "trajectories" / "step-000001-rank0.parquet", made[4:], step=1)
    return path


def test_texts_become_finished_episodes_with_answers_and_an_end(tmp_path):
    samples = load_samples(write_lines(tmp_path / "s.jsonl", word_rows(3)))
    assert samples.problems == 3 and len(samples.trajectories) == 12
    for t, row in zip(samples.trajectories, word_rows(3), strict=True):
        assert t.answer == row["completion"].rpartition("#### ")[2]
        assert t.stop_reason is StopReason.EOS and t.completion_ids[-1] == samples.tokenizer.eos_token_id
        assert samples.tokenizer.decode(t.policy_ids[:-1]) == row["completion"]
    assert [(t.group, t.member) for t in samples.trajectories] == [(g, m) for g in range(3) for m in range(4)]


def test_answers_that_are_hardly_found_are_warned_of(tmp_path):
    def warnings(answer=None):
        loaded = load_samples(path, answer=answer)
        return [note for note in loaded.notes if note.startswith("warning: ")]

    rows = word_rows(2)
    path = write_lines(tmp_path / "found.jsonl", rows)
    assert warnings() == []
    assert "count as wrong" in warnings("boxed")[0]
    path = write_lines(tmp_path / "said.jsonl", [row | {"completion": "so it must be 7"} for row in rows])
    assert "the last line is read" in warnings()[0]
    assert warnings("last_line") == [] and warnings(r"regex:must be (\S+)") == []


def test_completions_that_were_cut_off_have_no_end_and_are_truncated(tmp_path):
    rows = [row | {"truncated": i % 2 == 1} for i, row in enumerate(word_rows(1))]
    cut = load_samples(write_lines(tmp_path / "s.jsonl", rows)).trajectories
    assert [t.truncated for t in cut] == [False, True, False, True]


def test_a_learned_tokenizer_gives_the_same_tokens_every_time(tmp_path):
    path = write_lines(tmp_path / "s.jsonl", word_rows(2))
    first, second = (load_samples(path).trajectories for _ in range(2))
    assert [t.completion_ids for t in first] == [t.completion_ids for t in second]


def test_a_tokenizer_without_tokens_for_the_texts_is_refused(tmp_path):
    path = write_lines(tmp_path / "s.jsonl", word_rows(2))
    with pytest.raises(UserError, match=r"line 1: the tokenizer of shipped:quickstart/policy has no tokens for \d+"):
        load_samples(path, model="shipped:quickstart/policy")


def test_a_limit_takes_whole_problems_from_all_over_the_file(tmp_path):
    path = write_lines(tmp_path / "s.jsonl", word_rows(10))
    few = load_samples(path, limit=2).trajectories
    assert {t.task["prompt"] for t in few} == {prompt_of(0), prompt_of(5)} and len(few) == 8
    assert spread_evenly([3, 3, 1, 2], None) == [3, 1, 2] and spread_evenly([3, 3, 1, 2], 9) == [3, 1, 2]


def test_a_run_is_read_as_the_policy_left_it_with_what_its_recipe_says(tmp_path):
    samples = load_samples(run_folder(tmp_path / "run", tmp_path))
    assert len(samples.trajectories) == 8 and samples.problems == 4
    for t in samples.trajectories:
        # Values, tracks and failures of the run's own rewards would be taken for the tried reward's.
        assert (t.rewards, t.tracks, t.diagnostics, t.errors, t.success) == ({}, {}, {}, [], None)
        assert t.answer == "3 + 4 + 5"
    assert samples.origin.max_completion_length == 320 and samples.answer_style == "tag"
    outcome = choose_outcome(samples, None)
    assert [s.name for s in outcome.sections] == ["countdown_correct"] and outcome.success["threshold"] == 0.7


def test_one_window_of_a_run_knows_its_run(tmp_path):
    folder = run_folder(tmp_path / "run", tmp_path)
    samples = load_samples(folder / "trajectories" / "step-000001-rank0.parquet", limit=1)
    assert samples.origin.file == folder.resolve() / "recipe.yaml" and len(samples.trajectories) == 2


def test_another_answer_style_reads_saved_answers_anew(tmp_path):
    samples = load_samples(run_folder(tmp_path / "run", tmp_path), answer="regex:[0-9]+")
    assert {t.answer for t in samples.trajectories} == {"5"}


def test_trajectories_of_an_unknown_model_need_its_name(tmp_path):
    folder = run_folder(tmp_path / "run", tmp_path)
    lone = tmp_path / "lone" / "window.parquet"
    lone.parent.mkdir()
    (folder / "trajectories" / "step-000000-rank0.parquet").rename(lone)
    with pytest.raises(UserError, match=r"not known which model's tokens .*--model"):
        load_samples(lone)
    assert len(load_samples(lone, model="shipped:quickstart/policy").trajectories) == 4


def test_files_of_two_runs_are_not_taken_for_one(tmp_path):
    first = run_folder(tmp_path / "run", tmp_path) / "trajectories"
    other = load_samples(
        write_lines(tmp_path / "o.jsonl", [COUNTDOWN | {"completion": TRACE, "target": 13}]),
        model="shipped:quickstart/policy",
    )
    write_trajectories(first / "step-000002-rank0.parquet", other.trajectories, step=2)
    with pytest.raises(UserError, match="files of different runs"):
        load_samples(first.parent)


def test_what_is_not_there_or_not_asked_for_rightly_is_refused(tmp_path):
    with pytest.raises(UserError, match="no file or folder"):
        load_samples(tmp_path / "nothing.jsonl")
    with pytest.raises(UserError, match="no trajectories there"):
        load_samples(tmp_path)
    with pytest.raises(UserError, match="unknown style 'bxed'"):
        load_samples(tmp_path / "nothing.jsonl", answer="bxed")
    with pytest.raises(UserError, match="--columns"):
        load_samples(run_folder(tmp_path / "run", tmp_path), columns={"prompt": "x"})


def test_the_outcome_fits_the_rows(tmp_path):
    def named(rows, asked=None):
        samples = load_samples(write_lines(tmp_path / "s.jsonl", rows))
        return [s.name for s in choose_outcome(samples, asked).sections]

    assert named(word_rows(1)) == ["math_correct"]
    assert named([row | {"answer": [row["answer"]]} for row in word_rows(1)]) == ["qa_em"]
    assert named(countdown_rows()) == ["countdown_correct"]
    assert named(word_rows(1), "qa_f1") == ["qa_f1"]
    without = [{k: v for k, v in row.items() if k != "answer"} for row in word_rows(1)]
    with pytest.raises(UserError, match=r"no gold answers.*--columns answer=NAME"):
        named(without)
    assert named(without, "qa_f1") == ["qa_f1"]  # an outcome of the user's own may need none
    with pytest.raises(UserError, match="an object"):
        named([row | {"answer": {"a": 1}} for row in word_rows(1)])
    with pytest.raises(UserError, match="shaping reward"):
        named(word_rows(1), "kimi_length")


def test_options_stand_for_sections_of_a_recipe():
    assert as_mapping(["prior={name: laplace}", "prior.target=3", "a=x"], "--set") == {
        "prior": {"name": "laplace", "target": 3},
        "a": "x",
    }
    assert as_spec("l1_max") == "l1_max" and as_spec("{name: l1_max, target: 3}") == {"name": "l1_max", "target": 3}
    assert as_prior("uniform") == {"name": "uniform"} and as_prior("mine.py:P") == {"name": "mine.py:P"}
    assert as_prior("shipped:quickstart/prior") == {"name": "language_model", "model": "shipped:quickstart/prior"}
    for wrong in ("{target: 3}", "{name: "):
        with pytest.raises(UserError):
            as_spec(wrong)
