"""Placebo grams: random phrases as long and as frequent as the strategic ones, to tell what HICRA owes to its grams."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any

import numpy as np

from cib_rl.errors import UserError
from cib_rl.grams.coverage import coverage
from cib_rl.grams.lexicon import VERSION
from cib_rl.grams.match import GramMatcher, words
from cib_rl.grams.mine import MiningSettings, frequent_grams

_NEAR = 1.25  # document frequencies within this factor count as the same


def placebo(grams: Sequence[str], solutions: Sequence[str], *, min_solutions: int = 5, seed: int = 0) -> dict[str, Any]:
    """The content of a grams file (see `load_grams`) with one random n-gram for each strategic gram.

    HICRA's placebo is random n-grams (arXiv 2509.03646, its ICLR version); how they are drawn is ours: for each
    strategic gram, the most frequent first, one of the n-grams of as many words whose document frequency is within a
    factor of 1.25, at random, or where there is none, one of the nearest. None is drawn twice. An n-gram is a candidate
    where no occurrence of it in the solutions has a word in common with an occurrence of a strategic gram; it holds no
    punctuation and no digits, as a mined gram.

    A strategic gram has no partner, which the settings count, where it holds punctuation or digits, or stands in fewer
    than `min_solutions` solutions: it is too rare to matter. `word_share` and `like_word_share` in the settings say
    which share of the solutions' words the placebo and the strategic grams cover: grams that overlap cover less.

    Raises:
        UserError: no strategic gram is frequent enough, or there are too few candidates of its number of words.
    """
    names = list(dict.fromkeys(" ".join(word for word, _, _ in words(gram)) for gram in grams))
    lengths = [len(name.split()) for name in names]
    settings = MiningSettings(min(lengths), max(lengths), min_solutions)
    everywhere = frequent_grams(solutions, settings)
    wanted = sorted((n for n in names if n in everywhere), key=lambda n: (-len(everywhere[n].solutions), n))
    if not wanted:
        raise UserError(
            f"placebo: none of the {len(names)} grams stands in {min_solutions} of the {len(solutions)} solutions; "
            "give the solutions that they were mined from, or lower --min-solutions"
        )
    matcher = GramMatcher(names)
    outside = frequent_grams([_without(text, matcher) for text in solutions], settings)
    free = {
        name: len(found.solutions)
        for name, found in sorted(outside.items())
        if found.occurrences == everywhere[name].occurrences
    }
    rng, entries = np.random.default_rng(seed), []
    for name in wanted:
        frequency, n = len(everywhere[name].solutions), len(name.split())
        candidates = [other for other in free if len(other.split()) == n]
        if not candidates:
            raise UserError(
                f"placebo: of {n} words, fewer n-grams keep apart from the strategic ones than there are of these "
                f"({sum(len(w.split()) == n for w in wanted)}); give more solutions or lower --min-solutions"
            )
        distance = np.array([abs(log(free[other] / frequency)) for other in candidates])
        near = np.flatnonzero(distance <= max(log(_NEAR), distance.min()))
        drawn = candidates[int(rng.choice(near))]
        entries.append({"gram": drawn, "solutions": free.pop(drawn), "like": name, "like_solutions": frequency})
    counted = {
        "seed": seed,
        "min_solutions": min_solutions,
        "solutions": len(solutions),
        "without_partner": len(names) - len(wanted),
        "word_share": round(coverage([str(entry["gram"]) for entry in entries], solutions).word_share, 5),
        "like_word_share": round(coverage(wanted, solutions).word_share, 5),
    }
    return {"version": VERSION, "settings": counted, "grams": entries}


def _without(text: str, matcher: GramMatcher) -> str:
    """The text with a mark of punctuation, which no n-gram crosses, for each gram in it."""
    parts, at = [], 0
    for match in matcher.find(text):
        parts += [text[at : match.start], " . "]
        at = max(at, match.end)
    return "".join([*parts, text[at:]])
