"""The table of the three rewards in docs/search_agent.md, from runs of `cib-rl quickstart search/tiny`.

python docs/make_search_arms.py "outcome=RUN,RUN" "outcome and count=RUN,RUN" "full=RUN,RUN"    # one RUN a seed

All runs are compared with the first one's evaluation before training. A value stands for each seed; changes are of
all seeds' answers together, with 95% intervals paired and clustered by question (which say nothing of other seeds).
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from cib_rl.evals.report import compare, format_estimate
from cib_rl.evals.result import EvalResult, Sample
from cib_rl.evals.result_io import load_result
from cib_rl.quickstart import evaluations
from cib_rl.run_folder import RunFolder


def together(results: list[EvalResult]) -> EvalResult:
    """One result, in which the seeds' answers are samples of the same questions."""
    samples = [
        replace(sample, sample=len(results) * sample.sample + number)
        for number, result in enumerate(results)
        for sample in result.samples
    ]
    order = {question: place for place, question in enumerate(results[0].questions)}
    samples.sort(key=lambda sample: (order[sample.question], sample.sample))
    return replace(results[0], samples=samples, samples_per_question=len(results), trajectories=None)


def of(result: EvalResult, kind: str) -> list[Sample]:
    return [sample for sample in result.graded if sample.kind == kind]


def shares(results: list[EvalResult], kind: str, value) -> str:
    return ", ".join(f"{100 * np.mean([value(s) for s in of(r, kind)]):.1f}" for r in results)


def main() -> None:
    runs = {name: folders.split(",") for name, _, folders in (argument.partition("=") for argument in sys.argv[1:])}
    ends = {name: [evaluations(RunFolder(Path(folder))) for folder in folders] for name, folders in runs.items()}
    before = load_result(next(iter(ends.values()))[0][0])
    after = {name: [load_result(last) for _, last in pairs] for name, pairs in ends.items()}
    rows: dict[str, list[str]] = {}

    def put(row: str, *cells: str) -> None:
        rows.setdefault(row, []).extend(cells)

    for kind in before.kinds:
        for column, results in {"warm start": [before], **after}.items():
            name = f"**{kind}** ({len(of(before, kind))})"
            put(
                f"{name}: calls of the model",
                ", ".join(f"{np.mean([s.turns for s in of(r, kind)]):.2f}" for r in results),
            )
            put(f"{kind}: exact match, %", shares(results, kind, lambda s: s.outcome == "right"))
            put(f"{kind}: decomposed, %", shares(results, kind, lambda s: s.numbers["parallel_search_decomposed"]))
            put(f"{kind}: holds `##`, %", shares(results, kind, lambda s: s.numbers["decomposed"] > 0))
            if column == "warm start":
                put(f"{kind}: calls, change", "")
                put(f"{kind}: exact match, change", "")
                continue
            changes = {row.name: row.change for row in compare(before, together(results)).rows}
            calls, right = changes[f"{kind}: turns"], changes[f"{kind}: accuracy"]
            put(f"{kind}: calls, change", format_estimate(calls.relative, scale=100, sign=True, unit="%"))
            put(f"{kind}: exact match, change", format_estimate(right.difference, scale=100, sign=True))
    print("| | warm start | " + " | ".join(runs) + " |\n|---|" + "---:|" * (len(runs) + 1))
    for row, cells in rows.items():
        print(f"| {row} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
