"""L1-Max: right answers earn more the further they stay below a token target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import PositiveFloat

from cib_rl.plugin import PluginError, column_of, number_in, reward, success
from cib_rl.trajectory import Trajectory


@reward("l1_max", kind="shaping", needs_success=True, replaces_outcome=True)
class L1Max:
    """LCPO-Max: 1[right]·clip(α(target − n) + δ, 0, 1) with n policy tokens, as what it adds to the outcome.

    L1 (arXiv 2503.04697), eq. 2. The value is that minus 1[right], between −1 and 0: with a 0/1 outcome of weight 1 and
    this at weight 1 the total is the paper's reward.

    Wrong answers: 0 in total whatever their length. No wrong answer outranks a right one; a right one that is long
    enough ties with the wrong ones.

    The paper draws the target of each problem from 100 to 4000 and says it in the prompt ("Think for maximum N
    tokens."); that is for the data: `target: task.COLUMN`, and the sentence in the prompt column.

    Args:
        target: tokens, the same for all, or `task.COLUMN` for a column of the task row.
        alpha: slope per token. Not given in the paper for this form; 0.0003 is the one of LCPO-Exact (ours).
        delta: reward of a right answer exactly on target (paper: 0.5).
        slope: `paper`, or `half` for α/2: with δ = 0.5 the released code's (clip(α(target − n), −1, 1) + 1)/2.
    """

    def __init__(
        self,
        *,
        target: float | str,
        alpha: PositiveFloat = 0.0003,
        delta: float = 0.5,
        slope: Literal["paper", "half"] = "paper",
    ) -> None:
        self.column = column_of(target, who="reward l1_max") if isinstance(target, str) else None
        if not isinstance(target, str) and not 0 <= target < np.inf:
            raise PluginError(f"reward l1_max: target must be a number of tokens, at least 0, got {target!r}")
        self.target, self.delta = target, delta
        self.alpha = alpha if slope == "paper" else alpha / 2

    def __call__(self, trajectories: list[Trajectory]) -> list[float]:
        return [
            float(np.clip(self.alpha * (self._target(t.task) - t.num_tokens) + self.delta, 0, 1)) - 1 if right else 0.0
            for t, right in zip(trajectories, success(trajectories), strict=True)
        ]

    def check_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raises PluginError for a task row whose target is no number of tokens."""
        for row in rows:
            self._target(row)

    def _target(self, task: Mapping[str, Any]) -> float:
        if self.column is None:
            return float(self.target)
        return number_in(task, self.column, who="reward l1_max", least=0)
