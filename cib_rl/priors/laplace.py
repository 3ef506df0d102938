"""The Laplace prior: a law on length alone, centred on a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cib_rl.plugin import PluginError, RewardContext, column_of, number_in
from cib_rl.priors.base import FloatArray, Prior, PriorRequest


class LaplacePrior(Prior):
    """Q(Z) ∝ exp(−|n − target|), n the number of policy tokens: LCPO-Exact (arXiv 2603.08462, Prop. 4.2, eq. 17).

    Token t (from 1) costs |t − target| − |t − 1 − target|: −1 up to the target, +1 beyond it (in between where the
    target is no whole number). The sum over a completion is |n − target| − target; the constant −target (log of the
    law's normaliser left out) is the same for all completions of a prompt, so group baselines remove it.

    Args:
        target: policy tokens, at least 0, or `task.COLUMN` for a column of the task row.
    """

    def __init__(self, *, target: float | str, context: RewardContext) -> None:
        self.target: float | None = None
        if isinstance(target, str):
            self.columns = (column_of(target, who="prior laplace"),)
        else:
            self.target = _checked(target)

    def check_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raises PluginError for a task row whose target is no number of tokens."""
        for row in rows:
            for column in self.columns:
                number_in(row, column, who="prior laplace", least=0)

    def surprisal(self, requests: Sequence[PriorRequest]) -> list[FloatArray]:
        results = []
        for request in requests:
            target = self.target if self.target is not None else _checked(request.values[self.columns[0]])
            results.append(np.diff(np.abs(np.arange(request.num_tokens + 1) - target)))
        return results


def _checked(target: float) -> float:
    if not np.isfinite(target) or target < 0:
        raise PluginError(f"prior laplace: target must be a number of tokens, at least 0, got {target!r}")
    return float(target)
