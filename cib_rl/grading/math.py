"""Is a mathematical answer equal to the gold answer? A fast path in this process, math-verify in worker processes.

Both sides are single answers (see `answers.py`), never whole completions: math-verify's own search for an answer in
running text is not used. Its signal-based time limits are off, because they fail outside the main thread; the pool's
hard limit takes their place.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from functools import lru_cache

from cib_rl.grading.latex import different_words, normalise, same_words, without_label
from cib_rl.grading.numbers import approximate, exact, surely_different
from cib_rl.grading.pool import RIGHT, WRONG, Grade, GradingPool

MAX_CHARACTERS = 2000  # a longer prediction is wrong unless it is literally the gold answer
ROUNDING = 2e-6  # decimals that differ by more cannot agree in the six places that math-verify compares
REMEMBERED = 50_000  # pairs


class MathGrader:
    """Grades answers; equal pairs are graded once. Close it, or leave that to the end of the process.

    Args:
        workers, timeout, memory_mb: see `GradingPool`; no worker starts unless the fast path fails on some answer.

    Attributes:
        errors: how many answers could not be judged so far, by cause (`Grade.kind`).
    """

    def __init__(self, *, workers: int = 2, timeout: float = 5.0, memory_mb: int = 2048) -> None:
        self.pool = GradingPool(
            "cib_rl.grading.math_full:full_grade", workers=workers, timeout=timeout, memory_mb=memory_mb
        )
        self.errors: Counter[str] = Counter()
        self._known: OrderedDict[tuple[str, str], Grade] = OrderedDict()  # verdicts of workers, oldest first

    def grade(self, *, golds: Sequence[str], predictions: Sequence[str | None], fast: bool = True) -> list[Grade]:
        """One grade per pair. A prediction of None (no answer was found) is wrong.

        With `fast` False every pair goes through math-verify (for checking that the golds themselves can be graded).
        """
        pairs = list(zip(golds, predictions, strict=True))
        grades: dict[tuple[str, str | None], Grade] = {}
        hard: list[tuple[str, str]] = []
        for gold, prediction in dict.fromkeys(pairs):
            if prediction is None:
                grades[gold, prediction] = WRONG
                continue
            quick = quick_grade(gold=gold, prediction=prediction) if fast else None
            known = self._known.get((gold, prediction)) if fast else None
            if quick is not None:
                grades[gold, prediction] = RIGHT if quick else WRONG
            elif known is not None:
                grades[gold, prediction] = known
            else:
                hard.append((gold, prediction))
        if hard:
            verdicts = self.pool.grade([{"gold": gold, "prediction": prediction} for gold, prediction in hard])
            self._remember(hard, verdicts)
            grades.update(zip(hard, verdicts, strict=True))
        result = [grades[pair] for pair in pairs]
        self.errors.update(grade.kind for grade in result if grade.outcome == "error")
        return result

    def close(self) -> None:
        self.pool.close()

    def _remember(self, pairs: list[tuple[str, str]], verdicts: list[Grade]) -> None:
        """Keep what was judged; an error may have been the machine's fault and is tried again."""
        self._known.update((p, v) for p, v in zip(pairs, verdicts, strict=True) if v.outcome != "error")
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


def quick_grade(*, gold: str, prediction: str) -> bool | None:
    """True or False where no algebra is needed, else None: equal texts, plain numbers, constants far apart."""
    expected = _read_gold(gold)
    if len(prediction) > max(4 * MAX_CHARACTERS, 4 * len(gold)):
        return prediction.strip() == gold.strip() != ""
    text = normalise(prediction if expected.labelled else without_label(prediction))
    if text and (text == expected.text or same_words(expected.text, text)):
        return True
    if not text or len(text) > max(MAX_CHARACTERS, 2 * len(expected.text)) or different_words(expected.text, text):
        return False
    if expected.exact is not None and (value := exact(text)) is not None:
        if value == expected.exact:
            return True
        decimals = "." in expected.text or "." in text
        return None if decimals and abs(value - expected.exact) < ROUNDING else False
    if expected.approximate is not None and (number := approximate(text)) is not None:
        return False if surely_different(expected.approximate, number) else None
    return None


class _Gold:
    """What is known of a gold answer without algebra."""

    def __init__(self, gold: str) -> None:
        self.text = normalise(gold)
        self.labelled = without_label(gold) != gold
        self.exact = exact(self.text)
        self.approximate = approximate(self.text)


_read_gold = lru_cache(maxsize=8192)(_Gold)
