"""Rewards as a reward manager of verl up to 0.7.0: the whole batch at once, with token ids and groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cib_rl.integrations.scorer import RewardSpec, Settings
from cib_rl.integrations.verl_data import positions_of, trajectories_of
from cib_rl.integrations.verl_scoring import VerlScorer, import_verl


def as_verl_manager(rewards: Sequence[RewardSpec], *, failure_score: float | None = None, **settings: Any) -> type:
    """A class for `verl.workers.reward_manager.register(NAME)`: `manager(data, return_dict)` scores a DataProto.

    verl calls such managers up to version 0.7.0 (`reward_model.reward_manager=NAME`); later ones still have the
    interface, but score with `as_verl_loop`'s.

    The weighted total stands on each completion's last token, rewards per token on their own tokens. A completion that
    could not be scored gets the mean of its group, so that it has no advantage (see `VerlScorer`).

    Args:
        rewards: the recipe's `rewards` list: names or mappings with `weight` and keywords.
        failure_score: for a completion that is alone in its group and cannot be scored; None: RewardFailure is raised.
        settings: answer, columns, success, max_completion_length, seed, base_dir, device, stop_after: see `Settings`.
            The tokenizer is verl's.

    Raises UserError where verl cannot be imported; and when verl makes an instance, for a reward that cannot be found
    or built.
    """
    base: Any = import_verl("verl.workers.reward_manager.abstract", "as_verl_manager").AbstractRewardManager

    class CibRewardManager(base):
        """Scores with cib-rl's rewards. `compute_score` and `num_examine` are not used."""

        def __init__(
            self,
            tokenizer: Any,
            num_examine: int,
            compute_score: Any = None,
            reward_fn_key: str = "data_source",
            **kwargs: Any,
        ) -> None:
            self.scorer = VerlScorer(rewards, Settings(tokenizer, **settings), failure_score)

        def __call__(self, data: Any, return_dict: bool = False) -> torch.Tensor | dict[str, Any]:
            """Rewards of shape (B, R), R the length of `responses`; with `return_dict` also each reward's values."""
            if "rm_scores" in data.batch.keys():  # noqa: SIM118 (a TensorDict does not take `in`)
                # As verl's own managers do: these are the rewards.
                rewards_BR = data.batch["rm_scores"]
                keys = data.meta_info.get("reward_extra_keys", [])
                info = {key: data.non_tensor_batch[key] for key in keys}
            else:
                rewards_BR, info = _score_batch(self.scorer, data)
            return {"reward_tensor": rewards_BR, "reward_extra_info": info} if return_dict else rewards_BR

    return CibRewardManager


def _score_batch(scorer: VerlScorer, data: Any) -> tuple[torch.Tensor, dict[str, list[float]]]:
    trajectories = trajectories_of(data, scorer.settings)
    totals, scores = scorer.score(trajectories)
    rewards_BR = torch.zeros(data.batch["responses"].shape, dtype=torch.float32, device=data.batch["responses"].device)
    for i, trajectory in enumerate(trajectories):
        positions = positions_of(data, i)
        rest = float(totals[i])
        per_token = scores.token_rewards[i]
        if per_token is not None:
            sampled = positions[torch.tensor(trajectory.policy_mask, dtype=torch.bool)]
            rewards_BR[i, sampled] = torch.tensor(per_token, dtype=torch.float32, device=rewards_BR.device)
            rest -= float(per_token.sum())
        # An empty completion has no last token; the sum over the row is all that verl reads of it then.
        rewards_BR[i, int(positions[-1]) if len(positions) else -1] += rest
    return rewards_BR, scorer.info(scores)
