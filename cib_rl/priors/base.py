"""The contract of a prior Q(Z): nats per token of a completion that it sees without the prompt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cib_rl.plugin import number_in
from cib_rl.trajectory import Trajectory

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class PriorRequest:
    """All that a prior is given of one episode. The prompt has no place in it.

    Attributes:
        ids: completion ids of all segments, in order. Shape (T,). Several segments count as one trace: the chain rule
            then gives one distribution over the whole of it.
        policy_mask: 1 where the policy sampled the token, 0 where the environment wrote it. Shape (T,).
        values: the numbers of the task columns that the prior names in `columns`.
    """

    ids: tuple[int, ...]
    policy_mask: tuple[int, ...]
    values: dict[str, float] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """Number of policy tokens."""
        return sum(self.policy_mask)


class Prior(ABC):
    """A law over completions. A new prior is one class with `surprisal`, made from keywords and a `RewardContext`.

    `columns`: names of task columns it needs; they must hold numbers.
    """

    columns: tuple[str, ...] = ()

    def check_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raises PluginError for a task row without a number in one of `columns`. Called once, before training."""
        for row in rows:
            for column in self.columns:
                number_in(row, column, who="the prior")

    @abstractmethod
    def surprisal(self, requests: Sequence[PriorRequest]) -> list[FloatArray]:
        """−log Q(z_t | z_<t) in nats for the policy tokens of each request, each of shape (num_tokens,).

        Environment tokens are never scored. Sums over a completion are −log Q(z) up to a constant that depends on
        `values` alone.
        """


def requests_from(trajectories: Sequence[Trajectory], columns: Sequence[str] = ()) -> list[PriorRequest]:
    """What priors get to see of trajectories: completion ids, mask, and the numbers in `columns`.

    Raises PluginError for a missing column and for one that holds no number; both name the row.
    """
    requests = []
    for t in trajectories:
        values = {column: number_in(t.task, column, who="the prior") for column in columns}
        requests.append(PriorRequest(tuple(t.completion_ids), tuple(t.policy_mask), values))
    return requests
