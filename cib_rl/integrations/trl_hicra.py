"""HICRA in TRL's GRPO trainer: a mix-in that gives planning tokens more of the advantage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cib_rl.credit.hicra import check_alpha, hicra
from cib_rl.grams import GramMatcher, load_grams, mark_planning


class HicraMixin:
    """`class HicraGRPO(HicraMixin, GRPOTrainer): pass`, then `HicraGRPO(..., grams="grams.txt", alpha=0.2)`.

    TRL's loss takes one advantage per token, shape (B, T), from a subclass; all its loss types do. What TRL logs as the
    advantage stays its own number per completion. `hicra/planning_share` is logged: the share of the policy's tokens
    that a gram stands on.

    Args:
        grams: a file (JSON or one phrase per line), or the phrases (see `cib_rl.grams.load_grams`).
        alpha: A + α·|A| on planning tokens (see `cib_rl.credit.hicra.Hicra`).
        everything else: GRPOTrainer's.

    Raises UserError for grams that cannot be read or an α outside of 0 to 1.
    """

    def __init__(self, *args: Any, grams: str | Path | Sequence[str], alpha: float = 0.2, **kwargs: Any) -> None:
        self.hicra_matcher, self.hicra_alpha = GramMatcher(load_grams(grams)), check_alpha(alpha)
        super().__init__(*args, **kwargs)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        trainer: Any = self
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        processor = trainer.processing_class
        mask_BT = output["completion_mask"]
        policy_BT = mask_BT * output["tool_mask"] if "tool_mask" in output else mask_BT
        planning_BT = planning_tokens(
            output["completion_ids"], policy_BT, getattr(processor, "tokenizer", processor), self.hicra_matcher
        )
        advantages = output["advantages"]
        advantage_BT = advantages.unsqueeze(1) if advantages.dim() == 1 else advantages
        output["advantages"] = hicra(advantage_BT, planning_BT, self.hicra_alpha)
        counts = torch.stack([planning_BT.sum(), policy_BT.sum()]).float()
        marked, sampled = trainer.accelerator.gather(counts).view(-1, 2).sum(dim=0).tolist()
        mode = "train" if trainer.model.training else "eval"
        trainer._metrics[mode]["hicra/planning_share"].append(marked / max(sampled, 1.0))
        return output


def planning_tokens(
    ids_BT: torch.Tensor, policy_BT: torch.Tensor, tokenizer: Any, matcher: GramMatcher
) -> torch.Tensor:
    """True for each token that the policy sampled (`policy_BT` 1) and a gram stands on. Shape (B, T), bool.

    Padding, on the right, is where `policy_BT` is 0 up to the end of a row.
    """
    planning_BT = torch.zeros_like(policy_BT, dtype=torch.bool)
    for row, (ids_T, policy_T) in enumerate(zip(ids_BT.tolist(), policy_BT.tolist(), strict=True)):
        length = max((t for t, sampled in enumerate(policy_T, start=1) if sampled), default=0)
        marks = mark_planning(ids_T[:length], policy_T[:length], tokenizer, matcher)
        planning_BT[row, :length] = torch.tensor(marks, dtype=torch.bool, device=policy_BT.device)
    return planning_BT
