"""A thousand hostile answers do no harm, and each kind of them would do harm if its defence were off."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cib_rl.grading.math import MathGrader
from cib_rl.grading.pool import RIGHT, Grade
from tests.grading.hostile_shapes import SHAPES

ROOT = Path(__file__).parents[2]
ANSWERS = 1000
LIMITS = {"timeout": 1.5, "memory_mb": 256}  # of a worker; less than `switched_off.py` needs to show harm
CAUSES = {"timeout", "memory", "crash", "TooDeep", "RecursionError"}  # an answer can have; "Unreadable" is a gold's

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # for hanging, not a measurement


def drawn() -> list[tuple[str, str, str]]:
    """(shape, gold, prediction): what is heavy once, the rest in turn."""
    rng = random.Random(0)
    light = [shape for shape in SHAPES if not shape.heavy]
    chosen = [shape for shape in SHAPES if shape.heavy]
    chosen += [light[i % len(light)] for i in range(ANSWERS - len(chosen))]
    rng.shuffle(chosen)
    return [(shape.name, *shape.draw(rng)) for shape in chosen]


def test_there_are_forty_shapes_and_each_is_named_once():
    names = [shape.name for shape in SHAPES]
    assert len(names) == len(set(names)) >= 40


@pytest.fixture(scope="module")
def graded() -> Iterator[tuple[MathGrader, list[tuple[str, str, str]], list[Grade]]]:
    grader = MathGrader(workers=2, **LIMITS)
    answers = drawn()
    _, golds, predictions = zip(*answers, strict=True)
    yield grader, answers, grader.grade(golds=golds, predictions=predictions)
    grader.close()


def test_no_hostile_answer_is_right(graded):
    _, answers, grades = graded
    assert len(grades) == ANSWERS
    assert [answer for answer, grade in zip(answers, grades, strict=True) if grade == RIGHT] == []


def test_every_error_of_a_hostile_answer_is_counted_by_its_cause(graded):
    grader, answers, grades = graded
    errors = Counter(grade.kind for grade in grades if grade.outcome == "error")
    assert grader.errors == errors and set(errors) <= CAUSES
    kinds = {name: grade.kind for (name, *_), grade in zip(answers, grades, strict=True)}
    assert kinds["tower of powers"] == "timeout" and kinds["nested powers"] == "TooDeep"
    assert kinds["identity matrix"] in ("memory", "timeout")  # whichever a busy machine reaches first


def test_the_pool_still_grades_an_ordinary_answer(graded):
    grader, *_ = graded
    grader.pool.timeout = 60.0
    assert grader.grade(golds=["a+b"] * 2, predictions=["b+a", "b-a"])[0] == RIGHT


@pytest.fixture(scope="module")
def harm() -> dict[str, str]:
    """What each shape does without its defence."""
    done = subprocess.run([sys.executable, "-m", "tests.grading.switched_off"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.defence}: {shape.name}")
def test_a_hostile_answer_does_harm_when_its_defence_is_off(harm, shape):
    assert harm[shape.name] in shape.harm.split(" or ")
