"""The table and the plot at the end of a sweep."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from cib_rl.sweep import Point

# Column -> key in the metrics, of an evaluation with `eval/` before it.
COLUMNS = {
    "accuracy": "accuracy",
    "tokens": "tokens/mean",
    "tokens (right)": "tokens/right",
    "truncated": "truncated_share",
}
_LAST_STEPS = 10  # training steps averaged where there is no evaluation


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def result_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The columns of the table for one run: all of its last evaluation, or without one of its last training steps.

    A column is absent when there is nothing to average, such as tokens of right answers where none is right.
    """
    evaluations = [line for line in lines if "eval/accuracy" in line][-1:]
    prefix = "eval/" if evaluations else ""
    found = {}
    for column, key in COLUMNS.items():
        values = [line.get(prefix + key) for line in evaluations or lines]
        numbers = [value for value in values if isinstance(value, int | float)]
        if numbers:
            found[column] = mean(numbers[-_LAST_STEPS:])
    return found


def write_report(output: Path, points: Sequence[Point]) -> None:
    """Print the table (mean ± standard deviation over seeds), write table.csv (one row per run) and plot.png."""
    results = {p.name: result_of(read_metrics(output / "runs" / str(p.run))) for p in points if p.state == "done"}
    with open(output / "table.csv", "w", newline="", encoding="utf-8") as file:
        keys = list(dict.fromkeys(key for point in points for key in point.overrides))
        writer = csv.writer(file)
        writer.writerow([*keys, "seed", "state", *COLUMNS, "run"])
        for p in points:
            values = [results.get(p.name, {}).get(column, "") for column in COLUMNS]
            writer.writerow([*(p.overrides.get(key, "") for key in keys), p.seed, p.state, *values, p.run or ""])

    groups: dict[str, list[dict[str, float]]] = {}
    for p in points:
        label = ", ".join(f"{key}={value}" for key, value in p.overrides.items()) or "recipe as it is"
        groups.setdefault(label, [])
        if p.name in results:
            groups[label].append(results[p.name])
    table = Table(title="Sweep: mean ± standard deviation over seeds")
    table.add_column("point", overflow="fold")  # points differ at the end of their names
    for column in ("runs", *COLUMNS):
        table.add_column(column)
    for label, runs in groups.items():
        table.add_row(label, str(len(runs)), *(_cell([r[c] for r in runs if c in r]) for c in COLUMNS))
    console = Console(emoji=False)
    console.print(table)
    if _plot(output / "plot.png", groups):
        console.print(f"table: {output / 'table.csv'}, plot: {output / 'plot.png'}", soft_wrap=True)


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {stdev(values):.3g}" if len(values) > 1 else ""
    return f"{mean(values):.4g}{spread}"


def _plot(path: Path, groups: Mapping[str, Sequence[Mapping[str, float]]]) -> bool:
    """False when there is nothing to draw."""
    from cib_rl.plots import plot_seeds

    drawn = {
        label: [(r["tokens"], r["accuracy"]) for r in runs if {"tokens", "accuracy"} <= r.keys()]
        for label, runs in groups.items()
    }
    drawn = {label: pairs for label, pairs in drawn.items() if pairs}
    if drawn:
        plot_seeds(drawn, path)
    return bool(drawn)
