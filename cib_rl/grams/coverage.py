"""How much of some texts strategic grams cover."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from cib_rl.grams.match import GramMatcher, words


@dataclass
class Coverage:
    """What grams cover of texts.

    Attributes:
        texts, with_gram: how many there are, and in how many any gram is found.
        words, covered: words, punctuation marks among them, and those that a gram stands on.
        found: gram -> how often it is found (one inside a longer one is not).
    """

    texts: int = 0
    with_gram: int = 0
    words: int = 0
    covered: int = 0
    found: Counter[str] = field(default_factory=Counter)

    @property
    def word_share(self) -> float:
        return self.covered / max(self.words, 1)


def coverage(grams: Sequence[str], texts: Sequence[str]) -> Coverage:
    """Count in one pass over the texts."""
    matcher, total = GramMatcher(grams), Coverage(len(texts))
    for text in texts:
        at, matches = 0, matcher.find(text)
        total.with_gram += bool(matches)
        total.found.update(matcher.grams[match.gram] for match in matches)
        for _, start, end in words(text):
            while at < len(matches) and matches[at].end <= start:
                at += 1
            total.covered += at < len(matches) and matches[at].start < end
            total.words += 1
    return total
