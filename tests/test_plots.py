"""Plots from what a run folder holds: which files, with which panels; nothing to plot is an error and not a blank."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from cib_rl import plots
from cib_rl.errors import UserError
from cib_rl.evals.result import EvalResult, Sample
from cib_rl.plots import style


def _result(tokens: float, *, right: float = 0.7, kinds: bool = False) -> EvalResult:
    rng = np.random.default_rng(0)
    samples = [
        Sample(
            f"q{i}", 0, "right" if rng.random() < right else "wrong", int(rng.normal(tokens, 9)), False, "eos", "", "",
            "", 1, 1, None, {"kind/try": tokens / 2, "kind/recheck": float(rng.integers(9))} if kinds else {},
        )
        for i in range(40)
    ]  # fmt: skip
    return EvalResult(samples, [f"q{i}" for i in range(40)], 1)


def _run(folder, steps=20, *, evaluations=(), **metrics):
    folder.mkdir(parents=True)
    lines = [{"step": s, "accuracy": 0.5 + s / 100, "tokens/mean": 100.0 - s, **metrics} for s in range(1, steps + 1)]
    for step, result in evaluations:
        result.save(folder / "evaluations" / f"step-{step:06d}")
        lines.append({"step": step, **{f"eval/{k}": v for k, v in result.summary().items()}})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def drawn(monkeypatch):
    """The figures in the order in which they are saved."""
    figures, save = [], style.save
    monkeypatch.setattr(style, "save", lambda figure, path: (figures.append(figure), save(figure, path))[1])
    return figures


def _titles(figure) -> list[str]:
    return [axis.get_title(loc="left") for axis in figure.axes if axis.get_visible()]


def test_a_run_without_evaluations_gives_the_curves_it_has(tmp_path, drawn):
    (path,) = plots.plot_run(_run(tmp_path / "run", rate_nats=3.0, truncated_share=None))
    assert path == tmp_path / "run" / "plots" / "training.png"
    assert _titles(drawn[0]) == ["Accuracy", "Answer length", "Rate: bound on I(X; Z)"]
    assert Image.open(path).size[0] > 800


def test_two_evaluations_add_distributions_and_kinds_and_points_with_bars(tmp_path, drawn):
    folder = _run(tmp_path / "run", evaluations=[(0, _result(100, kinds=True)), (20, _result(60, kinds=True))])
    assert [path.name for path in plots.plot_run(folder)] == ["training.png", "tokens.png", "waste.png"]
    accuracy = drawn[0].axes[0]
    (container,) = accuracy.containers
    assert container.lines[0].get_xdata().tolist() == [0, 20]
    labels = [text.get_text() for text in drawn[1].axes[0].get_legend().get_texts()]
    assert (labels[0].startswith("before: ") and "mean 9" in labels[0]) or "mean 10" in labels[0]


def test_what_grams_told_is_a_picture_of_its_own_and_perplexity_is_relative_to_the_first(tmp_path, drawn):
    grams = {"planning/share": 0.1, "planning/semantic_entropy_nats": 2.0, "execution/perplexity": 3.0}
    folder = _run(tmp_path / "run", steps=3, **grams)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row, perplexity in zip(rows, (None, 4.0, 6.0), strict=True):
        row["planning/perplexity"] = perplexity
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [path.name for path in plots.plot_run(folder)] == ["training.png", "planning.png"]
    assert _titles(drawn[1]) == ["Planning tokens", "Semantic entropy of grams", "Relative perplexity"]
    curves = {line.get_label(): line.get_ydata().tolist() for line in drawn[1].axes[2].lines}
    assert curves["planning"] == [1.0, 1.5] and curves["execution"] == [1.0, 1.0, 1.0]
    assert {line.get_ydata()[0] for line in drawn[1].axes[0].lines} == {10.0}


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_all_right_or_all_wrong_is_drawn_without_a_mean_that_does_not_exist(tmp_path, drawn, right):
    plots.plot_tokens(_result(80, right=right), _result(50, right=right), tmp_path / "t.png")
    labels = [text.get_text() for axis in drawn[0].axes for text in axis.get_legend().get_texts()]
    assert sum("0% of answers" in text and "mean" not in text for text in labels) == 2


def test_nothing_to_plot_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"no metrics\.jsonl"):
        plots.plot_run(tmp_path)
    folder = _run(tmp_path / "run", steps=0)
    with pytest.raises(UserError, match="no step has been logged"):
        plots.plot_run(folder)
    with pytest.raises(UserError, match="no numbers named kind/"):
        plots.plot_kinds(_result(9), _result(9), tmp_path / "k.png")


def test_arms_are_points_with_both_intervals(tmp_path, drawn):
    arms = {"start": _result(100), "CIB": _result(60), "nothing right": _result(50, right=0)}
    plots.plot_arms(arms, tmp_path / "arms.png")
    assert [c.lines[0].get_xdata()[0] for c in drawn[0].axes[0].containers] == pytest.approx([100, 60, 50], abs=5)
    assert all(len(c.lines[2]) == 2 for c in drawn[0].axes[0].containers)  # bars along both axes
    # An arm with no right answer has no tokens per right answer, and is left out of that picture.
    plots.plot_arms(arms, tmp_path / "right.png", tokens="tokens/right")
    assert len(drawn[1].axes[0].containers) == 2


def test_running_mean_and_spread_against_a_plain_loop():
    values = [1.0, 5.0, 2.0, 8.0, 3.0, 3.0]
    mean, spread = style.running_mean(values, 3)
    assert mean.tolist() == pytest.approx([3, 8 / 3, 5, 13 / 3, 14 / 3, 3])
    assert spread[1] == pytest.approx(np.std([1, 5, 2]))


def test_every_seed_is_a_mark_and_every_arm_one_more_at_its_mean(tmp_path, monkeypatch):
    figures, save = [], style.save
    monkeypatch.setattr(style, "save", lambda figure, path: (figures.append(figure), save(figure, path))[1])
    arms = {"a": [(100.0, 0.8), (110.0, 0.9)], "b": [(150.0, 0.7)]}
    assert plots.plot_seeds(arms, tmp_path / "seeds.png").stat().st_size > 5000
    drawn = [tuple(point) for marks in figures[0].axes[0].collections for point in marks.get_offsets().tolist()]
    expected = [(100, 80), (110, 90), (105, 85), (150, 70), (150, 70)]
    assert np.allclose(drawn, expected)


def test_curves_of_several_runs_are_one_panel_each_over_all_others(tmp_path, drawn):
    runs = {name: _run(tmp_path / name, **{"cost": shift}) for name, shift in (("a", 1.0), ("b", 2.0), ("c", 3.0))}
    plots.plot_curves(runs, tmp_path / "c.png", metric="cost", label="cost", scale=10)
    axes = [axis for axis in drawn[-1].axes if axis.get_visible()]
    assert [axis.get_title(loc="left") for axis in axes] == ["a", "b", "c"]
    for axis, own in zip(axes, (10, 20, 30), strict=True):
        assert sorted(line.get_ydata()[0] for line in axis.lines) == [10, 20, 30]
        assert axis.lines[-1].get_ydata().tolist() == [own] * 20
    with pytest.raises(UserError, match="no metric 'price'"):
        plots.plot_curves(runs, tmp_path / "c.png", metric="price", label="")
    with pytest.raises(UserError, match="nothing to plot"):
        plots.plot_curves({"d": tmp_path / "d"}, tmp_path / "c.png", metric="cost", label="")
