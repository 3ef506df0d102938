"""What all pictures share: colours, figures, points with bars, and where they are saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette without its yellow, which is too light for lines.
BLUE, ORANGE, GREEN, RED, SKY, PINK, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#777777"
PALETTE = (BLUE, RED, GREEN, PINK, ORANGE, SKY, GREY)
MARKERS = "osD^vPX"


def series(rows: Sequence[Mapping[str, Any]], name: str, scale: float) -> tuple[list[float], list[float]]:
    pairs = [(row["step"], row[name] * scale) for row in rows if row.get(name) is not None]
    return [float(step) for step, _ in pairs], [float(value) for _, value in pairs]


def running_mean(values: Sequence[float], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Centred mean and standard deviation over `width` neighbours, fewer at both ends. Shapes (T,)."""
    array, half = np.asarray(values, dtype=np.float64), width // 2
    windows = [array[max(0, i - half) : i + half + 1] for i in range(len(array))]
    return np.array([w.mean() for w in windows]), np.array([w.std() for w in windows])


def bars(
    axis: Axes, x: Any, y: Any, *, yrange: Any, xrange: Any = None, color: str, marker: str, label: str | None
) -> None:
    """Points with interval bars given by their ends (NaN: no bar)."""

    def reach(centre: Any, ends: Any) -> np.ndarray | None:
        if ends is None:
            return None
        low, high = (np.atleast_1d(np.asarray(end, dtype=np.float64)) for end in ends)
        middle = np.atleast_1d(np.asarray(centre, dtype=np.float64))
        return np.nan_to_num(np.clip(np.stack([middle - low, high - middle]), 0, None))

    axis.errorbar(x, y, yerr=reach(y, yrange), xerr=reach(x, xrange), fmt=marker, ms=6, color=color, mec="white",
                  mew=0.8, elinewidth=1.6, capsize=3, capthick=1.2, zorder=5, clip_on=False, label=label)  # fmt: skip


def title(axis: Axes, text: str) -> None:
    axis.set_title(text, loc="left", fontsize=10.5, fontweight="bold")


def new_figure(
    lines: int, columns: int, *, width: float, height: float, share: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure in the house style that never opens a window, and its axes row by row."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: Any = {
        "font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888",
        "axes.grid": True, "axes.axisbelow": True, "grid.color": "#E4E4E4", "grid.linewidth": 0.8,
        "xtick.color": "#444444", "ytick.color": "#444444", "axes.labelcolor": "#222222",
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(lines, columns, squeeze=False, sharex=share, sharey=share)
    return figure, list(axes.ravel())


def save(figure: Figure, path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path
