"""Finding phrases in text, word by word."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import regex

# A word keeps its combining marks and inner apostrophes ("let's"); everything else that is seen is a word of its own.
_WORD = regex.compile(r"[\w\p{M}]+(?:['’][\w\p{M}]+)*|\S")


class Match(NamedTuple):
    """Characters `start:end` of the text are the phrase number `gram`."""

    start: int
    end: int
    gram: int


class GramMatcher:
    """Finds phrases whatever their capitals, the white space between their words, or the form of their accents.

    Only whole words count: "so" is not found in "solution", nor "let" in "let's". Where several phrases start at one
    word the longest wins; a phrase inside a longer one is not found; phrases that overlap otherwise are all found.

    Each word of the text is looked up once, plus once per length of the phrases that start with it.

    Args:
        grams: the phrases; `Match.gram` counts them from 0. Phrases that differ in capitals alone count as the first.
    """

    def __init__(self, grams: Sequence[str]) -> None:
        self.grams = list(grams)
        self._numbers: dict[tuple[str, ...], int] = {}
        lengths: dict[str, set[int]] = {}
        for number, gram in enumerate(self.grams):
            key = tuple(word for word, _, _ in words(gram))
            self._numbers.setdefault(key, number)
            lengths.setdefault(key[0], set()).add(len(key))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}  # longest first

    def find(self, text: str) -> list[Match]:
        """What is found, by rising start (and rising end)."""
        found: list[Match] = []
        there = list(words(text))
        keys = [word for word, _, _ in there]
        for i, (word, start, _) in enumerate(there):
            for length in self._lengths.get(word, ()):
                number = self._numbers.get(tuple(keys[i : i + length]))
                if number is not None and i + length <= len(there):
                    end = there[i + length - 1][2]
                    if not found or end > found[-1].end:
                        found.append(Match(start, end, number))
                    break
        return found


def words(text: str, start: int = 0) -> Iterator[tuple[str, int, int]]:
    """(the word as it is compared, start, end) for each word of the text, from character `start` on."""
    for match in _WORD.finditer(text, start):
        yield _compared(match.group()), match.start(), match.end()


def _compared(word: str) -> str:
    if word.isascii():
        return word.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", word).casefold()).replace("’", "'")
