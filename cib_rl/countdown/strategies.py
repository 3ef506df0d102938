"""The eight strategies of the demonstrations: which tries each of them makes on a problem.

A *try* spends all numbers once.  Forward tries combine numbers until one value is left and compare it with the target;
backward tries first undo the last operation on the target and then look for the value that must come before it.
"""

from __future__ import annotations

from dataclasses import dataclass

from cib_rl.countdown.derivations import Derivation, Step, apply, derivations
from cib_rl.countdown.phrases import STRATEGIES


@dataclass(frozen=True)
class Try:
    """One try as it is written down.

    Attributes:
        steps: the lines, in order.
        goal: what the last line's result is compared with (the target, or the value before the undone step).
        expression: the whole expression if the try is right, else "".
        forward: the steps from front to back that reach the target, used to verify a right try; else ().
    """

    steps: tuple[Step, ...]
    goal: int
    expression: str = ""
    forward: tuple[Step, ...] = ()

    @property
    def right(self) -> bool:
        return bool(self.expression)

    @property
    def result(self) -> int:
        return self.steps[-1].result

    @property
    def miss(self) -> int:
        return abs(self.result - self.goal)


def _undo(target: int, last: Step, before: int) -> Step | None:
    """The line that undoes `last` on `target`; `before` is the operand of `last` that was made by earlier steps.

    For `before + z` it is `target - z`, for `z - before` it is `z - target`, and so on: its result is the value that
    `before` would need.  None where that value is no positive whole number.
    """
    first = last.left == before
    other = last.right if first else last.left
    left, op, right = {
        ("+", True): (target, "-", other),
        ("+", False): (target, "-", other),
        ("*", True): (target, "/", other),
        ("*", False): (target, "/", other),
        ("-", True): (target, "+", other),
        ("-", False): (other, "-", target),
        ("/", True): (target, "*", other),
        ("/", False): (other, "/", target),
    }[last.op, first]
    result = apply(left, op, right)
    return None if result is None or (op == "/" and right == 1) else Step(left, op, right, result)


def _forward_try(way: Derivation, target: int) -> Try:
    right = way.value == target
    return Try(way.steps, target, way.expression if right else "", way.steps if right else ())


def _backward_try(way: Derivation, target: int) -> Try | None:
    """`way` read backwards: its last step undone on the target, then the rest; None where that cannot be written."""
    *earlier, last = way.steps
    if not earlier or earlier[-1].result not in (last.left, last.right):
        return None
    undone = _undo(target, last, earlier[-1].result)
    if undone is None:
        return None
    right = way.value == target
    steps = (undone, *earlier)
    return Try(steps, undone.result, way.expression if right else "", way.steps if right else ())


def tries(strategy: str, numbers: tuple[int, ...], target: int) -> list[Try]:
    """Everything that `strategy` would try on this problem, right and wrong, without repeats.

    Raises:
        ValueError: an unknown strategy.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"countdown: unknown strategy {strategy!r}; known: {', '.join(STRATEGIES)}")
    ways = derivations(tuple(sorted(numbers)))
    first_op = {"products": "*", "sums": "+", "differences": "-", "quotients": "/"}
    found: list[Try | None]
    if strategy in first_op:
        found = [_forward_try(way, target) for way in ways if way.steps[0].op == first_op[strategy]]
    elif strategy == "near_miss":
        close = [way for way in ways if way.steps[-1].op in "+-" and len(way.steps) > 1]
        found = [_forward_try(way, target) for way in close if 0 < abs(way.steps[-2].result - target) <= 13]
    elif strategy == "round":
        found = [_forward_try(way, target) for way in ways if way.steps[0].result % 10 == 0]
    else:
        undone = "+-" if strategy == "backward" else "*/"
        found = [_backward_try(way, target) for way in ways if way.steps[-1].op in undone]
    # Two derivations can share their written form once the last step is undone: keep one, a right one if there is any.
    unique: dict[tuple[Step, ...], Try] = {}
    for one in found:
        if one is not None and (one.right or one.steps not in unique):
            unique[one.steps] = one
    return list(unique.values())
