"""Pictures of a run and of its evaluations, as PNG files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cib_rl.errors import UserError
from cib_rl.plots import style
from cib_rl.plots.planning import has_planning, plot_planning
from cib_rl.plots.style import BLUE, GREY, RED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cib_rl.evals.result import EvalResult

# metric, title, axis label, scale, the held-out evaluation's name for it (None: not evaluated), fixed lower end at 0
_PANELS: tuple[tuple[str, str, str, float, str | None, bool], ...] = (
    ("accuracy", "Accuracy", "right answers (%)", 100, "accuracy", False),
    ("tokens/mean", "Answer length", "tokens per answer", 1, "tokens/mean", True),
    ("tokens/right", "Length of right answers", "tokens per right answer", 1, "tokens/right", True),
    ("search/turns", "Turns", "turns per episode", 1, "turns/mean", True),
    ("search/decomposition", "Several queries in a search", "searches (%)", 100, None, True),
    ("search/valid_actions", "Valid actions", "turns (%)", 100, None, False),
    ("seconds/search_p95", "Search latency", "seconds (95th percentile)", 1, None, True),
    ("truncated_share", "Truncated", "answers cut off (%)", 100, "truncated_share", True),
    ("surprisal/token", "Surprisal under the prior", "nats per token", 1, None, False),
    ("surprisal/completion", "Cost of an answer", "surprisal (nats per answer)", 1, None, True),
    ("rate_nats", "Rate: bound on I(X; Z)", "nats per answer", 1, None, False),
    ("entropy_nats_per_token", "Entropy of the policy", "nats per token", 1, None, True),
    ("reward/outcome", "Outcome reward", "mean per answer", 1, None, False),
    ("reward/shaping", "Shaping reward", "mean per answer", 1, None, False),
    ("budget/price", "Price of an answer like the first", "reward", 1, None, True),
    ("critic/explained_variance", "Explained variance of the critic", "share", 1, None, False),
    ("critic/loss", "Value loss", "per token", 1, None, True),
    ("kl_reward", "KL to the reference, in the reward", "nats per token", 1, None, False),
    ("kl_old_new", "KL of the updates of a window", "nats per token", 1, None, True),
    ("ratio/kl_engine_trainer", "Engine against trainer", "KL (nats per token)", 1, None, False),
    ("grad_norm", "Gradient norm", "norm before clipping", 1, None, True),
)


def plot_run(folder: str | Path) -> list[Path]:
    """Draw everything a run folder holds into its `plots/`; returns the files made.

    training.png always; planning.png where grams were measured; tokens.png and waste.png when there are two
    evaluations, of which the first and last are taken.
    Raises UserError when the folder has no metrics.
    """
    folder = Path(folder)
    made = [plot_training(folder, folder / "plots" / "training.png")]
    rows = _metrics(folder)
    if has_planning(rows):
        made.append(plot_planning(rows, folder / "plots" / "planning.png"))
    evaluations = sorted(path for path in (folder / "evaluations").glob("step-*") if (path / "result.json").is_file())
    if len(evaluations) >= 2:
        from cib_rl.evals.result_io import load_result

        before, after = load_result(evaluations[0]), load_result(evaluations[-1])
        made.append(plot_tokens(before, after, folder / "plots" / "tokens.png"))
        if any(name.startswith("kind/") for sample in before.samples[:1] for name in sample.numbers):
            made.append(plot_kinds(before, after, folder / "plots" / "waste.png"))
    return made


def _metrics(folder: str | Path) -> list[dict[str, Any]]:
    file = Path(folder) / "metrics.jsonl"
    if not file.is_file():
        raise UserError(f"{folder}: nothing to plot (no metrics.jsonl)")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def plot_training(folder: str | Path, path: str | Path) -> Path:
    """Training curves from metrics.jsonl: each step faint, their running mean strong with a band of one standard
    deviation of the steps around it, held-out evaluations as points with their 95% interval.

    Raises UserError when there are no metrics.
    """
    from matplotlib.ticker import MaxNLocator

    rows = _metrics(folder)
    found = {p: sum(row.get(p[0]) is not None for row in rows) for p in _PANELS}
    # What is measured only now and then makes a curve once there are two points, unless the run has no more steps.
    panels = [p for p in _PANELS if found[p] >= min(2, max(found.values())) and found[p] > 0]
    if not panels:
        raise UserError(f"{folder}: nothing to plot (no step has been logged)")
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = style.new_figure(lines, columns, width=4.1 * columns, height=2.9 * lines)
    for axis, (name, title, label, scale, evaluated, from_zero) in zip(axes, panels, strict=False):
        steps, values = style.series(rows, name, scale)
        _curve(axis, steps, values)
        if evaluated is not None:
            _evaluations(axis, rows, f"eval/{evaluated}", scale)
        style.title(axis, title)
        axis.set_ylabel(label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, steps=[1, 2, 5, 10]))
        if from_zero and min(values, default=0) >= 0:
            axis.set_ylim(0, 1.08 * axis.get_ylim()[1] or 1)
    for axis in axes[max(0, len(panels) - columns) : len(panels)]:  # the lowest panel of each column
        axis.set_xlabel("training step")
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    shown = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown.keys(), loc="outside upper left", ncols=3, frameon=False)
    figure.align_ylabels()
    return style.save(figure, path)


def _curve(axis: Axes, steps: Sequence[float], values: Sequence[float]) -> None:
    few = len(values) < 8
    # Few steps are shown as they are; a running mean of them would only hide them.
    axis.plot(steps, values, color=BLUE, lw=1.6 if few else 0.7, alpha=1 if few else 0.35, marker="o" if few else None,
              ms=3.5, label="training" if few else None)  # fmt: skip
    if few:
        return
    mean, spread = style.running_mean(values, max(5, len(values) // 12))
    axis.plot(steps, mean, color=BLUE, lw=2, label="training (running mean ± sd)")
    axis.fill_between(steps, mean - spread, mean + spread, color=BLUE, alpha=0.15, lw=0)


def _evaluations(axis: Axes, rows: Sequence[Mapping[str, Any]], name: str, scale: float) -> None:
    points = [
        (row["step"], *(scale * row[f"{name}{end}"] if row.get(f"{name}{end}") is not None else np.nan
                        for end in ("", "/low", "/high")))
        for row in rows if row.get(name) is not None
    ]  # fmt: skip
    if not points:
        return
    steps, value, low, high = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
    style.bars(axis, steps, value, yrange=(low, high), color=RED, marker="D", label="held out (95%)")


def plot_tokens(
    before: EvalResult, after: EvalResult, path: str | Path, *, names: tuple[str, str] = ("before", "after")
) -> Path:
    """Lengths of right and wrong answers, before and after: shares of all graded answers, dashed lines at the means."""
    sides = [result.columns() for result in (before, after)]
    longest = max(float(side["tokens"].max(initial=1.0)) for side in sides)
    edges = np.linspace(0, longest * 1.02, 36).tolist()
    figure, axes = style.new_figure(1, 2, width=9.2, height=3.6, share=True)
    for axis, (title, right) in zip(axes, (("Right answers", True), ("Wrong answers", False)), strict=True):
        for side, name, color in zip(sides, names, (GREY, BLUE), strict=True):
            kept = side["tokens"][side["right"] == right]
            share = 100 / max(len(side["tokens"]), 1)
            text = f"{name}: {len(kept) * share:.0f}% of answers"
            text += f", mean {kept.mean():.0f} tokens" if len(kept) else ""
            heights, _ = np.histogram(kept, edges, weights=np.full(len(kept), share))
            axis.stairs(heights, edges, fill=True, color=color, alpha=0.28)
            axis.stairs(heights, edges, color=color, lw=1.6, label=text)
            if len(kept):
                axis.axvline(float(kept.mean()), ymax=0.78, color=color, ls="--", lw=1.4)
        style.title(axis, title)
        axis.set_xlabel("tokens per answer")
        axis.legend(loc="upper right", frameon=False)
    axes[0].set_ylabel("share of all answers (%)")
    axes[0].set_xlim(0, edges[-1])
    # Room above the bars, so that no legend hides one.
    axes[0].set_ylim(0, axes[0].get_ylim()[1] * 1.25)
    return style.save(figure, path)


def plot_kinds(
    before: EvalResult, after: EvalResult, path: str | Path, *, names: tuple[str, str] = ("before", "after")
) -> Path:
    """Mean tokens per answer by kind (numbers named `kind/...`), before and after, with 95% intervals."""
    sides = [
        {k.removeprefix("numbers/kind/"): v for k, v in r.estimates().items() if k.startswith("numbers/kind/")}
        for r in (before, after)
    ]
    kinds = sorted(sides[0], key=lambda kind: sides[0][kind].value or 0)
    if not kinds:
        raise UserError("these results hold no numbers named kind/...: nothing to plot")
    figure, (axis,) = style.new_figure(1, 1, width=7.2, height=0.42 * len(kinds) + 1.3)
    for side, name, color, shift in zip(sides, names, (GREY, BLUE), (0.2, -0.2), strict=True):
        values = [side[kind].value or 0 if kind in side else 0 for kind in kinds]
        ends = [[getattr(side[kind], end) if kind in side else None for kind in kinds] for end in ("low", "high")]
        low, high = (np.array([np.nan if e is None else e for e in row]) for row in ends)
        reach = np.nan_to_num(np.clip(np.stack([np.array(values) - low, high - np.array(values)]), 0, None))
        axis.barh(np.arange(len(kinds)) + shift, values, 0.38, xerr=reach, color=color, label=name,
                  error_kw={"elinewidth": 1.2, "ecolor": "#222222", "capsize": 2})  # fmt: skip
    axis.set_yticks(range(len(kinds)), kinds)
    axis.set_xlabel("tokens per answer (mean, 95% interval)")
    style.title(axis, "What the tokens are spent on")
    axis.grid(visible=False, axis="y")
    axis.legend(loc="lower right", frameon=False)
    return style.save(figure, path)
