"""The quickstart: train the embedded default, evaluate before and after, plot, and say what came out."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from cib_rl.errors import UserError
from cib_rl.evals.report import compare, save_comparison
from cib_rl.plots import plot_run
from cib_rl.recipe import Recipe
from cib_rl.run_folder import RunFolder
from cib_rl.trainers.run import train


def quickstart(recipe: Recipe) -> Path:
    """Run `recipe` (the shipped `quickstart`, with the user's changes) and print the closing table.

    Returns the run folder: metrics, trajectories, checkpoints, both evaluations, their comparison, and plots.

    Raises UserError for what `train` refuses, and for changes that leave no two evaluations to compare.
    """
    evaluation = recipe.evaluation
    if evaluation is None or not (evaluation.before and evaluation.after):
        raise UserError(
            "the quickstart compares before with after: leave `evaluation` its `before` and `after`, or train without "
            "it by `cib-rl train quickstart`"
        )
    console = Console(emoji=False)
    started = time.perf_counter()
    console.print(
        f"Training {recipe.model} for {recipe.trainer.steps} steps; "
        f"{evaluation.problems} held-out problems before and after."
    )
    folder = RunFolder(train(recipe))
    minutes = (time.perf_counter() - started) / 60
    comparison = compare(*evaluations(folder), names=("before", "after"))
    comparison.print(console)
    save_comparison(comparison, folder.path)
    plots = plot_run(folder.path)
    console.print(f"{minutes:.1f} minutes. Run folder: {folder.path}")
    for plot in plots:
        console.print(f"  plot: {plot}")
    return folder.path


def evaluations(folder: RunFolder) -> tuple[Path, Path]:
    """The first and the last evaluation of a run."""
    found = sorted(folder.evaluations.glob("step-*"))
    return found[0], found[-1]
