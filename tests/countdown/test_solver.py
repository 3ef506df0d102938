"""Demonstrations: right, honest in every line, and of very different lengths."""

from __future__ import annotations

import random
import re
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.countdown import phrases
from cib_rl.countdown.checker import check_completion
from cib_rl.countdown.problems import CountdownSettings, Problem, problems
from cib_rl.countdown.solver import demonstrate
from cib_rl.countdown.strategies import tries
from tests.countdown.strategies import demonstrations
from tests.countdown.strategies import problems as any_problem

STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


@given(demonstrations())
def test_every_demonstration_ends_in_a_right_answer(demonstration):
    problem = demonstration.problem
    assert check_completion(demonstration.completion, problem.numbers, problem.target).right


@given(demonstrations())
def test_every_written_line_of_arithmetic_is_true(demonstration):
    lines = STEP.findall(demonstration.completion)
    assert lines
    for left, op, right, result in lines:
        exact = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": lambda a, b: a / b}[op]
        assert exact(int(left), int(right)) == int(result)


@given(any_problem(), st.sampled_from(sorted(phrases.STRATEGIES)))
def test_a_try_is_right_exactly_if_its_last_line_hits_its_goal(problem, strategy):
    for one in tries(strategy, problem.numbers, problem.target):
        assert one.right == (one.result == one.goal)
        if one.right:
            assert one.forward[-1].result == problem.target


FIRST_OPERATION = {"products": "*", "sums": "+", "differences": "-", "quotients": "/"}


@given(any_problem())
def test_strategies_try_what_their_names_say(problem):
    for name, op in FIRST_OPERATION.items():
        assert all(one.steps[0].op == op for one in tries(name, problem.numbers, problem.target))
    for one in tries("round", problem.numbers, problem.target):
        assert one.steps[0].result % 10 == 0
    for one in tries("near_miss", problem.numbers, problem.target):
        assert 0 < abs(one.steps[-2].result - problem.target) <= 13 and one.steps[-1].op in "+-"
    for name in ("backward", "factor"):
        for one in tries(name, problem.numbers, problem.target):
            assert problem.target in (one.steps[0].left, one.steps[0].right)
            assert one.goal == one.steps[0].result


def test_backward_tries_find_solutions_that_end_in_any_operation():
    solved = set()
    for numbers, target in [((5, 6, 7), 37), ((5, 6, 7), 23), ((5, 6, 7), 65), ((2, 3, 9), 3)]:
        for name in ("backward", "factor"):
            for one in tries(name, numbers, target):
                if one.right:
                    solved.add(one.forward[-1].op)
    assert solved == {"+", "-", "*", "/"}


def test_an_unknown_strategy_is_an_error():
    with pytest.raises(ValueError, match="unknown strategy 'guessing'; known: products"):
        tries("guessing", (1, 2), 3)


def test_an_unsolvable_problem_is_an_error():
    with pytest.raises(ValueError, match="1-1=60 cannot be solved"):
        demonstrate(Problem((1, 1), 60), random.Random(0))


def test_each_announcement_is_followed_by_tries_of_its_own_strategy():
    owner = {phrase: name for name, group in phrases.STRATEGIES.items() for phrase in group}
    rng = random.Random(0)
    checked = 0
    for problem in problems(CountdownSettings(), "train", 200):
        announced = ""
        for span in demonstrate(problem, rng, effort=0.3).spans:
            announced = owner.get(span.text.rstrip(":"), announced)
            if span.kind in ("try", "solution"):
                pool = tries(announced, problem.numbers, problem.target)
                written = [
                    " ".join((left, op, right, "=", result)) for left, op, right, result in STEP.findall(span.text)
                ]
                assert written in [[str(step) for step in one.steps] for one in pool]
                checked += 1
    assert checked > 500


def test_there_are_at_least_six_strategies_in_many_short_wordings():
    assert len(phrases.STRATEGIES) >= 6
    wordings = [phrase for group in phrases.STRATEGIES.values() for phrase in group]
    assert all(len(group) >= 6 for group in phrases.STRATEGIES.values())
    assert len(set(wordings)) == len(wordings)  # a wording belongs to one strategy: it determines what follows
    assert all(3 <= len(phrase.split()) <= 5 for phrase in [*wordings, *phrases.RETREATS])


def test_one_problem_has_short_and_long_demonstrations():
    rng = random.Random(0)
    for problem in problems(CountdownSettings(), "train", 20):
        lengths = [len(demonstrate(problem, rng).completion.split()) for _ in range(40)]
        assert max(lengths) > 2.5 * min(lengths)


def test_more_effort_means_more_waste_of_every_kind():
    rng = random.Random(0)
    chosen = problems(CountdownSettings(), "train", 300)

    def mean_spans(effort: float, kind: str) -> float:
        return statistics.mean(
            sum(span.kind == kind for span in demonstrate(problem, rng, effort).spans) for problem in chosen
        )

    for kind in ("restate", "recheck", "duplicate", "list", "verify", "statement"):
        assert mean_spans(0.9, kind) > mean_spans(0.1, kind) + 0.2


def test_the_same_random_state_writes_the_same_demonstration():
    problem = Problem((3, 8, 12), 72)
    assert demonstrate(problem, random.Random(5)) == demonstrate(problem, random.Random(5))
