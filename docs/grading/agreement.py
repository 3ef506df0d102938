"""Grade what is known: the tables of docs/grading.md, and every case in which grader and data disagree.

    python docs/grading/agreement.py DATA            # tables, and what differs from docs/grading/disagreements.tsv
    python docs/grading/agreement.py DATA --update   # also rewrites that list; reasons of known cases stay

DATA is a folder of JSON Lines (id, problem, answer, solution or trace) with the files of cases.py. Four checks:

* solution: the answer read out of a row's own solution text is right against the row's answer;
* label: model-written solutions are right exactly when their label says so;
* notation: a gold answer in other notations is right, also without the fast path;
* other: the answers of other rows, where their text is another, are wrong.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cases import (
    ANY_NUMBER,
    GOLDS,
    LABELLED,
    NOTATIONS,
    PIECE,
    SOLUTIONS,
    Case,
    label_cases,
    load,
    notations,
    other_cases,
    solution_cases,
)

from cib_rl.grading.latex import normalise
from cib_rl.grading.math import MathGrader
from cib_rl.grading.pool import Grade

LIST = Path(__file__).with_name("disagreements.tsv")
UNEXPLAINED = "?"
EARLIER = "earlier"  # the answer is another formula or number of the solution than the one that was read
PARTS = "parts"  # the answer is several formulas or numbers of the solution, of which one was read

LAST_PIECES, MOST_PARTS = 14, 10  # where the parts of an answer are looked for, and how many


class Disagreement(NamedTuple):
    """A line of the list. `grade` is right, wrong or the kind of an error."""

    check: str
    file: str
    id: str
    gold: str
    read: str
    grade: str
    reason: str = UNEXPLAINED


# ---------------------------------------------------------------- grading


class Agreement:
    """Grades cases, prints a table per check, collects the disagreements in `found`."""

    def __init__(self, data: Path, grader: MathGrader) -> None:
        self.data, self.grader = data, grader
        self.found: list[Disagreement] = []
        self.golds: dict[str, list[str]] = {}  # per file, those that can be graded

    def grade(self, cases: list[Case], *, fast: bool = True) -> list[Grade]:
        """Also adds to `found` what is not as expected."""
        golds, predictions = [case.gold for case in cases], [case.read for case in cases]
        grades = self.grader.grade(golds=golds, predictions=predictions, fast=fast)
        for case, grade in zip(cases, grades, strict=True):
            if grade.outcome != case.expected:
                line = Disagreement(*case[:5], grade.kind or grade.outcome)
                if line not in self.found:
                    self.found.append(line)
        return grades

    def run(self) -> None:
        heading("file", "rows", "with solution", "answer read", "equal text", "right", "wrong", "error")
        for file in SOLUTIONS:
            self.solutions(file)
        heading("file", "solutions", "right, labelled right", "wrong, labelled wrong", "disagree", "error")
        for file in LABELLED:
            self.labels(file)
        heading("file: right of", *NOTATIONS)
        for file in GOLDS:
            self.notations(file)
        heading("file", "pairs of different texts", "wrong", "right", "error")
        for file in GOLDS:
            self.others(file)

    def solutions(self, file: str) -> None:
        rows = load(self.data, file)
        cases = solution_cases(file, rows)
        before = len(self.found)
        grades = self.grade(cases)
        solutions = {row["id"]: row.get("solution") or "" for row in rows}
        self.found[before:] = [self.look_earlier(one, solutions[one.id]) for one in self.found[before:]]
        equal = sum(normalise(case.gold) == normalise(case.read) for case in cases)
        table_row(file, len(rows), sum(map(bool, solutions.values())), len(cases), equal, *outcomes(grades))

    def look_earlier(self, one: Disagreement, solution: str) -> Disagreement:
        """With a reason where another formula or number of the solution is right, or several in a row together."""
        pieces = [match[1] or match[2] for match in PIECE.finditer(solution)]
        if self.any_right(one.gold, [*pieces, *re.findall(ANY_NUMBER, solution)]):
            return one._replace(reason=EARLIER)
        ends = [text.strip(". ") for text in pieces[-LAST_PIECES:]] if "," in one.gold else []
        joined = [",".join(ends[i:j]) for j in range(2, len(ends) + 1) for i in range(max(0, j - MOST_PARTS), j - 1)]
        return one._replace(reason=PARTS) if self.any_right(one.gold, joined) else one

    def any_right(self, gold: str, texts: list[str]) -> bool:
        different = list(dict.fromkeys(texts))
        grades = self.grader.grade(golds=[gold] * len(different), predictions=different)
        return any(grade.outcome == "right" for grade in grades)

    def labels(self, file: str) -> None:
        cases = label_cases(file, load(self.data, file))
        pairs = Counter((case.expected, g.outcome) for case, g in zip(cases, self.grade(cases), strict=True))
        errors = pairs["right", "error"] + pairs["wrong", "error"]
        disagree = pairs["right", "wrong"] + pairs["wrong", "right"]
        table_row(file, len(cases), pairs["right", "right"], pairs["wrong", "wrong"], disagree, errors)

    def notations(self, file: str) -> None:
        """Answers that are not right as they are, through math-verify, are not looked at further."""
        rows = [(row["id"], str(row["answer"])) for row in load(self.data, file)]
        itself = [Case("notation", file, id, gold, gold) for id, gold in rows]
        grades = self.grade(itself, fast=False)
        rows = [row for row, grade in zip(rows, grades, strict=True) if grade.outcome == "right"]
        self.golds[file] = [gold for _, gold in rows]
        cells = [f"{len(rows):,} of {len(itself):,}"]
        for name in NOTATIONS[1:]:
            written = [(id, gold, notations(gold).get(name)) for id, gold in rows]
            cases = [Case("notation", file, id, gold, text) for id, gold, text in written if text is not None]
            both = zip(self.grade(cases, fast=False), self.grade(cases), strict=True)
            right = sum(slow.outcome == quick.outcome == "right" for slow, quick in both)
            cells.append(f"{right:,} of {len(cases):,}" if cases else "–")
        table_row(file, *cells)

    def others(self, file: str) -> None:
        cases = other_cases(file, self.golds[file])
        right, wrong, error = outcomes(self.grade(cases))
        table_row(file, len(cases), wrong, right, error)


def outcomes(grades: list[Grade]) -> tuple[int, int, int]:
    count = Counter(grade.outcome for grade in grades)
    return count["right"], count["wrong"], count["error"]


def heading(*names: str) -> None:
    print("\n| " + " | ".join(names) + " |\n|" + "---|" * len(names))


def table_row(*cells: str | int) -> None:
    print("| " + " | ".join(f"{c:,}" if isinstance(c, int) else c for c in cells) + " |", flush=True)


# ---------------------------------------------------------------- the list


def read_list(file: Path = LIST) -> list[Disagreement]:
    with file.open(encoding="utf-8", newline="") as lines:
        return [Disagreement(**line) for line in csv.DictReader(lines, delimiter="\t")]


def write_list(found: list[Disagreement], file: Path = LIST) -> None:
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines, delimiter="\t", lineterminator="\n")
        writer.writerows([Disagreement._fields, *found])


def with_known_reasons(found: list[Disagreement], known: list[Disagreement]) -> list[Disagreement]:
    reasons = {one[:6]: one.reason for one in known}
    return [one._replace(reason=reasons.get(one[:6], one.reason)) for one in found]


def changes(found: list[Disagreement], known: list[Disagreement]) -> Iterator[str]:
    """What is new or gone, a line each."""
    before, now = {one[:6] for one in known}, {one[:6] for one in found}
    yield from (f"new: {' | '.join(one)}" for one in sorted(now - before))
    yield from (f"gone: {' | '.join(one)}" for one in sorted(before - now))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds per answer")
    parser.add_argument("--update", action="store_true", help=f"rewrite {LIST.name}")
    arguments = parser.parse_args()
    agreement = Agreement(arguments.data, MathGrader(workers=arguments.workers, timeout=arguments.timeout))
    agreement.run()
    known = read_list() if LIST.is_file() else []
    print("", *(changes(agreement.found, known)), f"{len(agreement.found)} disagreements", sep="\n")
    if arguments.update:
        write_list(with_known_reasons(agreement.found, known))


if __name__ == "__main__":
    main()
