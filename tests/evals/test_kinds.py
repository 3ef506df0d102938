"""Turns, and kinds of question told apart: each kind is compared as if it had been asked alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cib_rl.evals.report import compare
from cib_rl.evals.result_io import load_result


@pytest.fixture
def sides(make_result):
    """Before and after, 60 questions of two kinds; `comparison` questions lose turns, `bridge` questions do not."""
    rng = np.random.default_rng(1)

    def side(turns_of_comparison: int):
        result = make_result(
            {f"q{i}": [("right" if rng.random() < 0.6 else "wrong", int(rng.integers(40, 90)))] for i in range(60)}
        )
        samples = [
            replace(s, kind=("comparison", "bridge")[i % 2], turns=3 if i % 2 else turns_of_comparison + i % 3)
            for i, s in enumerate(result.samples)
        ]
        return replace(result, samples=samples)

    return side(3), side(2)


def _alone(result, kind: str):
    samples = [s for s in result.samples if s.kind == kind]
    return replace(result, samples=samples, questions=[s.question for s in samples])


@pytest.mark.parametrize("kind", ["comparison", "bridge"])
def test_a_kind_reads_as_if_it_had_been_asked_alone(sides, kind):
    rows = {row.name: row.change for row in compare(*sides).rows}
    alone = {row.name: row.change for row in compare(*(_alone(side, kind) for side in sides)).rows}
    for name, of_all in (("accuracy", "accuracy"), ("tokens", "tokens (all)"), ("turns", "turns")):
        assert rows[f"{kind}: {name}"] == alone[of_all]
    for side in sides:
        whole, part = side.estimates(), _alone(side, kind).estimates()
        assert whole[f"{kind}/turns"].value == part["turns/mean"].value
        assert whole[f"{kind}/accuracy"] == part["accuracy"]
        assert whole[f"{kind}/tokens"].value == part["tokens/mean"].value


def test_turns_are_shown_with_two_digits_and_their_interval(sides):
    table = compare(*sides).to_markdown()
    line = next(line for line in table.splitlines() if line.startswith("| comparison: turns"))
    before, after, change = [cell.strip() for cell in line.split("|")[2:5]]
    mean = [np.mean([s.turns for s in side.samples if s.kind == "comparison"]) for side in sides]
    assert (before, after) == (f"{mean[0]:.2f}", f"{mean[1]:.2f}") and change.startswith(f"{mean[1] - mean[0]:+.2f} [")


def test_single_turns_and_single_kinds_add_no_rows(make_result):
    result = make_result({q: [("right", 30)] for q in "abc"})
    assert [row.name for row in compare(result, result).rows][-1] == "truncated"
    assert not any("turns" in name or "/accuracy" in name for name in result.estimates())


def test_kinds_are_saved_and_read_back(sides, tmp_path):
    assert load_result(sides[0].save(tmp_path / "result")).kinds == ["bridge", "comparison"]
