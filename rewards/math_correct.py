"""Is the answer mathematically equal to the gold answer?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cib_rl.grading import math
from cib_rl.grading.golds import text_gold
from cib_rl.grading.math import MathGrader
from cib_rl.grading.pool import Grade
from cib_rl.plugin import Failed, reward
from cib_rl.trajectory import Trajectory

RULES = (  # what a kept check of the golds depends on
    "math_full.py", "compare.py", "converter.py", "fast_parser.py", "latex.py", "marks.py", "numbers.py", "solved.py",
    "units.py",
)  # fmt: skip


@reward("math_correct", kind="outcome")
class MathCorrect:
    """1 if the answer equals the gold answer (math-verify), 0 if it does not or there is none.

    Reads `trajectory.answer` and `task["answer"]` (a text or a number). An answer that cannot be judged (time or memory
    limit, crash of the worker, gold answer that cannot be read) is an error, never a 0.

    Args:
        timeout: seconds per answer.
        workers: grading processes; they start only when an answer needs algebra.
        memory_mb: memory per grading process.
    """

    def __init__(self, *, timeout: float = 5.0, workers: int = 2, memory_mb: int = 2048) -> None:
        self.grader = MathGrader(workers=workers, timeout=timeout, memory_mb=memory_mb)
        folder = Path(math.__file__).parent
        rules = hashlib.sha256(b"".join((folder / file).read_bytes() for file in RULES)).hexdigest()[:12]
        self.grader_version = f"math-verify {version('math-verify')}, rules {rules}"

    def __call__(self, trajectories: list[Trajectory]) -> list[float | Failed]:
        grades = self.grader.grade(
            golds=[text_gold(t.task, "math_correct") for t in trajectories],
            predictions=[t.answer for t in trajectories],
        )
        return [_as_reward(grade) for grade in grades]

    def grade_golds(self, rows: Sequence[Mapping[str, Any]]) -> list[Grade]:
        """Grade each row's gold answer against itself, without the fast path that finds equal texts equal."""
        golds = [text_gold(row, "math_correct") for row in rows]
        return self.grader.grade(golds=golds, predictions=golds, fast=False)

    def close(self) -> None:
        """End the grading processes."""
        self.grader.close()


def _as_reward(grade: Grade) -> float | Failed:
    return Failed(grade.cause) if grade.outcome == "error" else float(grade.outcome == "right")
