"""The CIB reward: the log-probability of the trace under a prior that does not see the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from cib_rl.plugin import RewardContext, TokenRewards, reward
from cib_rl.priors import make_prior, requests_from
from cib_rl.spans import reasoning_mask
from cib_rl.trajectory import Trajectory


@reward("surprisal", kind="shaping")
class Surprisal:
    """Σ_t log Q(z_t | z_<t) over the policy's tokens, in nats: the cost of the trace under a blind prior.

    The minimality term of the conditional information bottleneck (arXiv 2603.08462, eq. 12 to 15); its coefficient β is
    the recipe's `weight`. With the defaults it is the paper's: a raw sum, for every completion, right or wrong
    (`only_when_correct: true` in the recipe limits it to right ones).

    Attaches to each trajectory the track named `track` (nats per completion token, whichever tokens count; 0 on
    environment tokens) and the diagnostics `<track>` (nats per completion) and `<track>_per_token`.

    Args:
        prior: `{name: language_model, model: …}`, `{name: uniform}`, `{name: laplace, target: …}` or one of your own;
            `cib-rl rewards language_model` shows the further keys of that prior.
        tokens: which policy tokens count: `all`, `reasoning` (inside the think tags, which count too; all where there
            are none) or `no_special` (neither special nor added tokens).
        normalize: `length` divides by the number of tokens that count.
        per_token: return one number per policy token instead of the sum.
        track: name of track and diagnostics; of two such rewards each needs its own. `rate_nats` in the log is of the
            one named `surprisal`.
    """

    def __init__(
        self,
        *,
        prior: dict[str, Any],
        tokens: Literal["all", "reasoning", "no_special"] = "all",
        normalize: Literal["none", "length"] = "none",
        per_token: bool = False,
        track: str = "surprisal",
        context: RewardContext,
    ) -> None:
        self.prior = make_prior(prior, context)
        self.tokens, self.normalize, self.per_token, self.track = tokens, normalize, per_token, track
        self.tokenizer = context.tokenizer
        self.special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.get_added_vocab().values())

    def __call__(self, trajectories: list[Trajectory]) -> list[float | TokenRewards]:
        costs = self.prior.surprisal(requests_from(trajectories, self.prior.columns))
        return [self._reward(t, cost) for t, cost in zip(trajectories, costs, strict=True)]

    def check_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raises PluginError for a task row that lacks what the prior reads in it."""
        self.prior.check_rows(rows)

    def _reward(self, trajectory: Trajectory, cost_T: np.ndarray) -> float | TokenRewards:
        """One trajectory's reward from its nats per policy token."""
        if cost_T.shape != (trajectory.num_tokens,) or not np.isfinite(cost_T).all():
            raise ValueError(
                f"the prior gave {cost_T.shape} values, not all of them finite, for {trajectory.num_tokens} tokens"
            )
        self._attach(trajectory, cost_T)
        counted = self._counted(trajectory)
        values = -np.where(counted, cost_T, 0.0)
        if self.normalize == "length":
            values = values / max(1, int(counted.sum()))
        return TokenRewards(values.tolist()) if self.per_token else float(values.sum())

    def _counted(self, trajectory: Trajectory) -> np.ndarray:
        """Which policy tokens count, (num_tokens,) bool."""
        if self.tokens == "reasoning":
            return np.asarray(reasoning_mask(trajectory, self.tokenizer), dtype=bool)
        if self.tokens == "no_special":
            return np.asarray([i not in self.special for i in trajectory.policy_ids], dtype=bool)
        return np.ones(trajectory.num_tokens, dtype=bool)

    def _attach(self, trajectory: Trajectory, cost_T: np.ndarray) -> None:
        track = np.zeros(len(trajectory.policy_mask))
        track[np.asarray(trajectory.policy_mask, dtype=bool)] = cost_T
        trajectory.set_track(self.track, track.tolist())
        trajectory.diagnostics[self.track] = float(cost_T.sum())
        trajectory.diagnostics[f"{self.track}_per_token"] = float(cost_T.mean()) if len(cost_T) else 0.0
