"""Hypothesis strategies shared by the Countdown tests."""

from __future__ import annotations

import random

from hypothesis import strategies as st

from cib_rl.countdown.derivations import derivations
from cib_rl.countdown.problems import Problem
from cib_rl.countdown.solver import Demonstration, demonstrate


@st.composite
def problems(draw: st.DrawFn, most_numbers: int = 4) -> Problem:
    """Any solvable problem with 2 to `most_numbers` numbers up to 15."""
    numbers = tuple(draw(st.lists(st.integers(1, 15), min_size=2, max_size=most_numbers)))
    targets = sorted({way.value for way in derivations(tuple(sorted(numbers))) if way.value <= 100} or {sum(numbers)})
    return Problem(numbers, draw(st.sampled_from(targets)))


@st.composite
def demonstrations(draw: st.DrawFn) -> Demonstration:
    """A demonstration of any problem at any effort."""
    rng = random.Random(draw(st.integers(0, 10_000)))
    return demonstrate(draw(problems()), rng, draw(st.none() | st.floats(0, 1)))
