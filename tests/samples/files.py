"""Small files of completions, made in the tests: word problems of one kind, answered well and badly."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

NAMES = ("Ann", "Ben", "Carla", "Dan", "Eva", "Finn", "Gita", "Hugo", "Ida", "Jon", "Kim", "Lea")


def prompt_of(i: int) -> str:
    """The i-th word problem; its answer is `gold_of(i)`."""
    name = NAMES[i % len(NAMES)]
    return (
        f"{name} has {7 + i} apples, buys {30 + 2 * i} more and gives {3 + i} away. How many apples does {name} have?"
    )


def gold_of(i: int) -> int:
    return (7 + i) + (30 + 2 * i) - (3 + i)


def solution(i: int, *, steps: int = 1, answer: int | None = None) -> str:
    """A worked solution that says the first step `steps` times; `answer` in place of the right one."""
    first = f"First {7 + i} + {30 + 2 * i} = {37 + 3 * i} apples are there after the purchase. "
    said = gold_of(i) if answer is None else answer
    return first * steps + f"Then {37 + 3 * i} - {3 + i} = {said} apples are left in the end.\n#### {said}"


def word_rows(problems: int = 12) -> list[dict[str, Any]]:
    """Rows of (prompt, completion, answer), four per problem: right and short, right and long, wrong ones."""
    rows = []
    for i in range(problems):
        texts = [solution(i), solution(i, steps=3), solution(i, answer=1), solution(i, steps=2, answer=gold_of(i) + 1)]
        rows += [{"prompt": prompt_of(i), "completion": text, "answer": str(gold_of(i))} for text in texts]
    return rows


def write_lines(path: Path, rows: list[Any]) -> Path:
    """JSON Lines, gzipped by the name."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path
