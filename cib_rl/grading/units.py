"""Units behind a value: 72\\text{ cm} is 72, but 3t is not 3 and 72\\text{ million} is not 72."""

from __future__ import annotations

import re

_POWER = r"(?:\^ ?(?:[23]|\{[23]\}))?"
_IN_TEXT = r"\\(?:text(?:rm|bf|it|normal)?|math(?:rm|bf)|mbox) ?\{([^{}]*)\}"
_LONG = (
    "inch(?:es)? feet foot miles? yards? met(?:er|re)s? kilo(?:meter|metre|gram)s? centimet(?:er|re)s? units? degrees? "
    "seconds? minutes? hours? days? weeks? months? years? pounds? ounces? grams? lit(?:er|re)s? gallons? dollars? "
    "cents? points? people men women students? ways? times acres? hectares? tiles? coins? apples? digits?"
)
_SHORT = r"[mkcd]?m k?g mg m?[lL] s h hr sec min ft in yd mi lbs? oz mph km/h m/s"
_BARE = re.compile(rf"(?<=[\d}})])( ?(?:square|cubic|sq|cu))? ?(?:{'|'.join((_LONG + ' ' + _SHORT).split())}){_POWER}$")
_AT_END = re.compile(f"{_IN_TEXT}{_POWER}(?: ?/ ?{_IN_TEXT}{_POWER})?$")  # km, or km / h
_COMMAND = re.compile(_IN_TEXT + r"|\\[a-zA-Z]+")
_UNIT = re.compile(r"[a-zA-Z° ./'-]{0,40}(?:[²³]|\^[23]|\^\{[23]\})?[ .]*")
_WORD = re.compile(r"[a-z']+")
_PERCENT = frozenset({"percent", "percentage", "pct"})
_MEASURES = frozenset({"mm", "cm", "dm", "m", "km", "in", "ft", "yd", "mi", "mg", "g", "kg", "am", "pm"})
# Words that change the value before them, take it back or add to it.
_NO_UNITS = re.compile(
    "not|no|never|n?or|and|but|except|wrong|false|incorrect|isn't|maybe|if|for|when|(?:hundred|thousand|(?:m|b|tr)illion|"
    "dozen)s?|score|half|third|quarter|squared|cubed|factorial|plus|minus|over|divided|multiplied|less|more|base|"
    "mod(?:ulo)?|e|i|k|pi"
)


def different_units(gold: str, prediction: str) -> bool:
    """Whether both name a measure or half of the day in \\text{}, and not the same: cm and km, a.m. and p.m."""
    named = [(unit := _AT_END.search(text)) and re.sub("[ .]", "", unit.group(1)) for text in (gold, prediction)]
    return named[0] != named[1] and set(named) <= _MEASURES


def has_bare_letters(text: str) -> bool:
    """Whether letters stand in it outside commands and \\text{}: variables, as far as one can tell."""
    return any(c.isalpha() for c in _COMMAND.sub(" ", text))


def without_unit(text: str, *, bare: bool, kept: str = "") -> str:
    """The text without the unit at its end.

    Args:
        text: an answer.
        bare: also take off well-known units that stand there without \\text{}.
        kept: the gold answer; words in it are no reason to keep the text (both may be in millions).
    """
    unit = _AT_END.search(text)
    if unit is None or unit.start() == 0:
        return _BARE.sub("", text) if bare else text
    name = f"{unit.group(1)} {unit.group(2) or ''}"
    words = set(_WORD.findall(name.lower()))
    if words and words <= _PERCENT:
        return text[: unit.start()] + "\\%"
    changes_it = any(map(_NO_UNITS.fullmatch, words - set(_WORD.findall(kept.lower()))))
    return text if changes_it or not _UNIT.fullmatch(name) else text[: unit.start()].rstrip()
