"""Countdown problems: seeded, always solvable, split into train and held-out by a stable hash.

A problem is a list of numbers and a target; *all* numbers must be used, each exactly once.  Its identity is the sorted
numbers and the target, so the same numbers in another order are the same problem and fall on the same side of the
split.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, cast

from cib_rl.countdown.derivations import derivations, solutions
from cib_rl.errors import UserError

Split = Literal["train", "heldout"]
MANY = 5_000  # problems taken when no count is asked for
PATIENCE = 5_000  # draws without a new problem after which the space counts as used up


@dataclass(frozen=True)
class CountdownSettings:
    """Which problems are made.  More numbers or a wider range make the task harder.

    Attributes:
        numbers: how many numbers a problem has (2 to 5).
        min_number, max_number: inclusive range of the numbers.
        min_target, max_target: inclusive range of the target.
        held_out_share: share of all problems, by hash, that training never sees.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}  # in recipes an unknown key is an error

    numbers: int = 3
    min_number: int = 1
    max_number: int = 13
    min_target: int = 1
    max_target: int = 60
    held_out_share: float = 0.25

    def __post_init__(self) -> None:
        if not 2 <= self.numbers <= 5:
            raise ValueError(
                f"countdown: numbers must be 2 to 5 (the exact solver is too slow beyond), got {self.numbers}"
            )
        if not 1 <= self.min_number <= self.max_number:
            raise ValueError(
                f"countdown: need 1 <= min_number <= max_number, got {self.min_number} and {self.max_number}"
            )
        if not 1 <= self.min_target <= self.max_target:
            raise ValueError(
                f"countdown: need 1 <= min_target <= max_target, got {self.min_target} and {self.max_target}"
            )
        if not 0.0 < self.held_out_share < 1.0:
            raise ValueError(f"countdown: held_out_share must lie between 0 and 1, got {self.held_out_share}")


@dataclass(frozen=True)
class Problem:
    """One problem; `numbers` in the order in which the prompt shows them."""

    numbers: tuple[int, ...]
    target: int

    @property
    def key(self) -> str:
        """Identity of the problem, the same for any order of the numbers, such as `3-8-12=44`."""
        return "-".join(str(number) for number in sorted(self.numbers)) + f"={self.target}"

    @property
    def prompt(self) -> str:
        """The model's prompt.  It ends with `<think>`, so reasoning begins at the completion's first token."""
        return f"numbers {' '.join(str(number) for number in self.numbers)} target {self.target} <think>"


def is_held_out(problem: Problem, share: float) -> bool:
    """Whether `problem` belongs to the held-out side; depends on its key and the share alone, never on a seed."""
    digest = hashlib.sha256(problem.key.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def problem_stream(settings: CountdownSettings, split: Split, seed: int) -> Iterator[Problem]:
    """An endless seeded stream of problems of one split; problems repeat once the space is small enough.

    Numbers are drawn uniformly, then the target uniformly among the reachable ones; problems of the other side are
    dropped.

    Raises:
        ValueError: no problem of this split exists under `settings`.
    """
    if split not in ("train", "heldout"):
        raise ValueError(f"countdown: split must be 'train' or 'heldout', got {split!r}")
    rng = random.Random(f"countdown-{split}-{seed}")
    misses = 0
    while True:
        numbers = tuple(rng.randint(settings.min_number, settings.max_number) for _ in range(settings.numbers))
        values = {way.value for way in derivations(tuple(sorted(numbers)))}
        targets = sorted(value for value in values if settings.min_target <= value <= settings.max_target)
        problem = Problem(numbers, rng.choice(targets)) if targets else None
        if problem is None or is_held_out(problem, settings.held_out_share) != (split == "heldout"):
            misses += 1
            if misses > 100_000:
                raise ValueError(f"countdown: found no solvable {split} problem under {settings}; widen the ranges")
            continue
        misses = 0
        yield problem


def problems(settings: CountdownSettings, split: Split, count: int | None = None, seed: int = 0) -> list[Problem]:
    """`count` different problems of one split (different by key), the same ones for the same arguments.

    None stands for all of them up to `MANY`, as far as the stream brings them up.

    Raises:
        ValueError: the space holds fewer than `count` such problems.
    """
    chosen: dict[str, Problem] = {}
    repeats = 0  # since the last new problem: a long run of them means that the space is used up
    for problem in problem_stream(settings, split, seed):
        if len(chosen) >= (MANY if count is None else count) or repeats > PATIENCE:
            break
        repeats = repeats + 1 if problem.key in chosen else 0
        chosen.setdefault(problem.key, problem)
    if count is not None and len(chosen) < count:
        raise ValueError(
            f"countdown: asked for {count} different {split} problems but there are only {len(chosen)}; "
            "ask for fewer, widen the number or target range, or change held_out_share"
        )
    return list(chosen.values())


def task_row(problem: Problem) -> dict[str, Any]:
    """The row that tasks are made of: id, prompt, answer (numbers, target, one solution), numbers, target."""
    ways = solutions(problem.numbers, problem.target)
    if not ways:
        raise ValueError(f"countdown: {problem.key} cannot be solved by whole-number steps")
    # The shortest expression: of several solutions the plainest one is shown to people.
    solution = min((way.expression for way in ways), key=lambda text: (len(text), text))
    return {
        "id": f"countdown-{problem.key}",
        "prompt": problem.prompt,
        "answer": {"numbers": list(problem.numbers), "target": problem.target, "solution": solution},
        "numbers": list(problem.numbers),
        "target": problem.target,
    }


def task_rows(split: str = "train", count: int | None = None, seed: int = 0, **ranges: Any) -> list[dict[str, Any]]:
    """Different task rows of one split; `ranges` are the keys of `CountdownSettings`.  See `problems` and `task_row`.

    Raises:
        UserError: an unknown split or key, a range that makes no sense, or too few problems.
    """
    known = [field.name for field in fields(CountdownSettings)]
    unknown = sorted(set(ranges) - set(known))
    if unknown:
        raise UserError(f"countdown: unknown key {', '.join(unknown)}; known: count, seed, {', '.join(known)}")
    try:
        return [task_row(problem) for problem in problems(CountdownSettings(**ranges), cast(Split, split), count, seed)]
    except (TypeError, ValueError) as error:  # a recipe's value that cannot be used
        raise UserError(str(error)) from error
