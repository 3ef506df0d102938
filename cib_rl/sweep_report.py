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

# Column -> keys in the metrics, the first one found: the last held-out evaluation, else the last training steps.
COLUMNS = {
    "accuracy": ("eval/accuracy", "accuracy"),
    "tokens": ("eval/tokens/mean", "tokens/mean"),
    "tokens (right)": ("eval/tokens/right", "tokens/right"),
    "truncated": ("eval/truncated_share", "truncated_share"),
}
_LAST_STEPS = 10  # training steps averaged where there is no evaluation


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def result_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The columns of the table for one run; a column is absent when the run did not log it."""
    found = {}
    for column, keys in COLUMNS.items():
        for key in keys:
            values = [line[key] for line in lines if isinstance(line.get(key), int | float)]
            if values:
                found[column] = values[-1] if key.startswith("eval/") else mean(values[-_LAST_STEPS:])
                break
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
    table = Table("point", "runs", *COLUMNS, title="Sweep: mean ± standard deviation over seeds")
    for label, runs in groups.items():
        table.add_row(label, str(len(runs)), *(_cell([r[c] for r in runs if c in r]) for c in COLUMNS))
    console = Console()
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
