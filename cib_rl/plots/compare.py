"""Pictures of several runs or evaluations side by side, as PNG files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cib_rl.errors import UserError
from cib_rl.plots import style
from cib_rl.plots.style import BLUE, GREY, MARKERS, PALETTE

if TYPE_CHECKING:
    from cib_rl.evals.result import EvalResult


def plot_arms(arms: Mapping[str, EvalResult], path: str | Path, *, tokens: str = "tokens/mean") -> Path:
    """Accuracy over tokens, one point per arm with both 95% intervals. `tokens` may be `tokens/right`."""
    labels = {"tokens/mean": "tokens per answer", "tokens/right": "tokens per right answer"}
    figure, (axis,) = style.new_figure(1, 1, width=7.4, height=4.2)
    for index, (name, result) in enumerate(arms.items()):
        estimates = result.estimates()
        length, accuracy = estimates[tokens], estimates["accuracy"]
        if length.value is None or accuracy.value is None:
            continue
        ends = [(e.low if e.low is not None else np.nan, e.high if e.high is not None else np.nan)
                for e in (length, accuracy)]  # fmt: skip
        style.bars(axis, length.value, 100 * accuracy.value, xrange=ends[0], yrange=tuple(100 * e for e in ends[1]),
              color=PALETTE[index % len(PALETTE)], marker=MARKERS[index % len(MARKERS)], label=name)  # fmt: skip
    axis.set_xlabel(f"{labels.get(tokens, tokens)} (mean, 95% interval)")
    axis.set_ylabel("right answers (%, 95% interval)")
    axis.margins(0.12)
    figure.legend(loc="outside right upper", frameon=False)
    return style.save(figure, path)


def plot_seeds(arms: Mapping[str, Sequence[tuple[float, float]]], path: str | Path) -> Path:
    """Accuracy over tokens per answer: one small mark per training seed, a large one at each arm's mean.

    Args:
        arms: name -> (tokens, accuracy between 0 and 1) of each seed.
    """
    figure, (axis,) = style.new_figure(1, 1, width=7.4, height=4.2)
    for index, (name, points) in enumerate(arms.items()):
        tokens, accuracy = np.array(points, dtype=np.float64).T
        look: Any = {
            "color": PALETTE[index % len(PALETTE)],
            "marker": MARKERS[index % len(MARKERS)],
            "clip_on": False,
        }
        axis.scatter(tokens, 100 * accuracy, s=26, alpha=0.55, linewidths=0, **look)
        label = f"{name} ({len(points)})"
        axis.scatter(tokens.mean(), 100 * accuracy.mean(), s=90, edgecolors="white", zorder=5, label=label, **look)
    axis.set_xlabel("tokens per answer (mean)")
    axis.set_ylabel("right answers (%)")
    axis.margins(0.12)
    figure.legend(loc="outside right upper", frameon=False, title="large: mean of (seeds)")
    return style.save(figure, path)


def plot_curves(runs: Mapping[str, str | Path], path: str | Path, *, metric: str, label: str, scale: float = 1) -> Path:
    """One panel per run with the running mean of a training metric, over those of all other runs in grey.

    Args:
        runs: name -> run folder. metric: a key of metrics.jsonl. label: of the vertical axis.

    Raises UserError when a run has no such metric.
    """
    curves = {}
    for name, folder in runs.items():
        file = Path(folder) / "metrics.jsonl"
        if not file.is_file():
            raise UserError(f"{folder}: nothing to plot (no metrics.jsonl)")
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        steps, values = style.series(rows, metric, scale)
        if not steps:
            raise UserError(f"{file}: no metric {metric!r}")
        curves[name] = steps, style.running_mean(values, 5)[0]
    columns = min(4, len(curves))
    lines = -(-len(curves) // columns)
    figure, axes = style.new_figure(lines, columns, width=2.6 * columns, height=2.2 * lines, share=True)
    for axis, name in zip(axes, curves, strict=False):
        for other, curve in curves.items():
            if other != name:
                axis.plot(*curve, color=GREY, lw=0.7, alpha=0.35)
        axis.plot(*curves[name], color=BLUE, lw=2)
        style.title(axis, name)
    for axis in axes[max(0, len(curves) - columns) : len(curves)]:  # the lowest panel of each column
        axis.tick_params(labelbottom=True)
    for axis in axes[len(curves) :]:
        axis.set_visible(False)
    figure.supxlabel("training step", fontsize=9.5)
    figure.supylabel(label, fontsize=9.5)
    return style.save(figure, path)
