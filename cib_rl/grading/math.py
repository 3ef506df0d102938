"""Is a mathematical answer equal to the gold answer? A fast path in this process, math-verify in worker processes.

Both sides are single answers (see `answers.py`), never whole completions: math-verify's own search for an answer in
running text is not used. Its signal-based time limits are off, because they fail outside the main thread; the pool's
hard limit takes their place.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from cib_rl.grading.pool import RIGHT, WRONG, Grade, GradingPool

MAX_CHARACTERS = 2000  # a longer prediction is wrong unless it is literally the gold answer

_SPACE = re.compile(r"(?<!\\)\\[!,;: ]")  # not the second half of a line break
_INTEGER = re.compile(r"([-+]?)0*(\d+)")
_THOUSANDS = re.compile(r"([-+]?\d{1,3})((?:,\d{3})+)(\.\d+)?")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\{([^{}]*)\}")
_MIXED = re.compile(r"([-+]?\d+) +(?:(\d+)/(\d+)|(\\frac\{\d+\}\{\d+\}))")
_BASE = re.compile(r"\d_\{?(\d+)\}?")
_TWO_NUMBERS = re.compile(r"\d +[\d.]")


class MathGrader:
    """Grades answers; equal pairs are graded once. Close it, or leave that to the end of the process.

    Args:
        workers, timeout, memory_mb: see `GradingPool`; no worker starts unless the fast path fails on some answer.
    """

    def __init__(self, *, workers: int = 2, timeout: float = 5.0, memory_mb: int = 2048) -> None:
        self.pool = GradingPool("cib_rl.grading.math:full_grade", workers=workers, timeout=timeout,
                                memory_mb=memory_mb)

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
    """The answer without what never changes its meaning: math delimiters, sizes, spacing, thousands separators.

    Space between digits stays, so that 1 1/2 does not become 11/2.
    """
    text = " ".join(_SPACE.sub(lambda m: "" if m.group() == "\\!" else " ", answer.replace(",\\!", "")).split())
    for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            text = text[len(opening) : -len(closing)].strip()
    text = text.replace("\\left", "").replace("\\right", "").replace("dfrac", "frac").replace("tfrac", "frac")
    text = text.replace("\\$", "").removeprefix("$").removesuffix(".").strip()
    text = text.replace("{,}", ",")
    whole_text = _TEXT.fullmatch(text)
    if whole_text:
        text = whole_text.group(1).strip()
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    return re.sub(r"(?<=[^\w]) | (?=[^\w])", "", text) if not _MIXED.fullmatch(text) else text


_cached_normalise = lru_cache(maxsize=8192)(normalise)


def _signed(match: re.Match[str]) -> tuple[bool, str]:
    digits = match.group(2)
    return match.group(1) == "-" and digits != "0", digits


# --- in the worker process -------------------------------------------------------------------------------------------


class Unreadable(ValueError):
    """The gold answer cannot be parsed."""


def full_grade(*, gold: str, prediction: str) -> bool:
    """Whether math-verify finds the two equal. Runs in a worker: it may take forever, or all memory.

    A prediction that cannot be parsed is wrong; a gold answer that cannot be parsed raises Unreadable.
    """
    expected = _parse_gold(gold)
    if not expected:
        raise Unreadable(f"the gold answer {gold[:80]!r} cannot be read")
    actual = _parse(prediction)
    if not actual or not _same_bases(gold, prediction):
        return False
    return _equal(expected, actual) and ("=" in gold or _sides_agree(prediction))


def _equal(expected: list[Any], actual: list[Any]) -> bool:
    from math_verify import verify

    return bool(verify(expected, actual, timeout_seconds=None, raise_on_error=True))


def _sides_agree(prediction: str) -> bool:
    """False for 5 = 72. Of an equation math-verify compares only the last side: fine for x = 72 and a + b = 72.

    Sides without a variable are compared here; several equations (with a comma) are compared as a set by math-verify.
    """
    *sides, last = prediction.split("=")
    if not sides or "," in prediction:
        return True
    value = _parse(last)
    return all(_equal(value, side) for side in map(_parse, sides) if side and _is_number(side[0]))


def _is_number(value: Any) -> bool:
    from sympy import Basic
    from sympy.core.function import AppliedUndef

    return isinstance(value, Basic) and not value.free_symbols and not value.has(AppliedUndef)


def _same_bases(gold: str, prediction: str) -> bool:
    # math-verify drops the subscript of 72_8; only an answer that names another base is another number.
    first, second = _BASE.findall(gold), _BASE.findall(prediction)
    return not first or not second or first == second


def _parse(answer: str) -> list[Any]:
    """The parsed answer in a list, which is empty when it cannot be read."""
    from math_verify import LatexExtractionConfig, parse

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its time limits are off
    text = normalise(answer).replace("$", "")
    text = _MIXED.sub(lambda m: m.group(1) + (m.group(4) or f"\\frac{{{m.group(2)}}}{{{m.group(3)}}}"), text)
    if not text or _TWO_NUMBERS.search(text) or not _balanced(text):
        return []  # two numbers side by side would be read as their sum, open braces as anything
    # In a box of its own the whole answer is read, or nothing; otherwise any number in it might be taken.
    config = LatexExtractionConfig(boxed_match_priority=0)
    boxed = f"\\boxed{{{text}}}"
    return list(parse(boxed, [config], "no_fallback", "first_match", parsing_timeout=None))


_parse_gold = lru_cache(maxsize=4096)(_parse)


def _balanced(text: str) -> bool:
    depth = 0
    for token in re.findall(r"\\.|[{}]", text, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(token, 0)
        if depth < 0:
            return False
    return depth == 0
