"""Answers graded per second, from completion to grade, on real problems.

GSM8K-style: model-written solutions of GSM8K's test set, what stands behind the last "A:" against the gold answer.
MATH-500-style: for each problem eight completions, made from its own solution by changing what stands in the last box:
three right ones (as it is; in other notation; as an equal number or a product) and five wrong ones (other problems'
answers). Each round starts with empty caches and warm workers. Golds repeat within a problem's completions, as in
training; pairs of gold and prediction hardly do.

    python -m bench.grading DATA --workers 2

DATA holds traces/gsm8k_model_solutions.jsonl.gz and math/math500.jsonl (fields problem, answer, trace or solution).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

from cib_rl.grading import math
from cib_rl.grading.answers import extract_answer
from cib_rl.grading.math import MathGrader, normalise, quick_grade
from cib_rl.grading.numbers import exact

WRONG_PER_PROBLEM = 5


class Task(NamedTuple):
    """One kind of answers: (completion, gold answer) and how the answer is found in a completion."""

    name: str
    goal: float  # answers per second on two cores
    style: str
    pairs: list[tuple[str, str]]


def read(file: Path) -> list[dict[str, Any]]:
    with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def gsm8k(data: Path) -> Task:
    rows = read(data / "traces" / "gsm8k_model_solutions.jsonl.gz")
    return Task("GSM8K", 2000, r"regex:(?m)^A: *(.*)$", [(row["trace"], str(row["answer"])) for row in rows])


def math500(data: Path) -> Task:
    """Wrong answers are drawn with a fixed seed, each other text at most once per problem."""
    rows, draw = read(data / "math" / "math500.jsonl"), random.Random(0)
    answers = sorted({str(row["answer"]) for row in rows})
    pairs = []
    for row in rows:
        gold = str(row["answer"])
        others = [a for a in draw.sample(answers, WRONG_PER_PROBLEM + 1) if normalise(a) != normalise(gold)]
        for answer in [gold, restyled(gold), rewritten(gold), *others[:WRONG_PER_PROBLEM]]:
            before, _, _ = row["solution"].rpartition("\\boxed")
            pairs.append((f"{before}\\boxed{{{answer}}}.$", gold))
    return Task("MATH-500", 300, "boxed", pairs)


def restyled(answer: str) -> str:
    """The same in other notation."""
    fractions = answer.replace("frac", "dfrac").replace("ddfrac", "dfrac")
    return "$" + fractions.replace("(", "\\left( ").replace(")", " \\right)") + "$"


def rewritten(answer: str) -> str:
    """An equal answer in another form: a decimal for an integer, else a product that must be taken apart."""
    if (value := exact(normalise(answer))) is not None:
        return (
            f"{answer}.0" if value.denominator == 1 else f"\\frac{{{2 * value.numerator}}}{{{2 * value.denominator}}}"
        )
    return f"1\\cdot {answer}"


def answers(task: Task) -> tuple[list[str], list[str | None]]:
    """Golds and predictions."""
    return [gold for _, gold in task.pairs], [extract_answer(text, task.style) for text, _ in task.pairs]


def one_round(task: Task, workers: int) -> tuple[float, list[str]]:
    """Seconds for all answers, workers started and warm before, and the outcomes."""
    math._read_gold.cache_clear()
    grader = MathGrader(workers=workers, timeout=60.0)
    try:
        grader.pool.grade([{"gold": "x+1", "prediction": f"{n}+x"} for n in range(2, 2 + 2 * workers)])
        started = time.perf_counter()
        golds, predictions = answers(task)
        grades = grader.grade(golds=golds, predictions=predictions)
        return time.perf_counter() - started, [grade.outcome for grade in grades]
    finally:
        grader.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"{arguments.workers} worker(s) on {cores} core(s), {arguments.rounds} rounds, answers per second\n")
    print("| answers | goal (2 cores) | min | median | max | count | right % | by workers % |\n|" + "---|" * 8)
    for task in (gsm8k(arguments.data), math500(arguments.data)):
        golds, predictions = answers(task)
        pairs = zip(golds, predictions, strict=True)
        quick = sum(p is None or quick_grade(gold=g, prediction=p) is not None for g, p in pairs)
        rounds = [one_round(task, arguments.workers) for _ in range(arguments.rounds)]
        rates = [len(golds) / seconds for seconds, _ in rounds]
        right = rounds[0][1].count("right") / len(golds)
        cells = [f"{f(rates):,.0f}" for f in (min, statistics.median, max)]
        print(
            f"| {task.name} | ≥ {task.goal:,.0f} | {' | '.join(cells)} | {len(golds):,} | {100 * right:.1f} | "
            f"{100 * (1 - quick / len(golds)):.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
