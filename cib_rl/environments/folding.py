"""What a text can be taken for: one form for all the ways to write the same letters."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

_UNIT = re.compile(r"&(?:lt|gt|sol|#\d{1,7}|#x[0-9a-f]{1,6});?|.", re.IGNORECASE | re.DOTALL)
_UNSEEN = {"Mn", "Me", "Cf", "Cs"}  # accents and enclosures, zero-width and formatting characters, lone surrogates
_FILLERS = set("\u115f\u1160\u3164\uffa0\u2800")  # letters by category, blank by looks
_HALF = re.compile("[\ud800-\udfff]")
_CONTROLS = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f"  # all but tab, line feed, carriage return, next line
    "\u202a-\u202e\u2066-\u2069"  # order of display, overridden
    "\ufff9-\ufffb\U000e0000-\U000e007f]"  # annotations; tags: ASCII that no screen shows and models read
)


def visible(text: str) -> str:
    """The text without characters that no reader sees as such: controls, tags, overridden direction; lone surrogates,
    which cannot be encoded or saved, become U+FFFD. Zero-width joiners and marks of direction stay: scripts need them.
    """
    if _HALF.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _CONTROLS.sub("", text)


def units(text: str) -> Sequence[str]:
    """The characters of a text; a character reference of HTML (`&lt;`, `&#60;`) is one."""
    return _UNIT.findall(text) if "&" in text else text


def fold(text: str) -> str:
    """The text in small letters of Unicode's compatibility form, without accents and what is not seen, references
    of HTML replaced: the same for `<search>`, `＜Ｓearch＞`, `<sea\u200brch>` and `&lt;search&gt;`. Folding two texts
    and joining them is folding them joined, references apart.
    """
    if text.isascii() and "&" not in text:
        return text.lower()  # the same, faster
    return "".join(map(_folded, units(text)))


@lru_cache(maxsize=1 << 16)
def _folded(unit: str) -> str:
    decomposed = unicodedata.normalize("NFKD", html.unescape(unit))
    seen = (c for c in decomposed if unicodedata.category(c) not in _UNSEEN and c not in _FILLERS)
    return "".join(seen).casefold()


def replace_folded(text: str, pattern: re.Pattern[str], mark: str) -> str:
    """The text with `mark` for each character that in the folded text is where the pattern's matches begin."""
    starts = {match.start() for match in pattern.finditer(fold(text))}
    if not starts:
        return text
    parts, at = [], 0
    for unit in units(text):
        size = len(_folded(unit))
        parts.append(mark if any(place in starts for place in range(at, at + size)) else unit)
        at += size
    return "".join(parts)
