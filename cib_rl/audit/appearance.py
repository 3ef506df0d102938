"""Where the answer of a completion first appears, before it is stated as the answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cib_rl.countdown.waste import classify

_NUMBER = re.compile(r"([-+]?)[$€£]?(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?%?")


def first_appearance(task: Mapping[str, Any], text: str, answer: str) -> int | None:
    """The end (in characters) of the first place in `text` where the answer is there; None where there is none.

    For a problem with `numbers` and a `target` that is the end of the first sentence that hits the target (see
    `countdown.waste`). Otherwise it is the answer itself: a number as a number of its own, whatever its thousands
    separators and trailing zeros; anything else letter by letter, white space apart. That can be by chance (a 5 on the
    way to the answer 5), so what follows it is at most what could be left out.
    """
    if "numbers" in task and "target" in task:
        return next((span.end for span in classify(text) if span.kind == "solution"), None)
    found = _pattern(answer).search(text)
    return found.end() if found else None


def given_in(prompt: Any, answer: str) -> bool:
    """Whether the prompt holds the answer already: then finding it in a completion says nothing."""
    texts = [prompt] if isinstance(prompt, str) else [str(message.get("content")) for message in prompt]
    pattern = _pattern(answer)
    return any(pattern.search(text) for text in texts)


def _pattern(answer: str) -> re.Pattern[str]:
    number = _NUMBER.fullmatch(answer.strip())
    if number is None:
        words = r"\s*".join(re.escape(piece) for piece in re.findall(r"\w+|[^\w\s]", answer))
        return re.compile(rf"(?<!\w){words}(?!\w)")
    sign, whole, decimals = number.groups()
    digits = whole.replace(",", "")
    grouped = f"{int(digits):,}".replace(",", ",?")
    fraction = (decimals or "").rstrip("0").rstrip(".")
    tail = rf"{re.escape(fraction)}0*" if fraction else r"(?:\.0+)?"
    # A minus belongs to the number only where no operand stands before it.
    before = r"(?<![\w)\]])(?<![\w)\]] )-" if sign == "-" else r"(?<![\d.,])(?<!\d[.,])"
    return re.compile(rf"{before}[$€£]?{grouped}{tail}(?![\d])(?![.,]\d)")
