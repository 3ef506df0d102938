"""The uniform prior: every token costs log|V|, which is the linear length penalty."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cib_rl.plugin import RewardContext
from cib_rl.priors.base import FloatArray, Prior, PriorRequest


class UniformPrior(Prior):
    """log|V| nats per policy token, |V| the number of entries of the policy's tokenizer.

    With weight β this is the linear penalty α·T with α = β·log|V| (arXiv 2603.08462, Prop. 4.1, eq. 16).
    """

    def __init__(self, *, context: RewardContext) -> None:
        self.nats = float(np.log(len(context.tokenizer)))

    def surprisal(self, requests: Sequence[PriorRequest]) -> list[FloatArray]:
        return [np.full(request.num_tokens, self.nats) for request in requests]
