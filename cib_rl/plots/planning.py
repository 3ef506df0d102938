"""What strategic grams told over a run: how many, how varied, how sure the policy was of them and of all else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cib_rl.plots import style
from cib_rl.plots.style import BLUE, GREY

# title, axis label, scale, whether relative to the first value, (metric, its name in the legend) of each curve
_PANELS: tuple[tuple[str, str, float, bool, tuple[tuple[str, str], ...]], ...] = (
    ("Planning tokens", "of the policy's tokens (%)", 100, False, (("planning/share", "planning"),)),
    ("Semantic entropy of grams", "nats", 1, False, (("planning/semantic_entropy_nats", "planning"),)),
    ("Entropy of what follows a gram", "nats", 1, False, (("planning/conditional_entropy_nats", "planning"),)),
    ("Token entropy", "nats per token", 1, False,
     (("planning/entropy_nats", "planning"), ("execution/entropy_nats", "execution"))),
    ("Relative perplexity", "of the first window's", 1, True,
     (("planning/perplexity", "planning"), ("execution/perplexity", "execution"))),
)  # fmt: skip


def has_planning(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these lines of metrics have anything to draw here."""
    return any(style.series(rows, name, 1)[0] for *_, curves in _PANELS for name, _ in curves)


def plot_planning(rows: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Curves from lines of metrics (see `cib_rl.grams.measure.gram_metrics`): running means, each step faint behind
    them; perplexities divided by the first one logged, as in HICRA (arXiv 2509.03646, §2.2.1)."""
    from matplotlib.ticker import MaxNLocator

    panels = [p for p in _PANELS if any(style.series(rows, name, 1)[0] for name, _ in p[-1])]
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = style.new_figure(lines, columns, width=4.1 * columns, height=2.9 * lines)
    for axis, (title, label, scale, relative, curves) in zip(axes, panels, strict=False):
        for (name, legend), color in zip(curves, (BLUE, GREY), strict=False):
            steps, values = style.series(rows, name, scale)
            if relative and values:
                values = [value / values[0] for value in values]
            axis.plot(steps, values, color=color, lw=0.7, alpha=0.35)
            mean = style.running_mean(values, max(5, len(values) // 12) if len(values) >= 8 else 1)[0]
            axis.plot(steps, mean, color=color, lw=2, label=legend, marker="o" if len(values) < 8 else None, ms=3.5)
        style.title(axis, title)
        axis.set_ylabel(label)
        axis.set_xlabel("training step")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, steps=[1, 2, 5, 10]))
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    shown = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown.keys(), loc="outside upper left", ncols=2, frameon=False)
    figure.align_ylabels()
    return style.save(figure, path)
