"""Pictures: of one run (`run.py`), of several side by side (`compare.py`), in one style (`style.py`)."""

from cib_rl.plots.compare import plot_arms, plot_curves, plot_seeds
from cib_rl.plots.run import plot_kinds, plot_run, plot_tokens, plot_training

__all__ = ["plot_arms", "plot_curves", "plot_kinds", "plot_run", "plot_seeds", "plot_tokens", "plot_training"]
