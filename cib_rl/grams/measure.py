"""What the strategic grams of a window tell: how varied they are, what follows them, how sure the policy is of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import islice
from math import exp, log, nan
from typing import Any

import numpy as np

from cib_rl.grams.mark import Run
from cib_rl.grams.match import words
from cib_rl.trajectory import Trajectory

# Our choice: HICRA gives neither. One word, because the estimate below needs many of each; a window, because the word
# right after a gram is mostly grammar.
FOLLOW_NGRAM, FOLLOW_WINDOW = 1, 4


@dataclass
class TokenSums:
    """Sums over tokens of one sort: log-probabilities and entropies in nats, and how many tokens have one."""

    tokens: int = 0
    logprob: float = 0.0
    with_logprob: int = 0
    entropy: float = 0.0
    with_entropy: int = 0

    def add(self, logprobs_N: np.ndarray, entropies_N: np.ndarray) -> None:
        """N tokens; NaN where there is no number."""
        self.tokens += len(logprobs_N)
        self.logprob += float(np.nansum(logprobs_N))
        self.with_logprob += int(np.isfinite(logprobs_N).sum())
        self.entropy += float(np.nansum(entropies_N))
        self.with_entropy += int(np.isfinite(entropies_N).sum())

    def __add__(self, other: TokenSums) -> TokenSums:
        return TokenSums(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def perplexity(self) -> float:
        """exp(−mean log-probability) of the sampled tokens; NaN without one."""
        return exp(-self.logprob / self.with_logprob) if self.with_logprob else nan

    @property
    def mean_entropy(self) -> float:
        return self.entropy / self.with_entropy if self.with_entropy else nan


@dataclass
class GramCounts:
    """What is counted of grams and of planning and execution tokens; counts of several processes add up (`+`).

    Attributes:
        completions, with_gram: how many there were, and in how many a gram was found.
        grams: the number of a gram -> how often it was found.
        following: (number of a gram, n-gram of words) -> how often it stood in the window after that gram.
        planning, execution: the policy's tokens that grams stand on, and all others of the policy.
    """

    completions: int = 0
    with_gram: int = 0
    grams: Counter[int] = field(default_factory=Counter)
    following: Counter[tuple[int, tuple[str, ...]]] = field(default_factory=Counter)
    planning: TokenSums = field(default_factory=TokenSums)
    execution: TokenSums = field(default_factory=TokenSums)

    def __add__(self, other: GramCounts) -> GramCounts:
        return GramCounts(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def add(
        self,
        trajectory: Trajectory,
        marks: Sequence[int],
        runs: Sequence[Run],
        *,
        ngram: int = FOLLOW_NGRAM,
        window: int = FOLLOW_WINDOW,
    ) -> None:
        """Count one completion, of which `find_planning` said `marks` (T,) and `runs`.

        Entropies are those of its track `entropy`, where it has one. What follows a gram are the n-grams of `ngram`
        words within the `window` words after it and within its run of policy tokens; punctuation is no word.
        """
        self.completions += 1
        self.with_gram += any(matches for _, matches in runs)
        for text, matches in runs:
            for match in matches:
                self.grams[match.gram] += 1
                after = (word for word, _, _ in words(text, match.end) if any(c.isalnum() for c in word))
                near = list(islice(after, window))
                for start in range(len(near) - ngram + 1):
                    self.following[match.gram, tuple(near[start : start + ngram])] += 1
        planning_T, policy_T = np.asarray(marks, dtype=bool), np.asarray(trajectory.policy_mask, dtype=bool)
        logprobs_T = np.asarray(trajectory.logprobs, dtype=np.float64)
        entropies_T = np.asarray(trajectory.tracks.get("entropy", np.full(len(marks), nan)))
        for sums, kept_T in ((self.planning, planning_T), (self.execution, policy_T & ~planning_T)):
            sums.add(logprobs_T[kept_T], entropies_T[kept_T])


def gram_metrics(parts: Sequence[GramCounts]) -> dict[str, float]:
    """The window's numbers from the counts of all processes; NaN where nothing was counted. Entropies are in nats.

    * `planning/share`: planning tokens among all of the policy; `planning/completions`: completions with any gram.
    * `planning/semantic_entropy_nats`: the entropy of the frequencies of grams, −Σ_g p(g) ln p(g) (HICRA, arXiv
      2509.03646, §2.2.2, gives no formula), from `planning/occurrences` grams.
    * `planning/conditional_entropy_nats`: of what follows a gram, given the gram: Σ_g p(g) H(F|g) = H(g, F) − H(g),
      over the pairs in `following`. It is the plug-in estimate, which is too low where pairs are few: compare windows
      of the same size.
    * `planning/perplexity`, `execution/perplexity`: exp(−mean ln π) of the sampled tokens at the sampling temperature,
      from the engine's log-probabilities. The paper shows them relative to the first step; plots divide by it.
    * `planning/entropy_nats`, `execution/entropy_nats`: mean entropy of the policy where there is a track `entropy`.
    """
    counts = reduce(GramCounts.__add__, parts, GramCounts())
    tokens = counts.planning.tokens + counts.execution.tokens
    followed: Counter[int] = Counter()
    for (gram, _), count in counts.following.items():
        followed[gram] += count
    metrics = {
        "planning/share": counts.planning.tokens / tokens if tokens else nan,
        "planning/completions": counts.with_gram / counts.completions if counts.completions else nan,
        "planning/occurrences": float(counts.grams.total()),
        "planning/semantic_entropy_nats": entropy_nats(counts.grams),
        "planning/conditional_entropy_nats": entropy_nats(counts.following) - entropy_nats(followed),
    }
    for name, sums in (("planning", counts.planning), ("execution", counts.execution)):
        metrics[f"{name}/perplexity"] = sums.perplexity
        if counts.planning.with_entropy + counts.execution.with_entropy:
            metrics[f"{name}/entropy_nats"] = sums.mean_entropy
    return metrics


def entropy_nats(counts: Mapping[Any, int] | Counter[Hashable]) -> float:
    """−Σ p ln p of relative frequencies; NaN of nothing."""
    total = sum(counts.values())
    return -sum(n / total * log(n / total) for n in counts.values() if n) if total else nan
