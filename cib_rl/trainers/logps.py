"""Log-probabilities of a window's tokens: under the policy, its reference and, for comparison, the engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from cib_rl.credit.importance import importance_weights, merge_stats
from cib_rl.errors import UserError
from cib_rl.trainers.batch import Batch
from cib_rl.trainers.passes import Forward, like_length


class LogpsMixin:
    """The passes over a window, for a trainer with `recipe`, `credit` and TRL's parts."""

    recipe: Any
    credit: Any
    accelerator: Any
    args: Any
    model: Any
    state: Any
    beta: float
    ref_model: Any
    _metrics: Any
    _tokenizer: Any
    _window_index: int
    # Of the last pass with gradients: log-probabilities (B, T), and what else was read off it, (B, T) each.
    _fresh_logps_BT: torch.Tensor | None = None
    _more_of_passes: tuple[Any, ...] = ()

    @property
    def _several_updates(self) -> bool:
        return self.recipe.trainer.steps_per_window * self.recipe.trainer.num_iterations > 1

    def _add_logps(self, batch: Batch) -> torch.Tensor:
        """Add old and reference log-probabilities where loss or reward need them, and the policy's `entropies`
        (nats, at the sampling temperature) where credit does; check the gap between engine and trainer at the first
        window and every N steps. Returns the importance weights (B, T), 1 without correction."""
        section = self.recipe.trainer
        correct = section.importance.applies_to(self.recipe.engine.name)
        kl_in_reward = section.kl_in == "reward"
        check, entropies = self._gap_is_due(), "entropy" in self.credit.needs
        weights_BT = torch.ones_like(batch["engine_logps"])
        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            if correct or self._several_updates or kl_in_reward or check or entropies:
                old_BT, entropies_BT = self._logps_and_entropies(self.model, batch, compute_entropy=entropies)
                batch["old_per_token_logps"] = old_BT
                if entropies_BT is not None:
                    batch["entropies"] = entropies_BT
                found_BT, stats = importance_weights(
                    old_BT,
                    batch["engine_logps"],
                    batch["tool_mask"],
                    clip_max=section.importance.clip_max,
                    clip_min=section.importance.clip_min,
                )
                if correct:
                    weights_BT = found_BT
                for name, value in merge_stats(gather_object([stats])).items():
                    self._metrics["train"][f"ratio/{name}"].append(value)
                if check:
                    self._check_gap(old_BT, batch)
            if self.beta != 0.0 or kl_in_reward:
                batch["ref_per_token_logps"] = self._reference_logps(batch)
        return weights_BT

    def _gap_is_due(self) -> bool:
        every = self.recipe.engine.check_every
        return self._window_index == 0 or (every > 0 and self.state.global_step % every == 0)

    def _check_gap(self, trainer_logps_BT: torch.Tensor, batch: Batch) -> None:
        """Log the largest and 99% gap of log-probabilities over all processes; stop the run when over the limit."""
        used = batch["tool_mask"].bool() & ~torch.isnan(batch["engine_logps"])
        gap = (trainer_logps_BT - batch["engine_logps"])[used].abs().float()
        exact = trainer_logps_BT.dtype == torch.float32 and not self.args.bf16 and self.model.dtype == torch.float32
        exact = exact and self.recipe.engine.dtype in (None, "float32")
        own = None
        if len(gap):
            own = gap.max().item(), torch.quantile(gap[:: max(1, len(gap) // 1_000_000)], 0.99).item()
        # Every process learns of every gap, so that they stop together.
        gaps = [pair for pair in gather_object([own]) if pair is not None]
        if not gaps:
            return
        largest, quantile = np.max(gaps, axis=0).tolist()
        self._metrics["train"]["gap/max"].append(largest)
        self._metrics["train"]["gap/q99"].append(quantile)
        value, limit = (largest, 1e-3) if exact else (quantile, 0.5)
        limit = self.recipe.engine.max_logprob_gap or limit
        if not value <= limit:  # NaN is no agreement
            raise UserError(
                f"engine and trainer disagree: log-probabilities of the same tokens differ by {value:.4g} nats "
                f"({'largest' if exact else '99% quantile'}; limit {limit:g}, engine.max_logprob_gap). Usual causes: "
                "stale weights or prefix cache in the engine, another temperature, dtype or chat template on one side"
            )

    def _reference_logps(self, batch: Batch) -> torch.Tensor:
        if self.ref_model is not None:
            return self._score(self.ref_model, batch)
        # LoRA: the reference is the policy with its adapter off.
        model = self.accelerator.unwrap_model(self.model)
        with use_adapter(model, adapter_name=None):
            return self._score(self.model, batch)

    def _score(self, model: Any, batch: Batch) -> torch.Tensor:
        """Log-probabilities (B, T) of the whole window under `model`."""
        return self._logps_and_entropies(model, batch)[0]

    def _logps_and_entropies(
        self, model: Any, batch: Batch, compute_entropy: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Log-probabilities and, on request, entropies of the whole window under `model`, both (B, T)."""
        logps_BT, entropies_BT, _ = self._get_per_token_logps_and_entropies(
            model,
            torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
            torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
            batch["completion_ids"].size(1),
            compute_entropy=compute_entropy,
        )
        return logps_BT, entropies_BT

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **unused: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """TRL's method, in passes of like length (see `passes.like_length`)."""
        aux_losses = []

        def forward(ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            extra = {"output_router_logits": True} if compute_aux_loss else {}
            with self.accelerator.autocast():
                outputs = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True, **extra)
            if compute_aux_loss:
                aux_losses.append(outputs.aux_loss)
            entropy = outputs.entropy if compute_entropy else None
            return outputs.log_probs, entropy, *(self._of_this_pass() if torch.is_grad_enabled() else ())

        logps_BT, entropies_BT, *more = self._in_passes(forward, input_ids, attention_mask, logits_to_keep)
        if torch.is_grad_enabled():
            self._fresh_logps_BT, self._more_of_passes = logps_BT.detach(), tuple(more)
        return logps_BT, entropies_BT, torch.stack(aux_losses).mean() if aux_losses else None

    def _of_this_pass(self) -> tuple[torch.Tensor, ...]:
        """What else is read off a pass with gradients, (B, L) each; kept per completion token in `_more_of_passes`."""
        return ()

    def _in_passes(
        self, forward: Forward, ids: torch.Tensor, mask: torch.Tensor, width: int, *, after_last: bool = False
    ) -> list[Any]:
        """`like_length` with this run's budget of tokens, in as many passes on every process."""
        return like_length(
            forward,
            ids,
            mask,
            width,
            pad_id=self._tokenizer.pad_token_id,
            token_budget=self.recipe.trainer.token_budget,
            pass_count=self._agreed_pass_count,
            after_last=after_last,
        )

    def _agreed_pass_count(self, count: int) -> int:
        """Every process runs as many passes as the one that needs most: a forward pass may be a collective."""
        return max(int(n) for n in gather_object([count])) if self.accelerator.num_processes > 1 else count
