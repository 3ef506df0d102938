"""HICRA: more credit for the tokens that plan."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch

from cib_rl.errors import UserError
from cib_rl.grams import GramMatcher, load_grams, planning_mask
from cib_rl.plugin import RewardContext, Scores
from cib_rl.trajectory import Trajectory

logger = logging.getLogger(__name__)


class Hicra:
    """A + α·|A| on planning tokens, A elsewhere.

    HICRA (arXiv 2509.03646, §3): a positive advantage counts (1 + α) times on a planning token, a negative one (1 − α)
    times: credit is raised and blame dampened. The paper puts it on GRPO's advantages; here it takes those of whatever
    stages come before. The sum over a group is then no longer 0: grams get more frequent even where they say nothing
    about success (an analysis of ours, not the paper's).

    The track `planning` of each trajectory is set to the marks.

    Args:
        grams: strategic grams: a file (JSON or one phrase per line), or the phrases themselves (see `load_grams`).
        alpha: α; the paper uses 0.2.

    Raises UserError for grams that cannot be read, for an α outside of 0 to 1, and, when called, without a tokenizer.
    """

    def __init__(
        self,
        *,
        grams: str | list[str],
        alpha: float = 0.2,
        context: RewardContext,
    ) -> None:
        self.alpha = check_alpha(alpha)
        self.tokenizer = context.tokenizer
        self.matcher = GramMatcher(load_grams(grams, context.base_dir))
        self._unseen = True  # no gram was found so far

    def __call__(
        self, trajectories: Sequence[Trajectory], scores: Scores, advantages: list[np.ndarray]
    ) -> list[np.ndarray]:
        """`advantages`: one (T,) array per trajectory; new ones of the same shapes are returned."""
        if self.tokenizer is None:
            raise UserError("hicra finds grams in decoded text: it needs the policy's tokenizer")
        credited, marked = [], 0
        for trajectory, advantage_T in zip(trajectories, advantages, strict=True):
            planning = planning_mask(trajectory, self.tokenizer, self.matcher)
            trajectory.set_track("planning", planning)
            marked += sum(planning)
            credited.append(hicra(advantage_T, np.asarray(planning, dtype=bool), self.alpha))
        if self._unseen and not marked:
            logger.warning(
                "hicra: none of the %d grams was found in the first %d completions: are they of this policy's style?",
                len(self.matcher.grams), len(trajectories),
            )  # fmt: skip
        self._unseen = False
        return credited


Array = TypeVar("Array", np.ndarray, torch.Tensor)


def hicra(advantage: Array, planning: Array, alpha: float) -> Array:
    """A + α·|A| where `planning` (bool) is True, A elsewhere. Arrays or tensors of shapes that broadcast."""
    return advantage + alpha * abs(advantage) * planning


def check_alpha(alpha: float) -> float:
    """α itself. Raises UserError outside of 0 to 1: beyond 1 blame would turn into praise."""
    if not 0 <= alpha <= 1:
        raise UserError(f"hicra: alpha must be within 0 and 1, not {alpha!r}")
    return alpha
