"""Comparing short answers to questions: exact match, F1, containment, yes and no.

Texts are compared after the normalisation of SQuAD's evaluation, in the order of Search-R1's reward (arXiv 2503.09516):
lower case, punctuation (ASCII) removed, the words a, an and the removed, white space collapsed. There may be several
gold answers; the best one counts. Everything is linear in the length of the texts.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = frozenset({"a", "an", "the"})
_POLARITY = {"yes": True, "true": True, "no": False, "false": False}


def normalise(text: str) -> str:
    """Lower case, without punctuation and articles, single spaces.

    A text of which nothing would be left ("The The", "A", "?!") stays as it is in lower case, so that it equals itself
    and no other such text. (Our choice: Search-R1 takes all of these for equal.)
    """
    lower = text.lower()
    words = [word for word in lower.translate(_NO_PUNCTUATION).split() if word not in _ARTICLES]
    return " ".join(words) or " ".join(lower.split())


def exact_match(*, golds: Sequence[str], prediction: str) -> bool:
    """Whether the prediction equals one of the gold answers after normalisation. An empty text equals nothing."""
    found = normalise(prediction)
    return bool(found) and any(normalise(gold) == found for gold in golds)


def f1(*, golds: Sequence[str], prediction: str) -> float:
    """Harmonic mean of precision and recall of the words (as a multiset), 0 to 1; the best over the gold answers.

    As in HotpotQA's evaluation, nothing is partly right where prediction or gold answer is just yes or no.
    """
    return max((_f1(normalise(gold), normalise(prediction)) for gold in golds), default=0.0)


def _f1(gold: str, prediction: str) -> float:
    if gold == prediction:
        return float(bool(gold))
    if gold in _POLARITY or prediction in _POLARITY:
        return 0.0
    expected, found = gold.split(), prediction.split()
    common = (Counter(expected) & Counter(found)).total()
    # 2PR/(P+R) with P = common/|found| and R = common/|expected|
    return 2 * common / (len(expected) + len(found)) if common else 0.0


def cover_match(*, golds: Sequence[str], prediction: str, whole_words: bool = True) -> bool:
    """Whether the prediction contains one of the gold answers (both normalised).

    Args:
        golds, prediction: the texts.
        whole_words: a gold answer "no" is not found in "unknown"; False compares characters, as Search-R1's code does.
    """
    edge = " " if whole_words else ""
    text = f"{edge}{normalise(prediction)}{edge}"
    return any(f"{edge}{form}{edge}" in text for form in map(normalise, golds) if form)


def polarity(text: str) -> bool | None:
    """True for yes, False for no, None where the text does not say or says both.

    The first word decides (yes, no, true, false); a later yes or no that contradicts it makes the text unclear.
    """
    words = normalise(text).split()
    first = _POLARITY.get(words[0]) if words else None
    contradicted = ("no" if first else "yes") in words
    return None if contradicted else first
