"""Problems: solvable, seeded, and split so that no held-out problem can be met in training."""

from __future__ import annotations

import itertools
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.countdown.checker import check
from cib_rl.countdown.derivations import derivations, solutions
from cib_rl.countdown.problems import CountdownSettings, Problem, is_held_out, problem_stream, problems, task_rows
from cib_rl.errors import UserError

SMALL = CountdownSettings()


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_gold_answer_grades_as_right(split):
    for row in task_rows(split, 300):
        gold = row["answer"]
        assert gold["numbers"] == row["numbers"] and gold["target"] == row["target"]
        assert check(gold["solution"], row["numbers"], row["target"]).right


def test_train_and_held_out_share_no_problem_in_any_order_of_its_numbers():
    train = {(tuple(sorted(p.numbers)), p.target) for p in islice(problem_stream(SMALL, "train", 3), 5_000)}
    held_out = {(tuple(sorted(p.numbers)), p.target) for p in problems(SMALL, "heldout")}
    assert len(held_out) >= 1_000  # the evaluation's size
    assert not train & held_out


@given(st.lists(st.integers(1, 13), min_size=2, max_size=4), st.integers(1, 60), st.floats(0.05, 0.95), st.randoms())
def test_the_side_of_the_split_does_not_depend_on_the_order_of_the_numbers(numbers, target, share, rng):
    shuffled = list(numbers)
    rng.shuffle(shuffled)
    assert is_held_out(Problem(tuple(numbers), target), share) == is_held_out(Problem(tuple(shuffled), target), share)


def test_the_split_is_the_same_in_every_release():
    # Shipped weights were trained on one side of it; another hash would leak held-out problems into "training".
    held_out = [number for number in range(1, 41) if is_held_out(Problem((3, 8, number), 44), 0.25)]
    assert held_out == [1, 5, 12, 18, 19, 21, 29, 30, 31, 36]


def test_the_held_out_share_is_about_what_was_asked():
    keys = [Problem(numbers, 24) for numbers in itertools.combinations_with_replacement(range(1, 30), 3)]
    assert sum(is_held_out(problem, 0.25) for problem in keys) / len(keys) == pytest.approx(0.25, abs=0.02)


def test_the_same_seed_makes_the_same_problems_and_another_seed_others():
    assert problems(SMALL, "train", 50, seed=1) == problems(SMALL, "train", 50, seed=1)
    assert problems(SMALL, "train", 50, seed=1) != problems(SMALL, "train", 50, seed=2)


def test_ranges_are_kept():
    settings = CountdownSettings(numbers=4, min_number=2, max_number=9, min_target=20, max_target=30)
    for problem in problems(settings, "train", 100):
        assert len(problem.numbers) == 4
        assert all(2 <= number <= 9 for number in problem.numbers) and 20 <= problem.target <= 30


def test_problems_are_different_and_as_many_as_asked():
    keys = [problem.key for problem in problems(SMALL, "heldout", 500)]
    assert len(set(keys)) == 500


def test_too_few_problems_is_an_error_that_says_how_many_there_are():
    with pytest.raises(UserError, match=r"asked for 5000 different heldout problems but there are only \d+"):
        task_rows("heldout", 5000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "split must be 'train' or 'heldout', got 'test'"),
        ({"max_numbr": 9}, "unknown key max_numbr; known: count, seed, numbers"),
        ({"numbers": 9}, "numbers must be 2 to 5"),
        ({"min_number": 8, "max_number": 7}, "min_number <= max_number, got 8 and 7"),
        ({"min_target": 0}, "1 <= min_target"),
        ({"held_out_share": 1.0}, "between 0 and 1"),
        ({"numbers": 2, "max_number": 2, "min_target": 50}, "found no solvable train problem"),
    ],
)
def test_bad_keys_are_errors_that_name_them(arguments, message):
    with pytest.raises(UserError, match=message):
        task_rows(**{"count": 3, **arguments})


@given(st.lists(st.integers(1, 12), min_size=2, max_size=4))
def test_every_derivation_uses_all_numbers_once_and_has_the_value_it_says(numbers):
    for way in derivations(tuple(sorted(numbers))):
        assert check(way.expression, numbers, way.value).right
        assert len(way.steps) == len(numbers) - 1 and way.steps[-1].result == way.value


def test_solutions_are_found_exactly_where_there_are_some():
    assert {way.expression for way in solutions((4, 4, 1), 17)} == {"4 * 4 + 1"}
    assert solutions((1, 1, 1), 60) == []
