"""How many words does the answer share with a gold answer?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cib_rl.grading.golds import grade_each_gold, text_golds
from cib_rl.grading.pool import Grade
from cib_rl.grading.qa import f1
from cib_rl.plugin import reward
from cib_rl.trajectory import Trajectory


@reward("qa_f1", kind="outcome")
class QaF1:
    """Word F1 (0 to 1) of answer and gold answer after SQuAD's normalisation; the best gold answer counts.

    The outcome of InForage (arXiv 2505.09316). 0 where there is no answer, and, as in HotpotQA's evaluation, where one
    side is yes or no and the other is not the same. Reads `trajectory.answer` and `task["answer"]`: a text, a number,
    or a list of them. A half-right answer earns a part, so it can be earned by listing likely words; compare with
    `qa_em` in evaluations.
    """

    def __call__(self, trajectories: list[Trajectory]) -> list[float]:
        return [_score(text_golds(t.task, "qa_f1"), t.answer) for t in trajectories]

    def grade_golds(self, rows: Sequence[Mapping[str, Any]]) -> list[Grade]:
        """Grade each row's gold answers against themselves; an empty one is wrong."""
        return grade_each_gold(rows, "qa_f1", lambda golds, gold: f1(golds=golds, prediction=gold) == 1.0)


def _score(golds: list[str], answer: str | None) -> float:
    return 0.0 if answer is None else f1(golds=golds, prediction=answer)
