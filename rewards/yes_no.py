"""Is the answer the right one of yes and no?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cib_rl.grading.golds import text_gold
from cib_rl.grading.pool import RIGHT, Grade
from cib_rl.grading.qa import polarity
from cib_rl.plugin import Failed, reward
from cib_rl.trajectory import Trajectory


@reward("yes_no", kind="outcome")
class YesNo:
    """1 if the answer says the gold answer's yes or no, else 0.

    The answer's first word decides (yes, no, true, false; case and punctuation do not matter), so "Yes, because ..."
    counts; a yes that a later no contradicts, and the reverse, is wrong. Reads `trajectory.answer` and
    `task["answer"]`: yes, no, true or false. A row with another gold answer is an error, never a 0.
    """

    def __call__(self, trajectories: list[Trajectory]) -> list[float | Failed]:
        return [_score(text_gold(t.task, "yes_no"), t.answer) for t in trajectories]

    def grade_golds(self, rows: Sequence[Mapping[str, Any]]) -> list[Grade]:
        """Whether each row's gold answer is a yes or a no."""
        golds = [text_gold(row, "yes_no") for row in rows]
        return [RIGHT if polarity(gold) is not None else Grade("error", _unclear(gold)) for gold in golds]


def _score(gold: str, answer: str | None) -> float | Failed:
    expected = polarity(gold)
    if expected is None:
        return Failed(_unclear(gold))
    return float(answer is not None and polarity(answer) is expected)


def _unclear(gold: str) -> str:
    return f"unreadable gold: {gold[:80]!r} is neither yes nor no"
