"""Does the answer make the target from the numbers?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cib_rl.countdown.checker import check
from cib_rl.grading.pool import RIGHT, Grade
from cib_rl.plugin import PluginError, reward
from cib_rl.trajectory import Trajectory


@reward("countdown_correct", kind="outcome")
class CountdownCorrect:
    """1 if the answer uses all of the task's numbers once each and equals its target, else 0.

    Reads `trajectory.answer` and the columns `numbers` and `target`.
    """

    def __call__(self, trajectories: list[Trajectory]) -> list[float]:
        return [float(t.answer is not None and check(t.answer, *_problem(t.task)).right) for t in trajectories]

    def grade_golds(self, rows: Sequence[Mapping[str, Any]]) -> list[Grade]:
        """Check the solution that each row carries as its gold answer."""
        verdicts = [check(_solution(row), *_problem(row)) for row in rows]
        return [RIGHT if verdict.right else Grade("wrong", verdict.reason) for verdict in verdicts]


def _problem(task: Mapping[str, Any]) -> tuple[Sequence[int], int]:
    try:
        return task["numbers"], task["target"]
    except KeyError as error:
        raise PluginError(
            f"countdown_correct needs the columns numbers and target; the row {task.get('id')!r} has {', '.join(task)}"
        ) from error


def _solution(row: Mapping[str, Any]) -> str:
    answer = row["answer"]
    return str(answer.get("solution", "")) if isinstance(answer, Mapping) else str(answer)
