"""The rate of a batch of completions: how much they tell about their prompts, at most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def rate_nats(surprisal_N: Sequence[float], entropy_N: Sequence[float]) -> float:
    """E[−log Q(Z)] − H(Z|X), in nats per completion: an upper bound on I(X;Z) (arXiv 2603.08462, eq. 11).

    Args:
        surprisal_N: −log Q(z) of each completion, summed over its policy tokens.
        entropy_N: −Σ_t log π(z_t | x, z_<t) of each, from the log-probabilities of the distribution it was sampled
            from; its mean estimates H(Z|X).

    Completions for which either is NaN are left out of both means; NaN when none is left. The estimate can be negative
    by chance; its expectation cannot, when Q is normalised.
    """
    gap = np.asarray(surprisal_N, dtype=np.float64) - np.asarray(entropy_N, dtype=np.float64)
    gap = gap[~np.isnan(gap)]
    return float(gap.mean()) if len(gap) else float("nan")
