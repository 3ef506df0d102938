"""An audit as one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from cib_rl.audit.audit import Audit
from cib_rl.plots.style import BLUE, GREEN, GREY, ORANGE, RED, new_figure, save, title


def plot_audit(audit: Audit, path: str | Path) -> Path:
    """Draw an audit as a PNG; returns its path."""
    figure, axes = new_figure(2, 2, width=10.4, height=7.4)
    _lengths(axes[0], audit)
    _shortest(axes[1], audit)
    _outcomes(axes[2], audit)
    if audit.cost is not None and len(audit.cost.taus):
        _agreement(axes[3], audit.cost.taus)
    else:
        _after(axes[3], audit)
    return save(figure, path)


def _lengths(axis: Axes, audit: Audit) -> None:
    longest = float(np.quantile(audit.tokens, 0.99))
    edges = np.linspace(0, max(longest, 1.0) * 1.02, 41)
    for name, color, side in (("wrong", RED, ~audit.correct), ("right", BLUE, audit.correct)):
        kept = audit.tokens[side]
        weights = np.full(len(kept), 100 / len(audit.tokens))
        heights, _ = np.histogram(np.minimum(kept, edges[-1]), edges, weights=weights)
        mean = f", mean {kept.mean():.0f}" if len(kept) else ""
        axis.stairs(heights, edges, fill=True, color=color, alpha=0.25)
        axis.stairs(heights, edges, color=color, lw=1.6, label=f"{name} ({len(kept):,}{mean})")
    title(axis, "Length")
    axis.set_xlabel("tokens per completion (longest 1% at the end)")
    axis.set_ylabel("completions (%)")
    axis.set_ylim(0, axis.get_ylim()[1] * 1.25)
    axis.legend(loc="upper right", frameon=False)


def _shortest(axis: Axes, audit: Audit) -> None:
    pairs = audit.shortest.pairs
    title(axis, "Shortest against mean right answer")
    if not len(pairs):
        _nothing(axis, "no problem has two right answers")
        return
    top = float(np.quantile(pairs[:, 0], 0.99)) * 1.05
    axis.plot([0, top], [0, top], color=GREY, lw=1.2, ls="--", label="equal")
    axis.scatter(pairs[:, 0], pairs[:, 1], s=12, alpha=0.4, color=BLUE, linewidths=0, label="one problem")
    saving = audit.shortest.saving.value or 0.0
    axis.plot([0, top], [0, top * (1 - saving)], color=ORANGE, lw=1.8, label=f"{100 * saving:.0f}% shorter (all)")
    axis.set_xlim(0, top)
    axis.set_ylim(0, top)
    axis.set_xlabel("mean tokens of the right answers")
    axis.set_ylabel("tokens of the shortest one")
    axis.legend(loc="upper left", frameon=False)


def _outcomes(axis: Axes, audit: Audit) -> None:
    names, index = np.unique(audit.groups, return_inverse=True)
    right = np.bincount(index, audit.correct, len(names))
    share = right / np.bincount(index, minlength=len(names))
    title(axis, "Problems by share of right answers")
    bars = (
        ("all wrong", RED, share == 0),
        ("mixed", GREEN, (share > 0) & (share < 1)),
        ("all right", BLUE, share == 1),
    )
    # Bars in the middle of their values: with n samples the shares are k / n.
    edges = np.linspace(0, 1, min(audit.per_problem[1], 20) + 2)
    for name, color, side in bars:
        heights, _ = np.histogram(share[side], edges)
        axis.bar((edges[:-1] + edges[1:]) / 2 * 100, heights, width=100 * (edges[1] - edges[0]) * 0.9, color=color,
                 alpha=0.85, label=f"{name} ({int(side.sum()):,})")  # fmt: skip
    axis.set_xticks([50 * (edges[0] + edges[1]), 50, 50 * (edges[-2] + edges[-1])], ["0%", "50%", "100%"])
    axis.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, steps=[1, 2, 5, 10]))
    axis.set_xlabel("right answers of a problem")
    axis.set_ylabel("problems")
    axis.set_ylim(0, axis.get_ylim()[1] * 1.2)
    axis.legend(loc="upper center", frameon=False, ncols=3, handlelength=1.2, columnspacing=1.2)


def _agreement(axis: Axes, taus: np.ndarray) -> None:
    axis.hist(taus, np.linspace(-1, 1, 22).tolist(), color=BLUE, alpha=0.85)
    axis.axvline(float(taus.mean()), color=ORANGE, lw=1.8, label=f"mean {taus.mean():.2f}")
    title(axis, "Surprisal cost against length, within problems")
    axis.set_xlabel("Kendall τ-b of cost and length within a problem")
    axis.set_ylabel("problems")
    axis.legend(loc="upper left", frameon=False)


def _after(axis: Axes, audit: Audit) -> None:
    shares = audit.after.shares
    title(axis, "Tokens after the answer first appears")
    if not len(shares):
        _nothing(axis, "it cannot be seen where answers first appear")
        return
    axis.hist(
        100 * shares,
        np.linspace(0, 100, 41).tolist(),
        color=BLUE,
        alpha=0.85,
        weights=np.full(len(shares), 100 / len(shares)),
    )
    axis.set_xlabel("tokens of a right answer (%)")
    axis.set_ylabel("right answers (%)")


def _nothing(axis: Axes, why: str) -> None:
    axis.text(0.5, 0.5, why, ha="center", va="center", transform=axis.transAxes, color="#555555", wrap=True)
    axis.set_axis_off()
