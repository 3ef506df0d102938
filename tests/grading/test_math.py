"""What counts as the same answer. (Hostile answers: `test_hostile.py`.)"""

from __future__ import annotations

import gzip
import inspect
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cib_rl.grading.math import MathGrader, normalise, quick_grade
from cib_rl.grading.pool import RIGHT, WRONG
from cib_rl.grading.qa import cover_match, exact_match, f1


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    made = MathGrader(workers=2, timeout=30.0)  # no friendly answer may fail because the machine is busy
    yield made
    made.close()


@pytest.mark.parametrize("grade", [quick_grade, MathGrader.grade, exact_match, f1, cover_match])
def test_gold_and_prediction_cannot_be_mixed_up(grade):
    kinds = {p.kind for name, p in inspect.signature(grade).parameters.items() if name != "self"}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}


# In a process of its own: a worker's module changes the parser of math-verify.
PARSES = """
import inspect
from cib_rl.grading.math import _read_gold, quick_grade
from cib_rl.grading.math_full import _parse_gold, full_grade
for grade, cache in ((quick_grade, _read_gold), (full_grade, _parse_gold)):
    assert {p.kind for p in inspect.signature(grade).parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    grade(gold="x^3 + 41", prediction="1")
    before = cache.cache_info()
    grade(gold="x^3 + 41", prediction="2")
    assert (cache.cache_info().misses, cache.cache_info().hits) == (before.misses, before.hits + 1)
"""


