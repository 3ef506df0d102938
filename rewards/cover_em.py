"""Does the answer contain a gold answer?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cib_rl.grading.golds import grade_each_gold, text_golds
from cib_rl.grading.pool import Grade
from cib_rl.grading.qa import cover_match, normalise
from cib_rl.plugin import PluginError, reward
from cib_rl.trajectory import Trajectory


@reward("cover_em", kind="outcome")
class CoverEm:
    """1 if the answer contains one of the gold answers (both after SQuAD's normalisation), else 0.

    For answers in sentences. An answer that lists every candidate earns it too: use `max_words` in training. Reads
    `trajectory.answer` and `task["answer"]`: a text, a number, or a list of them.

    Args:
        whole_words: the gold answer must stand there as whole words ("no" is not in "unknown"). False compares
            characters, as the function of that name in Search-R1's code does. (Our choice of default.)
        max_words: an answer of more words, articles not counted, earns 0; None sets no limit.
    """

    def __init__(self, *, whole_words: bool = True, max_words: int | None = None) -> None:
        if max_words is not None and max_words < 1:
            raise PluginError(f"cover_em: max_words must be at least 1, not {max_words}")
        self.whole_words, self.max_words = whole_words, max_words

    def __call__(self, trajectories: list[Trajectory]) -> list[float]:
        return [float(self._right(text_golds(t.task, "cover_em"), t.answer)) for t in trajectories]

    def grade_golds(self, rows: Sequence[Mapping[str, Any]]) -> list[Grade]:
        """Grade each row's gold answers against themselves; one that is empty or longer than `max_words` is wrong."""
        return grade_each_gold(rows, "cover_em", self._right)

    def _right(self, golds: list[str], answer: str | None) -> bool:
        if answer is None or (self.max_words is not None and len(normalise(answer).split()) > self.max_words):
            return False
        return cover_match(golds=golds, prediction=answer, whole_words=self.whole_words)
