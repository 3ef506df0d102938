"""What `cib-rl eval` does around `cib_rl.evals.runner.evaluate`: a folder for the result, tables, a comparison."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from cib_rl.evals.report import compare as compare_results
from cib_rl.evals.report import print_summary, save_comparison
from cib_rl.evals.result_io import load_result
from cib_rl.evals.runner import evaluate
from cib_rl.progress import RunProgress


def run_evaluation(model: str, benchmark: str, *, output: Path | None, compare: Path | None, **options: Any) -> Path:
    """Evaluate, save, print; returns the result's folder.

    Args:
        output: new folder; default: `runs/eval-BENCHMARK-TIME`.
        compare: an earlier result of the same questions; its comparison is saved beside the new result.
        options: those of `evaluate`.
    """
    before = load_result(compare) if compare is not None else None  # a wrong path shows before an hour of sampling
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = output if output is not None else Path("runs") / f"eval-{benchmark.replace(':', '_')}-{stamp}"
    result = evaluate(model, benchmark, output=folder, progress=RunProgress(), **options)
    print_summary(result)
    if before is not None:
        comparison = compare_results(before, result)
        comparison.print()
        save_comparison(comparison, folder)
    print(f"saved in {folder}")
    return folder