def test_a_gold_is_read_and_parsed_once():
    done = subprocess.run([sys.executable, "-c", PARSES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


RIGHT_PAIRS = [
    ("72", "72"), ("72", "$72$"), ("72", r"\$72"), ("72", "072"), ("72", "72."), ("72", "+72"), ("72", "72.0"),
    ("0", "-0"), ("1000", "1,000"), ("1000", "1{,}000"),
    ("5525", r"5,\!525"), ("1234567", r"1,\! 234,\! 567"), (r"\frac{1}{2}", "1/2"),
    (r"\frac{1}{2}", r"\dfrac12"), (r"\frac{1}{2}", "0.5"), ("1 1/2", r"\frac{3}{2}"), (r"1\frac{1}{2}", "1.5"),
    ("x+1", "1+x"), ("5", "x=5"), ("7", "f(3)=7"), ("33", "m+n=33"), ("72", r"6\cdot 12=72"), ("y=2x+3", "2x+3"),
    (r"\text{Evelyn}", "Evelyn"), (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
    (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", r"\begin{pmatrix} 0.2 \\ -3.6 \end{pmatrix}"),
    (r"\{1,2\}", "2,1"), ("72_8", "72_{8}"), ("72_8", "72"), ("a=1,b=2", "b=2,a=1"), (r"30^\circ", r"\theta=30^\circ"),
    ("72", r"72\text{ dollars}"), ("10^{20}", "100000000000000000000"), ("x^2+y^2=1", "x^2+y^2-1=0"),
    # forms that were once wrong or an error
    ("57", r"\textbf{(057)}"), ("57", r"\textbf{(057) }"), ("208", r"\textbf{(B) }208"), ("208", r"\textbf{(B)}~208"),
    ("-7", r"\textbf{(A) }{-}7"), (r"\frac{7}{3}", r"\text{(E)} \: \dfrac 73"), ("9", "(C) 9"),
    ("9", r"(\textbf{C}) 9"), (r"\frac{\pi}{6}+1", r"\frac \pi6 + 1"), (r"\frac{5}{7}", r"\dfrac 5 7"),
    (r"\frac 5 7", "15/21"), ("n^{2}+3", r"k_{\max }=n^{2}+3"), (r"k_{\min}=5n", "5n"),
    (r"\cos^2 t", r"1-\sin^{2}t"), (r"\approx 3.75 \text{ m}", "15/4"), (r"\text{(B)},", "B"), ("48^\\circ", "48°"),
    ("7.5", "7.5^{\\circ}"), (r"0.\overline{6}", "2/3"), ("12000", "1.2e4"), ("12345", r"12\,345"), ("15", "**15**"),
    ("-4", "−4"), ("6\\pi", "6π"), ("5", "£5"), ("[0,1)", r"0\le x<1"),
    ("9", r"9\ \textbf{(D)}"), ("20", r"\left(\begin{array}{c}6\\3\end{array}\right)=20"),
    ("60", r"60\text{ km}/\mathrm{h}"), ("58500", "x=58,500"), ("58500", r"p(2)=58{,}500"),
    ("1200\\%", r"1,200\%"), (r"\frac{97}{36}", r"=\frac{97}{36}"),
    (r"\frac{1}{2}", r"\sin 30^\circ"), (r"\sin 20^{\circ}", r"\cos\left(70^\circ\right)"), ("118000", "118 000"),
    ("55", r"1+2+\ldots+10=55"), ("(-2,2)", "-2<x<2"), ("x=5", "x=2+3=5"), ("y=2x+3", "2x-y+3=0"),
    ("x+6", "x+2(3)"), ("x+6", "(2)(3)+x"), (r"x+\frac{5}{2}", r"2\frac{1}{2}+x"), (r"2\pi x", r"\pi 2x"),
    ("2A", "A2"), (r"\begin{pmatrix}2\\4\end{pmatrix}", r"2\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"\frac{\pi}{10}", r"0.1\pi"), ("0", r"\sqrt{6}-\sqrt{2}\sqrt{3}"), ("0", r"\sin^2{3}+\cos^2{3}-1"),
    ("Even", "even"), ("red door", r"\text{Red door}"), ("B", "b"), ("4t", "4t"), ("4t", r"4t\text{ m}"),
    ("72", "72 cm"), ("72", "72m"), ("72", r"72\text{ cm}^2"), ("72", "72 dollars"), (r"72\text{ m}", "72"),
    (r"3.5\text{ million}", r"\frac{7}{2}\text{ million}"), (r"72\%", r"72\text{ percent}"), ("72", "72 square feet"),
    ("72", r"\boxed{72}"), ("72", r"The answer is \boxed{72}."), ("72", r"x=\boxed{72}"), (r"\boxed{72}", "72"),
    ("72", r"\[ \boxed{72} \]"), ("52_8", r"52_{\text{eight}}"), ("52_8", "(52)_8"), ("(1,2)", "1,2"),
    ("x=5,y=6", "y=6,x=5"), ("x=5,y=6", "5,6"), ("x=5,y=6", "(5,6)"), ("5,6", "y=5,x=6"), ("x=5", "5=x"),
    (r"\frac{22}{7}", r"\frac{22}{7}\approx 3.14"), ("2^{-60}", r"\frac{1}{2^{60}}"), ("f'", "f'"),
    (r"\emptyset", r"\{\}"), (r"x\ne5", r"x-5\ne0"), (r"\sqrt{6}", r"\sqrt{2}\sqrt{3}"), ("x^2-x=0", "x^2=x"),
    (r"(-\infty,-5)", "k<-5"), ("1<x<2", "(1,2)"), ("5,-2", r"x=5 \text{ or } x=-2"), ("8.24", r"\approx 8.24"),
]  # fmt: skip

WRONG_PAIRS = [
    ("72", "73"), ("72", "-72"), ("72", "7 2"), ("9", "4 5"), ("12", "1 2"), ("11/2", "1 1/2"), ("1", "1 1/2"),
    ("5", "1,2,5"), ("5", "5 or 6"), ("5", r"\{5,6\}"), ("72", "5=72"), ("72", "x=5=72"), ("5", r"\log_2(31)=5"),
    ("72", "the answer is 72"), ("72", "72 is not right, 73"), ("72", r"72\\73"), ("72_8", "72_9"), ("72", "x<72"),
    ("72", r"\pm 72"),
    ("x+1", "y+1"), ("(1,2)", "[1,2]"), (r"\text{Evelyn}", "nylevE"), (r"\text{even}", r"\text{odd}"),
    ("0", "0/0"), ("2^{100}", "2^{100}+1"), ("100000000000000000000", "100000000000000000001"),
    (r"\frac{1}{3}", "0.33"), ("72", ""), ("72", " "),
    # once right
    ("11", r"5 \quad 6"), ("11", r"5\qquad6"), ("0.0000003", "0.0000004"), ("0.0000003", "0.00000031"),
    ("green", "neerg"), ("no", "on"), ("not", "ton"), (r"\text{green}", "neerg"), ("green", r"\text{neerg}"),
    ("1<x<2", r"\{1,2\}"), (r"\{1,2\}", "1<x<2"), ("1,2", "1<x<2"), ("5", "x<5"), (r"(-\infty,-5)", r"k\le -5"),
    ("2t", "2"), ("4t", "4s"), ("x^2+3t", "x^2+3"), ("2ab", "2"), ("72", "72t"), ("72", r"72\text{ million}"),
    ("72", r"72\text{ cm}+5\text{ mm}"), ("2", r"2\text{ hours }30\text{ minutes}"), ("72", r"72\text{ is wrong}"),
    ("72", r"72\text{5}"), (r"72\text{ cm}", r"72\text{ m}"), (r"8:30\text{ a.m.}", r"8:30\text{ p.m.}"),
    ("x+5", "x+2(3)"), ("5", "2{3}"), ("72", "70{2}"), ("140", "70{2}"), ("x+5", r"x+2\binom{3}{1}"),
    ("9", r"7\ldots2"), ("72", "7'2"), ("72", "7$2"), ("72", r"7\text{ }2"), (r"\frac{R}{r}", "1"),
    (r"\pi(R^2-r^2)", "0"), ("Rr", "rr"), ("72", r"73\boxed{72}"), ("72", r"\boxed{72}+100"), ("72", r"5=\boxed{72}"),
    ("72", r"\boxed{71}\boxed{72}"),
    ("72", "72_x"), ("52_8", r"52_{\text{nine}}"), ("y'", "y"), ("(3,2)", r"\{3,2\}"), (r"\{2,3\}", "(2,3)"),
    ("(3,2)", "3,2,2"), ("72", "72^T"), ("2^T", "2"), ("20", "(5)_{2}"), ("72", r"5\equiv72"), ("72", r"72\approx 5"),
    ("72", "5=72,5=72"), ("72", r"\{5=72\}"), ("x=5", "x=7=5"), ("x", "5=x"), ("x^2+1=0", "5=6"),
    ("x^2+1=0", "x^2+2=0"), ("|x|=-1", "|x|=-2"), (r"\emptyset", "2<1"), (r"(-\infty,\infty)", "1<2"),
    ("x=5,y=6", "6,5"), (r"x\ne5", r"x\ne6"), ("2^{-60}", "2^{-61}"), (r"\frac{1}{2^{2008}}", r"\frac{1}{2^{2009}}"),
    (r"\{\frac{1}{3^{40}}\}", r"x=\frac{1}{3^{41}}"), ("red door", "door red"),
    # labels and shorthand give nothing away
    ("208", r"\textbf{(B)}"), ("B", r"\textbf{(C) }208"), (r"\textbf{(B) }208", r"\textbf{(C) }208"),
    ("7", r"\dfrac 5 7"), ("6", r"(5) 6"), ("56", r"\textbf{5} 6"), ("12", "1.2e4"),
    (r"\frac{1}{3}", r"0.\overline{4}"), ("2", r"72\rightarrow 2"), (r"\cos^2 t", r"\sin^2 t"),
    ("8", r"9\ \textbf{(D)}"), ("B", r"9\ \textbf{(B)}"), ("20", r"\left(\begin{array}{c}6\\3\end{array}\right)"),
    # the task, not its result
    ("(-2,2)", "x^2<4"), (r"[\frac{1}{2},8]", r"-1\le\log_2 x\le 3"), (r"(-\infty,5)", "2x<10"), ("x=5", "x+3=8"),
    ("1", "x=1,000"), ("0", "x=1,000"), ("118", "118 000"), ("7272", "72 72"),
    (r"\sin 20^\circ", r"\sin 20"), (r"\frac{1}{2}", r"\sin 30"), ("11", r"1+2+\ldots+8"), ("48", r"2\cdot 3\cdots 8"),
    ("5n", r"k_{\min}=6n"), ("(-1,3)", r"(-1,3)\cup(4,5)"), ("5", r"[5,6]"), ("x=5", "y=5"),
]  # fmt: skip


@pytest.mark.parametrize("gold, prediction", RIGHT_PAIRS)
def test_equal_answers_are_right(grader, gold, prediction):
    assert grader.grade(golds=[gold], predictions=[prediction]) == [RIGHT]


@pytest.mark.parametrize("gold, prediction", WRONG_PAIRS)
def test_other_answers_are_wrong(grader, gold, prediction):
    assert grader.grade(golds=[gold], predictions=[prediction]) == [WRONG]


def test_the_fast_path_agrees_with_the_full_one(grader):
    pairs = [
        pair
        for pair in RIGHT_PAIRS + WRONG_PAIRS
        if quick_grade(gold=pair[0], prediction=pair[1]) is not None and pair[1].strip()
    ]
    golds, predictions = [gold for gold, _ in pairs], [prediction for _, prediction in pairs]
    assert len(pairs) > 10
    fast = grader.grade(golds=golds, predictions=predictions)
    assert fast == grader.grade(golds=golds, predictions=predictions, fast=False)


def test_numbers_and_equal_texts_start_no_worker():
    grader = MathGrader()
    pairs = [("72", "72", RIGHT), ("72", "73", WRONG), (r"\frac{1}{2}", r"$\frac{1}{2}$", RIGHT), ("72", None, WRONG)]
    pairs += [("1,000", "1000", RIGHT), ("1/2", "0.5", RIGHT), (r"\sqrt{2}", r"\sqrt{3}", WRONG), ("2.5", "9/4", WRONG)]
    golds, predictions, grades = zip(*pairs, strict=True)
    assert grader.grade(golds=golds, predictions=predictions) == list(grades)
    assert grader.pool.processes == []


def test_equal_pairs_are_graded_once(grader, monkeypatch):
    seen: list[int] = []
    original = grader.pool.grade
    monkeypatch.setattr(grader.pool, "grade", lambda items: (seen.append(len(items)), original(items))[1])
    for _ in range(2):  # the second time the verdicts are known
        assert grader.grade(golds=["1+a"] * 6, predictions=["a+1", "a+2"] * 3) == [RIGHT, WRONG] * 3
    assert seen == [2]


def test_errors_are_counted_by_cause_and_tried_again(grader):
    before = grader.errors.copy()
    for _ in range(2):
        grades = grader.grade(golds=["}{", "}{", "1+b", "05:00"], predictions=["5", "5", "b+1", "3:00"])
        assert [g.kind for g in grades] == ["Unreadable", "Unreadable", "", "ValueError"]
    assert grader.errors - before == {"Unreadable": 4, "ValueError": 2}


def test_a_gold_answer_that_cannot_be_read_is_an_error_not_a_zero(grader):
    gold = "f(x)=ax+b, where $b$ is arbitrary and $a$ is positive with {"
    grades = grader.grade(golds=[gold] * 2, predictions=["5", gold])
    assert grades[0].outcome == "error" and "cannot be read" in grades[0].cause
    assert grades[1] == RIGHT


def test_space_between_digits_is_kept():
    assert normalise(" 1  1/2 ") == "1 1/2" and normalise("( 1 , 2 )") == "(1,2)" and normalise(r"7\,2") == "7 2"


@pytest.mark.parametrize("deep", ["x^{" * 25 + "2" + "}" * 25, "(" * 400 + "x" + ")" * 400, "-" * 1700 + "x"])
def test_what_nests_too_deep_is_counted_as_that(grader, deep):
    before = grader.errors.copy()
    (grade,) = grader.grade(golds=["x+1"], predictions=[deep])
    assert grade.kind == "TooDeep" and grader.errors - before == {"TooDeep": 1}


def test_memory_that_runs_out_in_the_parser_is_an_error_not_a_wrong_answer():
    grader = MathGrader(workers=1, timeout=60.0, memory_mb=256)
    (grade,) = grader.grade(golds=["72"], predictions=[r"\operatorname{zeros}(9999,9999)"])
    assert grade.kind == "memory"
    grader.close()


def test_a_tower_of_powers_is_an_error_and_the_rest_go_on():
    grader = MathGrader(workers=2, timeout=8.0)
    predictions = ["0.5", "9^{9^{9^{9}}}", "0.25", "5=0.5"]
    grades = grader.grade(golds=["1/2"] * 4, predictions=predictions)
    assert [g.outcome for g in grades] == ["right", "error", "wrong", "wrong"]
    assert "timeout" in grades[1].cause
    grader.close()


def load(file: Path) -> list[str]:
    lines = (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8")
    return [str(json.loads(line)["answer"]) for line in lines]


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("file", ["gsm8k_test.jsonl", "math500.jsonl"])
def test_real_gold_answers_grade_as_right_against_themselves_and_not_against_others(grader, data_dir, file):
    golds = load(data_dir / "math" / file)
    assert [
        g
        for g, grade in zip(golds, grader.grade(golds=golds, predictions=golds, fast=False), strict=True)
        if grade != RIGHT
    ] == []
    others = golds.copy()
    random.Random(0).shuffle(others)
    grades = grader.grade(golds=golds, predictions=others)
    assert [
        pair
        for *pair, grade in zip(golds, others, grades, strict=True)
        if (grade == RIGHT) != (normalise(pair[0]) == normalise(pair[1]))
    ] == []
