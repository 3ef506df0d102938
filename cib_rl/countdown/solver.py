"""Demonstrations: a solver that writes its search down, with a varying amount of waste.

Each demonstration draws an `effort` between 0 and 1.  Low effort goes almost straight to a solution; high effort
restates the problem, re-checks lines that were right, repeats tries that had failed, lists its misses and verifies the
end.  The same problem therefore has short and long right demonstrations, and a model trained on them samples groups of
very unequal length: that spread is what reinforcement learning needs to find that the waste can go.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from cib_rl.countdown import phrases
from cib_rl.countdown.derivations import Step
from cib_rl.countdown.problems import Problem
from cib_rl.countdown.strategies import Try, tries


@dataclass(frozen=True)
class Span:
    """A stretch of a trace and what it is for; kinds are listed in `waste.py`."""

    kind: str
    text: str


@dataclass(frozen=True)
class Demonstration:
    """A right solution with its search; `completion` is what the model learns to write after `problem.prompt`."""

    problem: Problem
    spans: tuple[Span, ...]
    expression: str

    @property
    def completion(self) -> str:
        thought = "".join(f" {span.text}" for span in self.spans)
        return f"{thought} </think> <answer> {self.expression} </answer>"


def _written(steps: tuple[Step, ...]) -> str:
    return ", ".join(str(step) for step in steps)


def _commuted(step: Step) -> Step:
    return Step(step.right, step.op, step.left, step.result) if step.op in "+*" else step


def _inverse(step: Step) -> Step:
    """The line that confirms `step` by the inverse operation: 9 + 3 = 12 for 12 - 3 = 9."""
    inverse = {"+": "-", "-": "+", "*": "/", "/": "*"}[step.op]
    return Step(step.result, inverse, step.right, step.left)


class _Writer:
    """Writes one demonstration; all choices come from `rng`, their frequencies from `effort`."""

    def __init__(self, problem: Problem, rng: random.Random, effort: float) -> None:
        self.problem = problem
        self.rng = rng
        self.effort = effort
        self.spans: list[Span] = []
        self.failed: list[Try] = []  # complete tries written so far, in order
        self.lines: list[Step] = []  # every line written so far, for re-checks

    def add(self, kind: str, text: str, mark: str = ".") -> None:
        self.spans.append(Span(kind, text + mark))

    def chance(self, at_rest: float, at_full_effort: float) -> bool:
        """True with a probability that goes linearly from the first value (effort 0) to the second (effort 1)."""
        return self.rng.random() < at_rest + (at_full_effort - at_rest) * self.effort

    def restate(self) -> None:
        numbers = list(self.problem.numbers)
        if self.rng.random() < 0.5:
            self.rng.shuffle(numbers)
        pattern = self.rng.choice(phrases.RESTATEMENTS)
        self.add("restate", pattern.format(n=" ".join(map(str, numbers)), t=self.problem.target))

    def recheck(self) -> None:
        """Doubt a recent line and confirm it: as it was, turned around, or by the inverse operation."""
        step = self.rng.choice(self.lines[-3:])
        step = self.rng.choice((step, _commuted(step), _inverse(step)))
        self.add("recheck", self.rng.choice(phrases.DOUBTS), ":")
        self.add("recheck", f"{step}, {self.rng.choice(phrases.VERDICTS_CHECKED)}")

    def verdict(self, one: Try) -> str:
        words = phrases.VERDICTS_BIG if one.result > one.goal else phrases.VERDICTS_SMALL
        return self.rng.choice(words).format(d=one.miss, g=one.goal)

    def wrong_try(self, one: Try) -> None:
        if len(one.steps) > 1 and self.rng.random() < 0.12:  # a branch abandoned half-way
            self.lines.append(one.steps[0])
            self.add("abandoned", f"{one.steps[0]}, {self.rng.choice(phrases.VERDICTS_ABANDONED)}")
            return
        self.lines.extend(one.steps)
        self.failed.append(one)
        self.add("try", f"{_written(one.steps)}, {self.verdict(one)}")

    def repeat(self) -> None:
        """A failed try once more, often with its numbers in another order: the plainest kind of waste."""
        one = self.rng.choice(self.failed[-4:])
        if self.rng.random() < 0.6:
            one = Try((*(_commuted(step) for step in one.steps),), one.goal)
        if self.rng.random() < 0.5:
            self.add("duplicate", self.rng.choice(phrases.REPEATS), ":")
        self.add("duplicate", f"{_written(one.steps)}, {self.verdict(one)}")

    def list_misses(self) -> None:
        recent = self.failed[-5:]
        self.add("list", self.rng.choice(phrases.LISTS), ":")
        self.add("list", ", ".join(str(one.result) for one in recent))

    def change_strategy(self) -> None:
        """Between two strategies: retreat, then perhaps list what failed or say the problem again."""
        if self.chance(0.5, 0.9):
            self.add("planning", self.rng.choice(phrases.RETREATS))
        if self.failed and self.chance(0.0, 0.5):
            self.list_misses()
        if self.chance(0.0, 0.25):
            self.restate()

    def finish(self, solution: Try) -> None:
        self.lines.extend(solution.steps)
        self.add("solution", f"{_written(solution.steps)}, {self.rng.choice(phrases.VERDICTS_RIGHT)}")
        if self.chance(0.0, 0.35):
            self.recheck()
        if self.chance(0.1, 0.9):
            self.add("verify", self.rng.choice(phrases.VERIFIES), ":")
            self.add("verify", f"{_written(solution.forward)}, {self.rng.choice(phrases.VERDICTS_CHECKED)}")
        if self.chance(0.2, 0.7):
            self.add("statement", self.rng.choice(phrases.CLOSINGS))


def _draw(rng: random.Random, pool: list[Try]) -> Try:
    """One of `pool`, near misses more often than far ones, as a person would try them."""
    return rng.choices(pool, [math.exp(-one.miss / 10) + 0.1 for one in pool])[0]


def demonstrate(problem: Problem, rng: random.Random, effort: float | None = None) -> Demonstration:
    """A right demonstration for `problem`; `effort` in [0, 1] is drawn uniformly unless given.

    Raises:
        ValueError: the problem has no whole-number solution.
    """
    effort = rng.random() if effort is None else effort
    pools = {name: tries(name, problem.numbers, problem.target) for name in phrases.STRATEGIES}
    solving = [name for name, pool in pools.items() if any(one.right for one in pool)]
    if not solving:
        raise ValueError(f"countdown: {problem.key} cannot be solved by whole-number steps")
    writer = _Writer(problem, rng, effort)
    if writer.chance(0.2, 0.95):
        writer.restate()

    failures = sum(rng.random() < 0.15 + 0.3 * effort for _ in range(10))
    last = rng.choice(solving)
    names = [name for name in pools if name != last and any(not one.right for one in pools[name])]
    rng.shuffle(names)
    names.append(last)
    written: set[tuple[Step, ...]] = set()
    for position, name in enumerate(names):
        wrong = [one for one in pools[name] if not one.right]
        if name != last and failures == 0:
            continue
        writer.add("planning", rng.choice(phrases.STRATEGIES[name]), ":")
        # The last strategy takes what is left, but never so many that it looks like going through everything.
        burst = min(failures, rng.choice((1, 1, 2, 2, 3)) if name != last else rng.choice((0, 0, 1, 2)))
        for _ in range(burst):
            wrong = [one for one in wrong if one.steps not in written]
            if not wrong:
                break
            one = _draw(rng, wrong)
            written.add(one.steps)
            writer.wrong_try(one)
            failures -= 1
            if writer.chance(0.0, 0.4):
                writer.recheck()
            if writer.failed and writer.chance(0.0, 0.45):
                writer.repeat()
        if position < len(names) - 1:
            writer.change_strategy()
    solution = rng.choice([one for one in pools[last] if one.right])
    writer.finish(solution)
    return Demonstration(problem, tuple(writer.spans), solution.expression)
