"""Make the training files of docs/real_input.md from two public data sets.

    python docs/real_input/prepare.py --mawps mawps_multiarith.jsonl --gsm8k gsm8k_train.jsonl.gz \\
        --out runs/real_input/data

Reads JSON Lines with `problem` and `answer` (GSM8K: `solution` too); writes into the new folder `--out`

* `sft.jsonl`: {prompt, completion} for the warm start;
* `train.jsonl`, `heldout.jsonl`: {id, prompt, answer} tasks for training with rewards and for evaluation.

MAWPS gives answers only, so the completions are made here: the expression over the problem's numbers that gives the
answer is searched for, and written out with, at random, the numbers restated before it or a check after it (something
that can be left out without harm).  Where the expression is certain, further copies of the problem get other numbers.
GSM8K keeps its official solutions, without the <<...>> calculator marks.
"""

from __future__ import annotations

import argparse
import gzip
import json
import operator
import random
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import permutations
from pathlib import Path
from typing import Any

NUMBER = re.compile(r"(?<![\d.,])\d+(?:\.\d+)?(?![\d,]*\d)")
CALCULATOR = re.compile(r"<<[^<>]*>>")
OPERATIONS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
INVERSE = {"+": "-", "-": "+", "*": "/", "/": "*"}
Step = tuple[str, int, int]  # operation and the places of its two numbers; a step's result gets the next place
LIKE = 0.8  # share of common words from which two problems count as one


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl or .jsonl.gz file."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def show(value: Fraction) -> str | None:
    """As a plain number with at most two decimals, or None."""
    scaled = value * 100
    if value < 0 or scaled.denominator != 1 or value >= 10**6:
        return None
    text = f"{float(value):.2f}".rstrip("0").rstrip(".")
    return text


def solve(steps: tuple[Step, ...], numbers: list[Fraction]) -> list[Fraction] | None:
    """The result of each step, or None where one is negative, too large or has more than two decimals."""
    values = list(numbers)
    for sign, a, b in steps:
        if sign == "/" and values[b] == 0:
            return None
        values.append(OPERATIONS[sign](values[a], values[b]))
        if show(values[-1]) is None:
            return None
    return values[len(numbers) :]


def derivations(count: int) -> Iterator[tuple[Step, ...]]:
    """Every way to use all of `count` numbers, or two of three, in at most two steps; plain ones first."""
    for sign in OPERATIONS:
        for a, b in permutations(range(count), 2):
            if sign in "-/" or a < b:
                yield ((sign, a, b),)
    if count != 3:
        return
    for a, b in permutations(range(3), 2):
        c = 3 - a - b
        for first in OPERATIONS:
            if first in "+*" and a > b:
                continue
            for second in OPERATIONS:
                yield ((first, a, b), (second, 3, c))
                if second in "-/":
                    yield ((first, a, b), (second, c, 3))


def explain(numbers: list[Fraction], answer: Fraction, rng: random.Random) -> tuple[tuple[Step, ...] | None, bool]:
    """The steps that give `answer`, and whether they are certain: every other way to it is the same function."""
    found = [s for s in derivations(len(numbers)) if (r := solve(s, numbers)) and r[-1] == answer]
    whole = [s for s in found if len(s) == len(numbers) - 1]
    found = whole or found
    if not found:
        return None, False
    for _ in range(5):
        other = [Fraction(rng.randint(2, 97)) for _ in numbers]
        results = {_value(steps, other) for steps in found}
        if len(results) > 1:
            return found[0], False
    return found[0], bool(whole)


def _value(steps: tuple[Step, ...], numbers: list[Fraction]) -> Fraction:
    values = list(numbers)
    for sign, a, b in steps:
        values.append(OPERATIONS[sign](values[a], values[b]) if sign != "/" or values[b] else Fraction(-1))
    return values[-1]


def write_out(steps: tuple[Step, ...], numbers: list[Fraction], rng: random.Random) -> str:
    """A completion: the steps; at random the numbers before them and a check of the last one after them."""
    results = solve(steps, numbers) or []
    values = [show(value) for value in [*numbers, *results]]
    parts = []
    if rng.random() < 0.4:
        *first, last = values[: len(numbers)]
        parts.append(f"The numbers are {', '.join(str(value) for value in first)} and {last}.")
    for place, (sign, a, b) in enumerate(steps, len(numbers)):
        parts.append(f"{values[a]}{sign}{values[b]}={values[place]}.")
    if rng.random() < 0.4:
        sign, a, b = steps[-1]
        parts.append(f"Check: {values[-1]}{INVERSE[sign]}{values[b]}={values[a]}.")
    return " ".join([*parts, f"The answer is \\boxed{{{values[-1]}}}."])


