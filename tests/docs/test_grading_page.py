"""docs/grading.md: the check of grader and data does what it says; its list is explained, and true of the real data."""

from __future__ import annotations

import importlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cib_rl.grading.math import MathGrader

PAGE = Path(__file__).parents[2] / "docs" / "grading.md"


@pytest.fixture(scope="module")
def agreement() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PAGE.with_name("grading")))
        yield importlib.import_module("agreement")


@pytest.fixture(scope="module")
def cases(agreement: Any) -> Any:
    return importlib.import_module(agreement.Case.__module__)


ROWS = {
    "math/gsm8k_test": [
        {"id": "g0", "answer": "1200", "solution": "2 * 600 = <<2*600=1200>>1,200 apples"},
        {"id": "g1", "answer": "4", "solution": "He has 3 + 1 = 4 left after 2 days."},
        {"id": "g2", "answer": "50", "solution": "Each costs $0.50"},
        {"id": "g3", "answer": "5", "solution": "No number."},
    ],
    "math/math500": [
        {"id": "m0", "answer": r"\frac{1}{2}", "solution": r"so \boxed{1} is no answer, $\boxed{\frac{x}{2x}}$."},
        {"id": "m1", "answer": "1,3", "solution": r"$x=1$ or $x=3$, the larger is \boxed{3}"},
        {"id": "m2", "answer": "f(x)=2x", "solution": r"\boxed{f(x)=2x}"},
    ],
    "math/aime25": [{"id": "a0", "answer": "70"}],
    "math/olympiadbench": [
        {"id": "o0", "answer": "$23$", "solution": r"$$\begin{aligned}n&=20+3\\&=\mathbf{2 3}\end{aligned}$$ as $n>1$"},
        {"id": "o1", "answer": "$t(0,4]$", "solution": "The answer is 7 ."},
    ],
    "traces/gsm8k_model_solutions": [
        {"id": "t0", "answer": "72", "correct": True, "trace": "so 72\nA: $72.00"},
        {"id": "t1", "answer": "72", "correct": False, "trace": "72 and on and on"},
        {"id": "t2", "answer": "72", "correct": True, "trace": "A: 71"},
    ],
}


def test_cases_are_graded_and_disagreements_found(tmp_path, agreement, capsys):
    for name, rows in ROWS.items():
        file = tmp_path / f"{name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = agreement.Agreement(tmp_path, MathGrader(workers=1, timeout=120.0))
    run.run()
    run.grader.close()
    assert [(one.check, one.id, one.read, one.grade, one.reason) for one in run.found] == [
        ("solution", "g1", "2", "wrong", "earlier"),
        ("solution", "g2", "0.50", "wrong", "?"),
        ("solution", "m1", "3", "wrong", "parts"),
        ("solution", "o1", "7", "Unreadable", "?"),
        ("label", "t2", "71", "wrong", "?"),
        ("notation", "o1", "$t(0,4]$", "Unreadable", "?"),
    ]
    table = capsys.readouterr().out
    assert "| math/gsm8k_test | 4 | 4 | 3 | 1 | 1 | 2 | 0 |" in table
    assert "| traces/gsm8k_model_solutions | 3 | 1 | 1 | 1 | 0 |" in table
    assert "| math/aime25 | 1 of 1 | 1 of 1 | 1 of 1 | 1 of 1 | 1 of 1 | 1 of 1 | 1 of 1 | 1 of 1 |" in table
    assert "| math/math500 | 6 | 6 | 0 | 0 |" in table  # each answer against the two others


@pytest.mark.parametrize(
    "file, solution, answer",
    [
        ("math/gsm8k_test", "He pays $12 000 - $2 000 = $10 000.", "10 000"),
        ("math/gsm8k_test", "5 - 7 = -2", "-2"),
        ("math/math500", r"\boxed{1}, no, $\boxed{\frac{1}{2}}$", r"\frac{1}{2}"),
        ("math/math500", "the answer is $5$", None),
        ("math/aime24", "It is $44+1=45$ -someone2010", "44+1=45"),
        ("math/aime24", "It is $44$, so 45.", "45"),
        ("math/olympiadbench", r"so $x=\frac{\mathbf{1 4}}{\mathbf{5}}$, as $y>0$", r"x=\frac{14}{5}"),
        ("math/olympiadbench", r"$$\begin{aligned} a & =1 \\" + "\n" + r"b & =2 \end{aligned}$$", "b =2"),
        ("math/olympiadbench", r"$\mathbf{v}_{1}$ and then $7$", "7"),
    ],
)
def test_the_end_of_a_solution_is_read(cases, file, solution, answer):
    assert cases.read_solution(solution, cases.SOLUTIONS[file]) == answer


def test_notations_are_those_that_make_sense(cases):
    assert set(cases.notations("-7")) == set(cases.NOTATIONS)
    assert set(cases.notations(r"\text{east}")) == {"itself", "sizes", "choice"}
    assert set(cases.notations(r"(3,\frac{1}{2})")) == {"itself", "sizes", "choice", "equation"}
    assert cases.notations(r"(3,\frac{1}{2})")["sizes"] == r"\left( 3,\dfrac{1}{2} \right)"


def test_the_list_keeps_reasons_and_shows_what_changed(tmp_path, agreement):
    def one(id: str, read: str, reason: str = "?") -> Any:
        return agreement.Disagreement("solution", "math/x", id, "5", read, "wrong", reason)

    known = [one("a", 'a "quoted"\ttext', "slip"), one("b", "6", "slip")]
    agreement.write_list(known, tmp_path / "list.tsv")
    assert agreement.read_list(tmp_path / "list.tsv") == known
    found = [known[0]._replace(reason="earlier"), one("b", "7")]
    assert [line.reason for line in agreement.with_known_reasons(found, known)] == ["slip", "?"]
    assert [line.split(":")[0] for line in agreement.changes(found, known)] == ["new", "gone"]
    assert list(agreement.changes(known, known)) == []


def test_every_listed_disagreement_has_a_reason_that_the_page_explains_and_counts(agreement):
    counted = Counter((one.check, one.reason) for one in agreement.read_list())
    table = re.findall(r"^\| `(\w+)` \| (\w+) \| ([\d,]+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {(check, reason): int(count.replace(",", "")) for reason, check, count in table} == counted


@pytest.mark.data
@pytest.mark.slow
def test_the_real_data_disagree_with_the_grader_only_where_the_list_says_so(agreement, data_dir):
    run = agreement.Agreement(data_dir, MathGrader(workers=2, timeout=120.0))
    run.run()
    run.grader.close()
    known = agreement.read_list()
    assert list(agreement.changes(run.found, known)) == []
    mechanical = {one for one in known if one.reason in (agreement.EARLIER, agreement.PARTS)}
    assert mechanical <= set(run.found), "reasons that the check itself must find"
