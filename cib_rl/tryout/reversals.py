"""Groups in which a wrong answer earns more than a right one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cib_rl.evals.statistics import Estimate, clustered_proportion
from cib_rl.samples.ranks import members_of
from cib_rl.tryout.measures import TOLERANCE


@dataclass(frozen=True)
class Reversal:
    """The worst pair of one group: the best paid wrong answer and the worst paid right one (indices); `gap` > 0 is how
    much more the wrong one earns."""

    group: int
    right: int
    wrong: int
    gap: float


@dataclass(frozen=True)
class Reversals:
    """Over groups that have a right and a wrong answer with a value.

    Attributes:
        mixed: how many groups that are.
        share: of them, those in which a wrong answer earns more than a right one; interval over problems.
        ties: how many further ones have a wrong answer that earns as much as a right one.
        worst: all of the reversed groups, the largest gap first.
    """

    mixed: int
    share: Estimate
    ties: int
    worst: list[Reversal]


def find_reversals(earned: NDArray[np.float64], correct: NDArray[np.bool_], groups: NDArray[np.intp]) -> Reversals:
    """Reversals by what completions earned. Shapes (N,); NaN earns nothing and is left out."""
    known = ~np.isnan(earned)
    gaps = []
    for members in members_of(groups):
        members = members[known[members]]
        right, wrong = members[correct[members]], members[~correct[members]]
        if len(right) and len(wrong):
            low, high = int(right[np.argmin(earned[right])]), int(wrong[np.argmax(earned[wrong])])
            gaps.append(Reversal(int(groups[low]), low, high, float(earned[high] - earned[low])))
    reversed_ = [gap.gap > TOLERANCE for gap in gaps]
    return Reversals(
        mixed=len(gaps),
        share=clustered_proportion(np.asarray(reversed_, float), np.arange(len(gaps))) if gaps else Estimate(None),
        ties=sum(abs(gap.gap) <= TOLERANCE for gap in gaps),
        worst=sorted((gap for gap in gaps if gap.gap > TOLERANCE), key=lambda gap: -gap.gap),
    )
