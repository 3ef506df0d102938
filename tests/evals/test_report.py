"""Tables say what the numbers say: signs, units, undefined cells, differing settings, and refusals."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from cib_rl.errors import UserError
from cib_rl.evals.report import compare, comparisons, format_estimate, print_summary, save_comparison, summary_table
from cib_rl.evals.statistics import Estimate


@pytest.fixture
def pair(make_result):
    """Before: half right, 100 tokens; after: three quarters right, 60 tokens."""
    rng = np.random.default_rng(0)
    before = {f"q{i}": [("right" if i % 2 else "wrong", 100 + int(rng.integers(-9, 10)))] for i in range(40)}
    after = {f"q{i}": [("right" if i % 4 else "wrong", 60 + int(rng.integers(-9, 10)))] for i in range(40)}
    return make_result(before), make_result(after)


def _text(show) -> str:
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show(console)
    return console.export_text()


def test_a_comparison_holds_accuracy_tokens_and_truncation_with_intervals(pair):
    comparison = compare(*pair, names=("start", "end"))
    rows = {row.name: row.change for row in comparison.rows}
    assert (rows["accuracy"].before, rows["accuracy"].after) == (0.5, 0.75)
    assert rows["tokens (all)"].relative.value == pytest.approx(-0.4, abs=0.05)
    assert rows["tokens (all)"].relative.high < 0
    text = _text(comparison.print)
    assert "start → end" in text and "+25.0 pp [" in text and "% [-4" in text
    assert "on the 20 questions right in both" in " ".join(text.split())


def test_markdown_and_json_say_the_same(pair, tmp_path):
    comparison = compare(*pair)
    markdown, numbers = save_comparison(comparison, tmp_path / "deep")
    loaded = json.loads(numbers.read_text())
    accuracy = next(row for row in loaded["rows"] if row["name"] == "accuracy")
    assert accuracy["change"]["difference"]["value"] == 0.25
    lines = markdown.read_text().splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert any(line.startswith("| accuracy | 50.0% | 75.0% | +25.0 pp [") for line in lines)


def test_nothing_right_shows_a_dash_and_not_zero(make_result):
    wrong = make_result({q: [("wrong", 30)] for q in "abc"})
    markdown = compare(wrong, wrong).to_markdown()
    assert "| tokens (right) | – | – | – | – |" in markdown
    assert "–" in _text(lambda console: print_summary(wrong, console))


def test_different_questions_are_refused(make_result):
    with pytest.raises(UserError, match="different questions"):
        compare(make_result({"a": [("right", 1)]}), make_result({"b": [("right", 1)]}))


def test_the_same_ids_with_other_rows_behind_them_are_refused(pair):
    before, after = (replace(side, versions={"rows": name}) for side, name in zip(pair, "xy", strict=True))
    with pytest.raises(UserError, match="other prompts or golds"):
        compare(before, after)


def test_too_many_errors_are_refused_and_a_few_are_named(make_result):
    answers = {f"q{i}": [("right", 10)] for i in range(40)}
    broken = make_result(answers | {"q0": [("error", 0)]})
    assert any("1 of 40 samples after were errors" in w for w in compare(make_result(answers), broken).warnings)
    with pytest.raises(UserError, match="could not be graded"):
        compare(make_result(answers), make_result(answers | {f"q{i}": [("error", 0)] for i in range(9)}))


def test_samples_that_a_failed_search_spoiled_are_told_of(make_result):
    well = make_result({f"q{i}": [("right", 10)] for i in range(4)}, numbers={"failed_queries": 0.0})
    hit = replace(
        well, samples=[*(replace(s, numbers={"failed_queries": 2.0}) for s in well.samples[:3]), well.samples[3]]
    )
    assert "in 3 of 4 samples after a search failed" in " ".join(compare(well, hit).warnings)
    assert not compare(well, well).warnings
    assert "In 3 samples a search failed" in str(summary_table(hit).caption)
    assert "search failed" not in str(summary_table(well).caption)


def test_settings_that_differ_are_warned_of_but_not_the_model(pair):
    before = replace(pair[0], settings={"model": "a", "environment": {"max_completion_length": 320, "suffix": ""}})
    after = replace(pair[1], settings={"model": "b", "environment": {"max_completion_length": 512, "suffix": ""}})
    (warning,) = compare(before, after).warnings
    assert "environment.max_completion_length is 320 before and 512 after" in warning


def test_one_benchmark_by_two_names_is_measured_alike_but_not_where_rows_or_grades_are_unknown(pair):
    """`--benchmark my.yaml`, `--benchmark runs/RUN`, and a run's own evaluation, which has shaping rewards, too."""
    said = ({"benchmark": "my.yaml", "rewards": ["qa_em"]}, {"benchmark": "jsonl", "rewards": ["qa_em", "short"]})

    def warned(rows, settings=said):
        sides = zip(pair, settings, strict=True)
        return compare(*(replace(side, settings=own, versions=rows) for side, own in sides)).warnings

    assert not warned({"rows": "x"})
    assert any("benchmark is 'my.yaml'" in w for w in warned({}))
    assert any("benchmark is" in w for w in warned({"rows": "x"}, (said[0], said[1] | {"rewards": ["qa_f1"]})))


def test_results_are_compared_from_their_folders(pair, tmp_path):
    folders = [side.save(tmp_path / name) for side, name in zip(pair, "ab", strict=True)]
    assert compare(*folders).rows == compare(*pair).rows
    with pytest.raises(UserError, match="holds no evaluation result"):
        compare(tmp_path, folders[1])


def test_several_arms_are_compared_with_one_base(pair):
    arms = {"start": pair[0], "cib": pair[1], "plain": pair[0]}
    assert [(c.before, c.after) for c in comparisons(arms, "start")] == [("start", "cib"), ("start", "plain")]
    with pytest.raises(UserError, match="no arm 'end'"):
        comparisons(arms, "end")


def test_summary_table_shows_every_estimate(make_result):
    answers = {f"q{i}": [("right", 10 + i), ("wrong", 30)] for i in range(10)}
    text = _text(lambda console: print_summary(make_result(answers, numbers={"waste": 2.0}), console))
    for words in ("accuracy (avg@2)", "50.0% [", "pass@2", "median", "numbers/waste", "10 questions × 2 samples"):
        assert words in text, words


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(-0.362, -0.38, -0.343), "-36.2% [-38.0, -34.3]"),
        (Estimate(0.5), "+50.0%"),
        (Estimate(None), "–"),
        (None, "–"),
    ],
)
def test_estimates_as_text(estimate, text):
    assert format_estimate(estimate, scale=100, sign=True, unit="%") == text
