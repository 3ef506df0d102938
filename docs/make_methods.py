"""Table and curves of the section "Methods side by side" of docs/rewards.md, from runs of the quickstart's recipe.

python docs/make_methods.py "plain GRPO=runs/plain" "Kimi k1.5=runs/kimi" … --out docs/img

Each run holds evaluations at its start and its end; the first run is what the others are compared with.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cib_rl.evals.report import compare
from cib_rl.evals.result import EvalResult
from cib_rl.evals.result_io import load_result
from cib_rl.evals.statistics import Estimate
from cib_rl.plots import plot_curves

COLUMNS = {"accuracy": 100, "tokens/mean": 1, "tokens/right": 1}


def last_evaluation(run: Path) -> EvalResult:
    return load_result(max((run / "evaluations").glob("step-*")))


def cell(estimate: Estimate, scale: float = 1, form: str = ".1f") -> str:
    value, low, high = (format((x or 0) * scale, form) for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    runs = {name: Path(folder) for name, _, folder in (argument.partition("=") for argument in arguments.runs)}
    results = {name: last_evaluation(run) for name, run in runs.items()}
    base, first = next(iter(results.items()))

    print(f"| method | right % | tokens, all | tokens, right | tokens against {base} |\n|---|---|---|---|---|")
    for name, result in results.items():
        change = next(row.change for row in compare(first, result).rows if row.name == "tokens (all)")
        against = "–" if name == base else cell(change.relative, 100, "+.1f") + " %"
        estimates = result.estimates()
        cells = [cell(estimates[key], scale) for key, scale in COLUMNS.items()]
        print(f"| {name} | " + " | ".join([*cells, against]) + " |")
    print()
    for metric, label, scale in (("tokens/mean", "tokens per answer", 1), ("accuracy", "right answers (%)", 100)):
        file = arguments.out / f"methods-{metric.partition('/')[0]}.png"
        print(plot_curves(runs, file, metric=metric, label=label, scale=scale))


if __name__ == "__main__":
    main()
