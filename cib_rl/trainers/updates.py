"""Which updates the policy really makes: skipped ones change nothing, and all processes skip the same."""

from __future__ import annotations

import math
from typing import Any

import torch

from cib_rl.credit.kl import kl_per_token
from cib_rl.errors import UserError

# Steps in a row without a finite gradient after which a run gives up.
OVERFLOWS = 10


class UpdatesMixin:
    """Overrides of TRL's step, for a trainer with `recipe` and `_micro`, the micro-batch at hand.

    An optimizer step of the policy is skipped while `_policy_waits()` says so (PPO: the critic learns alone first), or
    when KL(old ‖ new) per token (estimator k3, never negative) went above `trainer.max_kl` earlier in this window. Its
    loss is 0, alike on all processes, and then its gradients are taken away: an optimizer leaves a parameter without
    one as it is, with its moments. DeepSpeed steps inside of backward, where nothing can be taken away: there the step
    is made at a learning rate of 0, because Adam's momentum and weight decay would move the weights without any
    gradient; the moments decay in it, and start anew after a wait.

    A micro-batch whose loss is not finite on some process is left out on all of them (`nonfinite_losses` is logged).
    A gradient that is not finite, the loss being so, is left out, too (`nonfinite_gradients`); DeepSpeed does that by
    itself. After `OVERFLOWS` of them in a row the run stops with a checkpoint.
    """

    recipe: Any
    accelerator: Any
    model: Any
    run_folder: Any
    is_deepspeed_enabled: bool
    _micro: dict[str, Any]  # rows of the window
    _skipping = False
    _waiting = False
    _first_of_step = True
    _kl_sum = 0.0  # of the tokens of this step so far
    _kl_tokens = 0.0
    _overflows = 0  # in a row
    _fresh_logps_BT: torch.Tensor | None
    _more_of_passes: tuple[Any, ...]

    @property
    def _window(self) -> dict[str, Any]:
        """The window that is trained on, as it stands in a checkpoint; `stopped`: its updates are over."""
        window: dict[str, Any] = self._buffered_inputs  # type: ignore[attr-defined]
        return window

    def _policy_waits(self) -> bool:
        return False

    def _begin_update(self) -> None:
        """Before each micro-batch; what the first of an optimizer step decides holds for the whole step."""
        if self._first_of_step:
            self._kl_sum = self._kl_tokens = 0.0
            waited, self._waiting = self._waiting, self._policy_waits()
            if waited and not self._waiting:
                self._forget_moments()
            self._skipping = self._waiting or self._window["stopped"]
        if self._skipping and self.is_deepspeed_enabled:
            for group in self.optimizer.param_groups:  # type: ignore[attr-defined]
                group["lr"] = 0.0  # until the scheduler sets it again, after the step

    def _forget_moments(self) -> None:
        """The policy's first update after a wait is Adam's first. DeepSpeed's count of steps went on meanwhile;
        without DeepSpeed there are no moments yet."""
        optimizer = self.optimizer  # type: ignore[attr-defined]
        while hasattr(optimizer, "optimizer"):  # accelerate's and DeepSpeed's wrappers
            optimizer = optimizer.optimizer
        for state in optimizer.state.values():
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    value.zero_()
                elif name == "step":
                    state[name] = 0

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self._overflows >= OVERFLOWS:
            self._give_up()
        loss: torch.Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        self._first_of_step = self.accelerator.sync_gradients
        if self._first_of_step:
            self._end_update()
        return loss

    def _end_update(self) -> None:
        """Judge the KL of the step that was just made, over all processes."""
        metrics = self._metrics["train"]  # type: ignore[attr-defined]
        metrics["policy_skipped"].append(float(self._skipping))
        if "old_per_token_logps" not in self._micro or self._skipping:
            return
        total, tokens = self.accelerator.reduce(
            torch.tensor([self._kl_sum, self._kl_tokens], device=self.accelerator.device, dtype=torch.float32),
            reduction="sum",
        ).tolist()
        kl = total / max(tokens, 1.0)
        metrics["kl_old_new"].append(kl)
        limit = self.recipe.trainer.max_kl
        if limit is not None and kl > limit:
            self._window["stopped"] = True

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The last thing before the optimizer's step. The norm is that of all processes' gradient, alike on each."""
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[misc]
        finite = norm is None or math.isfinite(norm)
        if not finite:
            self._metrics["train"]["nonfinite_gradients"].append(1.0)  # type: ignore[attr-defined]
            self.accelerator.print("warning: the policy's gradient was not finite in this step; the step is left out")
        self._overflows = 0 if finite else self._overflows + 1
        if (self._skipping or not finite) and not self.is_deepspeed_enabled:
            model.zero_grad(set_to_none=True)
        return norm

    def _give_up(self) -> None:
        """Between two steps, where a checkpoint is whole."""
        self._overflows = 0
        self._save_checkpoint(self.model_wrapped, None)  # type: ignore[attr-defined]
        step = self.state.global_step  # type: ignore[attr-defined]
        raise UserError(
            f"the policy's gradient was not finite in {OVERFLOWS} steps in a row, though its loss was, and it learned "
            f"nothing in them. The checkpoint of step {step} in {self.run_folder.path} is whole: go on from it "
            "(cib-rl train --resume) with trainer.dtype float32 and without trainer.autocast_bf16, or from an earlier "
            "one with a lower trainer.learning_rate"
        )

    def _compute_loss(self, model: Any, inputs: Any) -> torch.Tensor:
        loss: torch.Tensor = super()._compute_loss(model, inputs)  # type: ignore[misc]
        if not self.model.training:
            return loss
        old_BT, new_BT = inputs.get("old_per_token_logps"), self._fresh_logps_BT
        if old_BT is not None and new_BT is not None:
            mask_BT = inputs["tool_mask"].bool()
            self._kl_sum += float(kl_per_token(old_BT, new_BT, "k3")[mask_BT].sum())
            self._kl_tokens += float(mask_BT.sum())
        if self._skipping:
            loss = loss * 0.0
        return self._finite_or_nothing(loss + self._extra_loss(inputs), lambda: self._nothing(model, inputs))

    def _extra_loss(self, inputs: Any) -> torch.Tensor | float:
        """What is learned in the policy's pass whether or not the policy's update is skipped."""
        return 0.0

    def _finite_or_nothing(self, loss: torch.Tensor, nothing: Any, whose: str = "policy") -> torch.Tensor:
        """The loss, or where it is not finite on one of the processes, a loss of 0 from a pass of its own.

        The first pass is of no use then: 0 times its graph would still have gradients that are no numbers. Raises
        UserError when there is no finite pass at all, since then the weights are broken.
        """
        if self._everywhere(bool(torch.isfinite(loss.detach()).all())):
            return loss
        self._metrics["train"]["nonfinite_losses"].append(1.0)  # type: ignore[attr-defined]
        empty: torch.Tensor = nothing() * 0.0
        if not self._everywhere(bool(torch.isfinite(empty.detach()).all())):
            raise UserError(
                f"the loss of the {whose} is not finite, and neither is a pass over a single token: its weights are no "
                "numbers any more; go on from an earlier checkpoint with a lower "
                + ("critic.learning_rate" if whose == "critic" else "trainer.learning_rate")
            )
        return empty

    def _nothing(self, model: Any, inputs: Any) -> torch.Tensor:
        kept = self._fresh_logps_BT, self._more_of_passes
        ids = inputs["prompt_ids"][:1, -1:].repeat(1, 2)
        logps, _, _ = self._get_per_token_logps_and_entropies(model, ids, torch.ones_like(ids), 1)  # type: ignore[attr-defined]
        self._fresh_logps_BT, self._more_of_passes = kept
        return logps.sum()

    def _everywhere(self, here: bool) -> bool:
        flag = torch.tensor(float(not here), device=self.accelerator.device)
        return float(self.accelerator.reduce(flag, reduction="sum")) == 0
