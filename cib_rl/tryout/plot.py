"""A trial as one picture: what the reward pays for, how it goes with length and other rewards, what probes earn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from cib_rl.evals.statistics import Estimate
from cib_rl.plots.style import BLUE, GREEN, GREY, ORANGE, RED, new_figure, save, title
from cib_rl.tryout.trial import Trial

_POINTS = 4000  # dots drawn; more only make the file larger
_COLORS = {"HACK": RED, "allowed": ORANGE, "no": GREEN}


def plot_trial(trial: Trial, path: str | Path) -> Path:
    """Draw a trial as a PNG; returns its path."""
    figure, axes = new_figure(2, 2, width=10.4, height=7.4)
    _histogram(axes[0], trial)
    _over_length(axes[1], trial)
    _agreements(axes[2], trial)
    _probes(axes[3], trial)
    return save(figure, path)


def _sides(trial: Trial) -> list[tuple[str, str, np.ndarray]]:
    known = ~np.isnan(trial.judged.values)
    correct = trial.judged.correct
    return [("wrong", RED, known & ~correct), ("right", BLUE, known & correct)]


def _histogram(axis: Axes, trial: Trial) -> None:
    values = trial.judged.values
    known = values[~np.isnan(values)]
    # Without the outermost hundredths: one far value would squeeze all others into one bar.
    low, high = np.quantile(known, [0.005, 0.995])
    if high - low <= 1e-12:
        low, high = float(known.min()) - 0.5, float(known.max()) + 0.5
    edges = np.linspace(low, high, 41)
    for name, color, side in _sides(trial):
        weights = np.full(int(side.sum()), 100 / len(known))
        heights, _ = np.histogram(np.clip(values[side], low, high), edges, weights=weights)
        axis.stairs(heights, edges, fill=True, color=color, alpha=0.25)
        axis.stairs(heights, edges, color=color, lw=1.6, label=f"{name} ({int(side.sum()):,})")
    title(axis, f"{trial.label}: values")
    axis.set_xlabel("reward (outermost 0.5% at the ends)")
    axis.set_ylabel("completions (%)")
    axis.set_ylim(0, axis.get_ylim()[1] * 1.2)
    axis.legend(loc="upper right", frameon=False, ncols=2)


def _over_length(axis: Axes, trial: Trial) -> None:
    tokens = np.array([t.num_tokens for t in trial.trajectories], dtype=np.float64)
    every = max(1, len(tokens) // _POINTS)
    for name, color, side in _sides(trial):
        chosen = np.flatnonzero(side)[::every]
        axis.scatter(
            tokens[chosen], trial.judged.values[chosen], s=9, alpha=0.35, color=color, linewidths=0, label=name
        )
    title(axis, "Against length")
    axis.set_xlim(0, 1.05 * float(np.quantile(tokens, 0.995)))
    axis.set_xlabel("tokens per completion (longest 0.5% not shown)")
    axis.set_ylabel("reward")
    legend = axis.legend(loc="best", frameon=False, markerscale=2)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)


def _agreements(axis: Axes, trial: Trial) -> None:
    shown = [a for a in trial.agreements if a.within.value is not None][::-1]
    title(axis, "Goes along with, within problems")
    if not shown:
        _nothing(axis, "the reward is the same for all completions of each problem")
        return
    _bars_with_intervals(axis, [a.name for a in shown], [a.within for a in shown], [BLUE] * len(shown))
    axis.axvline(0, color=GREY, lw=1)
    axis.set_xlim(-1.05, 1.05)
    axis.set_xlabel("Kendall τ-b with the reward (mean over problems, 95% interval)")


def _probes(axis: Axes, trial: Trial) -> None:
    shown = [p for p in trial.probes if p.made][::-1]
    title(axis, "Probes: gain over the honest one")
    if not shown:
        _nothing(axis, "no probe was made")
        return
    names = [f"{p.name} ({p.verdict})" if p.verdict != "no" else p.name for p in shown]
    _bars_with_intervals(axis, names, [p.gain for p in shown], [_COLORS[p.verdict] for p in shown])
    axis.axvline(0, color=GREY, lw=1)
    axis.set_xlabel(f"total at weight {trial.weight:g} (mean over problems, 95% interval)")


def _bars_with_intervals(axis: Axes, names: list[str], found: list[Estimate], colors: list[str]) -> None:
    centre = np.array([e.value or 0.0 for e in found])
    # Without an interval the bar has none: its ends are the value itself.
    low = np.array([c if e.low is None else e.low for e, c in zip(found, centre, strict=True)])
    high = np.array([c if e.high is None else e.high for e, c in zip(found, centre, strict=True)])
    reach = np.clip(np.stack([centre - low, high - centre]), 0, None)
    axis.barh(np.arange(len(names)), centre, 0.6, xerr=reach, color=colors, alpha=0.85,
              error_kw={"elinewidth": 1.2, "ecolor": "#222222", "capsize": 2})  # fmt: skip
    axis.set_yticks(range(len(names)), names)
    axis.grid(visible=False, axis="y")


def _nothing(axis: Axes, why: str) -> None:
    axis.text(0.5, 0.5, why, ha="center", va="center", transform=axis.transAxes, color="#555555", wrap=True)
    axis.set_axis_off()
