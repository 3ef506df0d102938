"""HICRA: more credit for the tokens that plan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import torch
from pydantic import Field

from cib_rl.errors import UserError
from cib_rl.grams import GramMatcher, load_grams
from cib_rl.grams.mark import find_planning
from cib_rl.grams.measure import FOLLOW_NGRAM, FOLLOW_WINDOW, GramCounts, gram_metrics
from cib_rl.plugin import RewardContext, Scores
from cib_rl.trajectory import Trajectory

logger = logging.getLogger(__name__)

Tokens = Literal["grams", "high_entropy"]
_FEW = 0.01  # share of completions with a gram below which grams are said to be the wrong ones


class Hicra:
    """A + α·|A| on planning tokens, A elsewhere.

    HICRA (arXiv 2509.03646, §3): a positive advantage counts (1 + α) times on a planning token, a negative one (1 − α)
    times: credit is raised and blame dampened. The paper puts it on GRPO's advantages; here it takes those of whatever
    stages come before. The sum over a group is then no longer 0: grams get more frequent even where they say nothing
    about success (an analysis of ours, not the paper's); `mean_preserving` takes that away.

    The controls the paper compares with, for Qwen2.5-7B-Base on AIME24 / AIME25 (its ICLR 2026 version; no seeds, no
    intervals): GRPO 16.3 / 11.4, HICRA 18.8 / 14.8, placebo (random n-grams for grams) 14.6 / 9.3, high-entropy tokens
    for planning ones 15.8 / 11.4. A placebo is another file of grams (`cib-rl grams placebo`).

    The track `planning` of each trajectory is set to the marks of grams, and with `high_entropy` the track
    `high_entropy` to those tokens. Where there are grams, what they tell is logged (see `gram_metrics`).

    Args:
        grams: strategic grams: a file (JSON or one phrase per line), `shipped`, or the phrases themselves (see
            `load_grams`). With `tokens: high_entropy` they are measured only and may be left out.
        alpha: α; the paper uses 0.2.
        tokens: which tokens get it: those of `grams`, or `high_entropy`: the ⌊share · T⌋ of the T policy tokens of a
            completion at which the policy's entropy is highest, the earlier of equals.
        share: of `high_entropy`: the paper's Fig. 10 takes the top 30%.
        mean_preserving: subtract from all policy tokens of a group what keeps its mean (see `mean_preserved`).
        measure_entropy: log the policy's entropy on planning and on execution tokens with `tokens: grams`, too. It
            comes with the pass for old log-probabilities, which is run for this alone where nothing else needs it.
        follow_ngram, follow_window: what counts as following a gram (see `GramCounts.add`).

    Raises UserError for grams that cannot be read, for values out of range, and, when called, without a tokenizer or,
    where entropies are needed, without them.
    """

    def __init__(
        self,
        *,
        grams: str | list[str] | None = None,
        alpha: float = 0.2,
        tokens: Tokens = "grams",
        share: Annotated[float, Field(gt=0, le=1)] = 0.3,
        mean_preserving: bool = False,
        measure_entropy: bool = False,
        follow_ngram: Annotated[int, Field(ge=1)] = FOLLOW_NGRAM,
        follow_window: Annotated[int, Field(ge=1)] = FOLLOW_WINDOW,
        context: RewardContext,
    ) -> None:
        if grams is None and tokens == "grams":
            raise UserError("hicra needs the keyword 'grams': a file of strategic grams, shipped, or phrases")
        if follow_window < follow_ngram:
            raise UserError(f"hicra: follow_window {follow_window} is below follow_ngram {follow_ngram}")
        self.alpha = check_alpha(alpha)
        self.tokens, self.share, self.mean_preserving = tokens, share, mean_preserving
        self.follow = {"ngram": follow_ngram, "window": follow_window}
        self.needs = frozenset({"entropy"}) if tokens == "high_entropy" or measure_entropy else frozenset()
        self.tokenizer = context.tokenizer
        self.matcher = GramMatcher(load_grams(grams, context.base_dir)) if grams is not None else None
        self._counts = GramCounts()  # of the last call
        self._judged = False  # whether grams are found often enough was said once

    def __call__(
        self, trajectories: Sequence[Trajectory], scores: Scores, advantages: list[np.ndarray]
    ) -> list[np.ndarray]:
        """`advantages`: one (T,) array per trajectory; new ones of the same shapes are returned."""
        if self.matcher is not None:
            self._mark(trajectories, scores.valid, self.matcher)
        if self.tokens == "high_entropy":
            for trajectory in trajectories:
                trajectory.set_track("high_entropy", _highest(trajectory, self.share).tolist())
        track = "planning" if self.tokens == "grams" else "high_entropy"
        credited = [
            hicra(advantage_T, np.asarray(t.tracks[track], dtype=bool), self.alpha)
            for t, advantage_T in zip(trajectories, advantages, strict=True)
        ]
        if self.mean_preserving:
            policy_N_T = [
                np.asarray(t.policy_mask, dtype=bool) & valid
                for t, valid in zip(trajectories, scores.valid, strict=True)
            ]
            credited = mean_preserved(credited, advantages, policy_N_T, [t.group for t in trajectories])
        return credited

    def metrics(self, gather: Callable[[list[Any]], list[Any]] = lambda parts: parts) -> dict[str, float]:
        """What the grams of the window that was just credited tell, over all processes (see `gram_metrics`)."""
        return gram_metrics(gather([self._counts])) if self.matcher is not None else {}

    def _mark(self, trajectories: Sequence[Trajectory], valid_N: np.ndarray, matcher: GramMatcher) -> None:
        """Set the track `planning`; count what was found in completions that did not fail."""
        if self.tokenizer is None:
            raise UserError("hicra finds grams in decoded text: it needs the policy's tokenizer")
        self._counts = GramCounts()
        for trajectory, valid in zip(trajectories, valid_N, strict=True):
            marks, runs = find_planning(trajectory, self.tokenizer, matcher)
            trajectory.set_track("planning", marks)
            if valid:
                self._counts.add(trajectory, marks, runs, **self.follow)
        if not self._judged and self._counts.completions:
            self._judged = True
            _warn_if_few(self._counts, len(matcher.grams))


def _warn_if_few(counts: GramCounts, grams: int) -> None:
    if counts.with_gram > _FEW * counts.completions:
        return
    marked, tokens = counts.planning.tokens, counts.planning.tokens + counts.execution.tokens
    logger.warning(
        "hicra: %d of the %d grams were found, in %d of the first %d completions (%d of %d tokens, %.2g%%): are they "
        "of this policy's style?",
        len(counts.grams), grams, counts.with_gram, counts.completions, marked, tokens, 100 * marked / max(tokens, 1),
    )  # fmt: skip


def _highest(trajectory: Trajectory, share: float) -> np.ndarray:
    if "entropy" not in trajectory.tracks:
        raise UserError(
            "hicra: tokens: high_entropy needs the policy's entropy of each token (track 'entropy'), which our trainer "
            "measures; here there is none"
        )
    return highest(np.asarray(trajectory.tracks["entropy"]), np.asarray(trajectory.policy_mask, dtype=bool), share)


def highest(value_T: np.ndarray, among_T: np.ndarray, share: float) -> np.ndarray:
    """True at the ⌊share · n⌋ highest values among the n positions where `among_T` is True, the earlier of equals.

    Shape (T,), bool.
    """
    (positions,) = np.nonzero(among_T)
    ranked = positions[np.argsort(-value_T[positions], kind="stable")]
    found_T = np.zeros(len(value_T), dtype=bool)
    found_T[ranked[: int(share * len(ranked) + 1e-9)]] = True
    return found_T


def mean_preserved(
    after: Sequence[np.ndarray], before: Sequence[np.ndarray], policy: Sequence[np.ndarray], groups: Sequence[int]
) -> list[np.ndarray]:
    """`after` minus one constant per group on its policy tokens, so that the group's mean is that of `before` (ours).

    What is kept: the mean over all tokens of the group where `policy` is True, each token weighing the same. So a loss
    that averages over tokens (dapo) is pushed towards grams by their link with success alone; one that averages over
    completions first (grpo) nearly so, as do importance weights and masked truncated rows, which come later.

    Args:
        after, before: one (T,) array per trajectory.
        policy: bool arrays (T,): the policy's tokens in trajectories that count; others stay as in `after`.
        groups: the group of each trajectory. Whole groups are on one process, so nothing is gathered.
    """
    kept = list(after)
    for group in dict.fromkeys(groups):
        members = [i for i, own in enumerate(groups) if own == group]
        tokens = sum(int(policy[i].sum()) for i in members)
        pushed = sum(float((after[i] - before[i])[policy[i]].sum()) for i in members)
        for i in members:
            kept[i] = after[i] - policy[i] * (pushed / max(tokens, 1))
    return kept


Array = TypeVar("Array", np.ndarray, torch.Tensor)


def hicra(advantage: Array, planning: Array, alpha: float) -> Array:
    """A + α·|A| where `planning` (bool) is True, A elsewhere. Arrays or tensors of shapes that broadcast."""
    return advantage + alpha * abs(advantage) * planning


def check_alpha(alpha: float) -> float:
    """α itself. Raises UserError outside of 0 to 1: beyond 1 blame would turn into praise."""
    if not 0 <= alpha <= 1:
        raise UserError(f"hicra: alpha must be within 0 and 1, not {alpha!r}")
    return alpha