def renumber(problem: str, steps: tuple[Step, ...], rng: random.Random) -> tuple[str, list[Fraction]] | None:
    """The problem with other numbers of the same size for which every step stays a whole number above 0."""
    spans = [match.span() for match in NUMBER.finditer(problem)]
    old = [int(problem[a:b]) for a, b in spans]
    for _ in range(200):
        new = [Fraction(rng.randint(max(2, n // 3), max(9, 2 * n))) for n in old]
        results = solve(steps, new)
        if results and all(r.denominator == 1 and r > 0 for r in results):
            text, end = "", 0
            for (a, b), value in zip(spans, new, strict=True):
                text, end = text + problem[end:a] + str(value), b
            return text + problem[end:], new
    return None


def clean(problem: str) -> str:
    """Without spaces before punctuation."""
    return re.sub(r"\s+([.,?!])(?=\s|$)", r"\1", problem).replace(" 's", "'s").strip()


def split(rows: list[dict[str, Any]], share: float, rng: random.Random) -> tuple[list[int], list[int]]:
    """Places of training and held-out rows. Problems that differ in little but their numbers stay on one side."""
    words = [frozenset(re.findall(r"[a-z]+", row["problem"].lower())) for row in rows]
    order = rng.sample(range(len(rows)), len(rows))
    held = set(order[: round(share * len(rows))])
    train = [
        i
        for i in range(len(rows))
        if i not in held and not any(len(words[i] & words[j]) >= LIKE * len(words[i] | words[j]) for j in held)
    ]
    return train, sorted(held)


def mawps_texts(row: dict[str, Any], copies: int, rng: random.Random) -> list[dict[str, str]]:
    """Warm-start texts of one MAWPS row: itself and, where its expression is certain, `copies` with other numbers."""
    problem = clean(row["problem"])
    texts = [match.group() for match in NUMBER.finditer(problem)]
    numbers = [Fraction(text) for text in texts]
    answer = Fraction(row["answer"])
    steps, certain = explain(numbers, answer, rng) if len(numbers) in (2, 3) else (None, False)
    if steps is None:
        return [{"prompt": problem, "completion": f"The answer is \\boxed{{{row['answer']}}}."}]
    found = [{"prompt": problem, "completion": write_out(steps, numbers, rng)}]
    if certain and all(text.isdigit() and int(text) > 1 for text in texts):
        for _ in range(copies):
            if (other := renumber(problem, steps, rng)) is not None:
                found.append({"prompt": other[0], "completion": write_out(steps, other[1], rng)})
    return found


def gsm8k_text(row: dict[str, Any]) -> dict[str, str]:
    """The official solution without calculator marks, with the answer in a box."""
    solution = CALCULATOR.sub("", row["solution"])
    return {"prompt": row["problem"], "completion": f"{solution}\nThe answer is \\boxed{{{row['answer']}}}."}


def main() -> None:
    parser = argparse.ArgumentParser(description="Files for docs/real_input.md.")
    parser.add_argument("--mawps", type=Path, required=True)
    parser.add_argument("--gsm8k", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--held-out", type=float, default=0.15, help="share of the MAWPS problems")
    parser.add_argument("--copies", type=int, default=14, help="of a MAWPS problem with other numbers")
    parser.add_argument("--gsm8k-tasks", type=int, default=200, help="GSM8K problems among the tasks, shortest first")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    mawps, gsm8k = read(options.mawps), read(options.gsm8k)
    train, held = split(mawps, options.held_out, rng)
    groups = [mawps_texts(mawps[i], options.copies, rng) for i in train]
    easy = sorted(gsm8k, key=lambda row: len(row["solution"]))[: options.gsm8k_tasks]
    files = {
        "sft": [text for group in groups for text in group] + [gsm8k_text(row) for row in gsm8k],
        "train": [_task(mawps[i]) for i in train] + [_task(row) for row in easy],
        "heldout": [_task(mawps[i]) for i in held],
    }
    options.out.mkdir(parents=True)
    for name, rows in files.items():
        (options.out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    plain = sum(len(group) == 1 and "=" not in group[0]["completion"] for group in groups)
    print(
        f"MAWPS: {len(train)} for training ({plain} of them without an expression), {len(held)} held out, "
        f"{len(mawps) - len(train) - len(held)} left out as too like held-out ones\n"
        + "\n".join(f"{name}.jsonl: {len(rows)} rows" for name, rows in files.items())
    )


def _task(row: dict[str, Any]) -> dict[str, Any]:
    return {"id": row["id"], "prompt": clean(row["problem"]), "answer": row["answer"]}


if __name__ == "__main__":
    main()
