"""DAPO's soft overlong punishment: a ramp before the token limit."""

from __future__ import annotations

from pydantic import PositiveInt

from cib_rl.plugin import PluginError, RewardContext, reward
from cib_rl.trajectory import Trajectory


@reward("soft_overlong", kind="shaping")
class SoftOverlong:
    """0 up to limit − cache tokens, then falling in a line to −1 at the limit, and −1 beyond it.

    DAPO (arXiv 2503.14476), eq. 13, added to the outcome; n counts policy tokens. It keeps answers from being cut off;
    below the ramp it does not make them shorter.

    Wrong answers pay like right ones. With an outcome of weight 1 and a `weight` up to 1 no wrong answer outranks a
    right one (a right one at the limit ties with a short wrong one); with a larger weight it does.

    Args:
        limit: L_max, policy tokens; default: `environment.max_completion_length` (paper: 20480).
        cache: L_cache, the length of the ramp; default: a fifth of the limit, as in the paper (4096 of 20480).
    """

    def __init__(
        self, *, limit: PositiveInt | None = None, cache: PositiveInt | None = None, context: RewardContext
    ) -> None:
        self.limit = limit or context.max_completion_length
        if self.limit < 1:
            raise PluginError("reward soft_overlong: no limit; give `limit`, a number of tokens")
        self.cache = cache or max(1, self.limit // 5)
        if self.cache > self.limit:
            raise PluginError(f"reward soft_overlong: cache ({self.cache}) is longer than the limit ({self.limit})")

    def __call__(self, trajectories: list[Trajectory]) -> list[float]:
        start = self.limit - self.cache
        return [-min(max(t.num_tokens - start, 0) / self.cache, 1.0) for t in trajectories]
