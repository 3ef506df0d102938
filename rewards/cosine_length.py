"""The cosine reward: right answers earn less, wrong ones lose less, the longer they are."""

from __future__ import annotations

import math

from pydantic import PositiveInt

from cib_rl.plugin import PluginError, RewardContext, reward, success
from cib_rl.trajectory import Trajectory


@reward("cosine_length", kind="shaping", needs_success=True, replaces_outcome=True)
class CosineLength:
    """long + ½(short − long)(1 + cos(π·n/limit)) with one pair (short, long) for right answers and one for wrong ones.

    Demystifying Long Chain-of-Thought Reasoning (arXiv 2502.03373), the cosine reward: from r_0 at no tokens to r_L at
    the limit, r_e for a completion that reaches it. n counts policy tokens. The value is that minus 1[right]: with a
    0/1 outcome of weight 1 and this at weight 1 the total is the paper's reward. The defaults are those of the released
    runs (right 2 to 1, wrong −10 to 0, −10 at the limit). A completion cut off by another limit counts as one that
    reached it (ours). The paper's repetition penalty is not part of it.

    Wrong answers are rewarded for being *longer*: it stabilises length, it is no plain penalty. Among completions that
    end before the limit no wrong answer outranks a right one while right values are above wrong ones, as by default; a
    right answer that reaches the limit gets r_e and is outranked by every wrong one that does not.

    Args:
        limit: L_max, policy tokens; default: `environment.max_completion_length`.
        right_short, right_long: r_0 and r_L of right answers.
        wrong_short, wrong_long: r_0 and r_L of wrong answers.
        at_limit: r_e.
    """

    def __init__(
        self,
        *,
        limit: PositiveInt | None = None,
        right_short: float = 2.0,
        right_long: float = 1.0,
        wrong_short: float = -10.0,
        wrong_long: float = 0.0,
        at_limit: float = -10.0,
        context: RewardContext,
    ) -> None:
        self.limit = limit or context.max_completion_length
        if self.limit < 1:
            raise PluginError("reward cosine_length: no limit; give `limit`, a number of tokens")
        self.right, self.wrong, self.at_limit = (right_short, right_long), (wrong_short, wrong_long), at_limit

    def __call__(self, trajectories: list[Trajectory]) -> list[float]:
        return [
            self._value(t, bool(right)) - float(right)
            for t, right in zip(trajectories, success(trajectories), strict=True)
        ]

    def _value(self, trajectory: Trajectory, right: bool) -> float:
        # Checked first: beyond the limit the cosine would rise again.
        if trajectory.num_tokens >= self.limit or trajectory.truncated:
            return self.at_limit
        short, long = self.right if right else self.wrong
        return long + 0.5 * (short - long) * (1 + math.cos(math.pi * trajectory.num_tokens / self.limit))
