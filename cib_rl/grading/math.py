"""Is a mathematical answer equal to the gold answer? A fast path in this process, math-verify in worker processes.

Both sides are single answers (see `answers.py`), never whole completions: math-verify's own search for an answer in
running text is not used. Its signal-based time limits are off, because they fail outside the main thread; the pool's
hard limit takes their place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from cib_rl.grading.pool import RIGHT, WRONG, Grade, GradingPool

MAX_CHARACTERS = 2000  # a longer prediction is wrong unless it is literally the gold answer

_SPACE = re.compile(r"(?<!\\)\\[!,;: ]")  # not the second half of a line break
_GROUPING = re.compile(r"(?<=\d),\\! ?(?=\d)")
_INTEGER = re.compile(r"([-+]?)0*(\d+)")
_THOUSANDS = re.compile(r"([-+]?\d{1,3})((?:,\d{3})+)(\.\d+)?")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\{([^{}]*)\}")
MIXED = re.compile(r"([-+]?\d+) +(?:(\d+)/(\d+)|(\\frac\{\d+\}\{\d+\}))")


class MathGrader:
    """Grades answers; equal pairs are graded once. Close it, or leave that to the end of the process.

    Args:
        workers, timeout, memory_mb: see `GradingPool`; no worker starts unless the fast path fails on some answer.
    """

    def __init__(self, *, workers: int = 2, timeout: float = 5.0, memory_mb: int = 2048) -> None:
        self.pool = GradingPool(
            "cib_rl.grading.math_full:full_grade", workers=workers, timeout=timeout, memory_mb=memory_mb
        )

    def grade(self, *, golds: Sequence[str], predictions: Sequence[str | None], fast: bool = True) -> list[Grade]:
        """One grade per pair. A prediction of None (no answer was found) is wrong.

        With `fast` False every pair goes through math-verify (for checking that the golds themselves can be graded).
        """
        pairs = list(zip(golds, predictions, strict=True))
        grades: dict[tuple[str, str | None], Grade] = {}
        hard: list[tuple[str, str]] = []
        for gold, prediction in dict.fromkeys(pairs):
            quick = False if prediction is None else quick_grade(gold=gold, prediction=prediction) if fast else None
            if quick is None:
                assert prediction is not None
                hard.append((gold, prediction))
            else:
                grades[gold, prediction] = RIGHT if quick else WRONG
        if hard:
            verdicts = self.pool.grade([{"gold": gold, "prediction": prediction} for gold, prediction in hard])
            grades.update(zip(hard, verdicts, strict=True))
        return [grades[pair] for pair in pairs]

    def close(self) -> None:
        self.pool.close()


def quick_grade(*, gold: str, prediction: str) -> bool | None:
    """True or False where no algebra is needed, else None: equal texts, and two whole numbers."""
    a, b = _cached_normalise(gold), normalise(prediction)
    if a and a == b:
        return True
    if len(b) > max(MAX_CHARACTERS, 2 * len(a)) or not b:
        return False
    first, second = _INTEGER.fullmatch(a), _INTEGER.fullmatch(b)
    if first and second:
        return _signed(first) == _signed(second)
    return None


def normalise(answer: str) -> str:
    """The answer without what never changes its meaning: `clean`, and the wrapper of an answer that is all text."""
    text = clean(answer)
    whole_text = _TEXT.fullmatch(text)
    return clean(whole_text.group(1)) if whole_text else text


def clean(answer: str) -> str:
    """The answer without math delimiters, sizes, spacing, currency, thousands separators and a final full stop.

    Space between digits stays, so that 1 1/2 does not become 11/2.
    """
    text = " ".join(_SPACE.sub(lambda m: "" if m.group() == "\\!" else " ", _GROUPING.sub("", answer)).split())
    for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            text = text[len(opening) : -len(closing)].strip()
    text = text.replace("\\left", "").replace("\\right", "").replace("dfrac", "frac").replace("tfrac", "frac")
    text = text.replace("\\$", "").removeprefix("$").removesuffix(".").strip()
    text = text.replace("{,}", ",")
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    return re.sub(r"(?<=[^\w]) | (?=[^\w])", "", text) if not MIXED.fullmatch(text) else text


_cached_normalise = lru_cache(maxsize=8192)(normalise)


def _signed(match: re.Match[str]) -> tuple[bool, str]:
    digits = match.group(2)
    return match.group(1) == "-" and digits != "0", digits
