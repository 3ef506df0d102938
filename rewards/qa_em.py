"""Does the answer equal a gold answer, word for word?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cib_rl.grading.golds import grade_each_gold, text_golds
from cib_rl.grading.pool import Grade
from cib_rl.grading.qa import exact_match
from cib_rl.plugin import reward
from cib_rl.trajectory import Trajectory


@reward("qa_em", kind="outcome")
class QaEm:
    """1 if the answer equals one of the gold answers after SQuAD's normalisation, else 0 (also where there is none).

    The outcome of Search-R1 (arXiv 2503.09516) and of ParallelSearch (arXiv 2508.09303, r_o in eq. 3). Normalisation:
    lower case, punctuation, articles, white space, in this order. Reads `trajectory.answer`, which comes from what the
    policy wrote and never from prompt or documents, and `task["answer"]`: a text, a number, or a list of them.
    """

    def __call__(self, trajectories: list[Trajectory]) -> list[float]:
        return [_score(text_golds(t.task, "qa_em"), t.answer) for t in trajectories]

    def grade_golds(self, rows: Sequence[Mapping[str, Any]]) -> list[Grade]:
        """Grade each row's gold answers against themselves; an empty one is wrong."""
        return grade_each_gold(rows, "qa_em", lambda golds, gold: exact_match(golds=golds, prediction=gold))


def _score(golds: list[str], answer: str | None) -> float:
    return float(answer is not None and exact_match(golds=golds, prediction=answer))
