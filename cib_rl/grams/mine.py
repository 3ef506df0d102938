"""Mining strategic grams from right solutions: what is said in many of them, one meaning at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil
from typing import Any

import numpy as np

from cib_rl.errors import UserError
from cib_rl.grams.lexicon import VERSION
from cib_rl.grams.match import GramMatcher, words

_BUCKETS = 2**24
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_EXAMPLES, _AROUND = 2, 40  # how many are shown of a gram, and how many characters on each side

Embed = Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class MiningSettings:
    """How grams are mined. HICRA (arXiv 2509.03646, §2.1) gives n from 3 to 5 and the top 20% of clusters; the rest is
    ours, as is that n counts words.

    Attributes:
        shortest, longest: words of a gram. A gram holds no punctuation and no digits (ours).
        min_solutions: grams of fewer solutions are dropped before anything is embedded.
        clusters: K of k-means over the embeddings.
        top: share of the clusters that is kept, those that most solutions speak of.
        max_per_solution: grams that stand more often than this, on average, in a solution that has them are dropped
            (the paper asks for grams that are sparse within one solution, and gives no rule); None: no limit.
        seed: of k-means.
    """

    shortest: int = 3
    longest: int = 5
    min_solutions: int = 5
    clusters: int = 100
    top: float = 0.2
    max_per_solution: float | None = None
    seed: int = 0


@dataclass
class Found:
    """One gram: the solutions it stands in (numbers, rising), and how often in all."""

    solutions: list[int] = field(default_factory=list)
    occurrences: int = 0


def mine(solutions: Sequence[str], embed: Embed, settings: MiningSettings) -> dict[str, Any]:
    """The content of a grams file (see `load_grams`): grams by cluster, the most spoken-of first.

    Args:
        solutions: right solutions.
        embed: texts -> (N, D) embeddings.

    Raises:
        UserError: no gram stands in enough solutions.
    """
    grams = frequent_grams(solutions, settings)
    if not grams:
        raise UserError(
            f"grams: no {settings.shortest} to {settings.longest} words stand together in {settings.min_solutions} of "
            f"the {len(solutions)} solutions; lower --min-solutions or give more solutions"
        )
    names = sorted(grams)
    cluster_G = cluster(embed(names), settings)
    members = [np.flatnonzero(cluster_G == c) for c in range(int(cluster_G.max()) + 1)]
    spoken = [len({s for g in own for s in grams[names[g]].solutions}) for own in members]
    kept = sorted(range(len(members)), key=lambda c: (-spoken[c], c))[: ceil(settings.top * len(members))]
    entries = [
        {
            "gram": names[g],
            "cluster": rank,
            "cluster_solutions": spoken[c],
            "solutions": len(grams[names[g]].solutions),
            "per_solution": round(grams[names[g]].occurrences / len(grams[names[g]].solutions), 3),
            "examples": _examples(names[g], solutions, grams[names[g]]),
        }
        for rank, c in enumerate(kept)
        for g in sorted(members[c], key=lambda g: -len(grams[names[g]].solutions))
    ]
    counted = {"solutions": len(solutions), "grams_embedded": len(names), "clusters_found": len(members)}
    return {"version": VERSION, "settings": asdict(settings) | counted, "grams": entries}


def edited(content: dict[str, Any], add: Sequence[str], ban: Sequence[str]) -> dict[str, Any]:
    """A grams file with phrases added and others, however they are written, left out; both are noted in it."""
    banned = {_key(phrase) for phrase in ban}
    kept = [entry for entry in content["grams"] if _key(entry["gram"]) not in banned]
    there = {_key(entry["gram"]) for entry in kept}
    kept += [{"gram": phrase, "cluster": None} for phrase in add if _key(phrase) not in there]
    return content | {"grams": kept, "settings": content["settings"] | {"added": list(add), "banned": list(ban)}}


def _key(phrase: str) -> tuple[str, ...]:
    return tuple(word for word, _, _ in words(phrase))


def frequent_grams(solutions: Sequence[str], settings: MiningSettings) -> dict[str, Found]:
    """The grams of at least `min_solutions` solutions.

    Two passes: the first counts solutions per hash of a gram, in an array of fixed size; the second counts exactly,
    and only grams whose hash was seen often enough. So memory grows with what is frequent, not with all that is said.
    """
    numbers: dict[str, int] = {}
    texts = [_word_numbers(text, numbers) for text in solutions]
    counts = np.zeros(_BUCKETS, dtype=np.uint32)
    for ids in texts:
        counts[np.unique(np.concatenate([bucket for _, _, bucket in _windows(ids, settings)]))] += 1
    by_number = list(numbers)
    found: dict[tuple[int, ...], Found] = {}
    for number, ids in enumerate(texts):
        for n, start, bucket in _windows(ids, settings):
            for at in start[counts[bucket] >= settings.min_solutions].tolist():
                gram = found.setdefault(tuple(ids[at : at + n].tolist()), Found())
                gram.occurrences += 1
                if not gram.solutions or gram.solutions[-1] != number:
                    gram.solutions.append(number)
    most = settings.max_per_solution or np.inf
    return {
        " ".join(by_number[i - 1] for i in key): gram
        for key, gram in found.items()
        if len(gram.solutions) >= settings.min_solutions and gram.occurrences <= most * len(gram.solutions)
    }


def cluster(embedding_GD: np.ndarray, settings: MiningSettings) -> np.ndarray:
    """The cluster of each gram, shape (G,), by k-means over unit vectors. The paper names no algorithm."""
    from sklearn.cluster import KMeans

    unit_GD = embedding_GD / np.maximum(np.linalg.norm(embedding_GD, axis=1, keepdims=True), 1e-12)
    k = min(settings.clusters, len(np.unique(unit_GD, axis=0)))
    labels: np.ndarray = KMeans(k, random_state=settings.seed, n_init=3).fit_predict(unit_GD)
    return labels


def _word_numbers(text: str, numbers: dict[str, int]) -> np.ndarray:
    """The text's words as numbers from 1 on; 0 for what no gram may hold: punctuation and digits."""
    return np.array(
        [
            numbers.setdefault(word, len(numbers) + 1) if word[0].isalpha() and not _has_digit(word) else 0
            for word, _, _ in words(text)
        ],
        dtype=np.uint64,
    )


def _has_digit(word: str) -> bool:
    return any(c.isdigit() for c in word)


def _windows(ids: np.ndarray, settings: MiningSettings) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(n, where grams of n words start, their hashes) for each n."""
    breaks = np.concatenate([[0], np.cumsum(ids == 0)])
    for n in range(settings.shortest, settings.longest + 1):
        start = np.flatnonzero(breaks[n:] == breaks[:-n]) if len(ids) >= n else np.zeros(0, dtype=np.intp)
        hashed = np.full(len(start), n, dtype=np.uint64)
        for k in range(n):
            hashed = (hashed ^ ids[start + k]) * _MULTIPLIER
            hashed ^= hashed >> np.uint64(29)
        yield n, start, (hashed % np.uint64(_BUCKETS)).astype(np.intp)


def _examples(gram: str, solutions: Sequence[str], found: Found) -> list[str]:
    matcher, shown = GramMatcher([gram]), []
    for number in found.solutions[:_EXAMPLES]:
        text = solutions[number]
        match = matcher.find(text)[0]
        around = text[max(0, match.start - _AROUND) : match.end + _AROUND]
        shown.append(" ".join(around.split()))
    return shown
