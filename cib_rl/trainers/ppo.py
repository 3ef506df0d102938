"""PPO: the GRPO trainer's rollouts, rewards and policy loss, with a critic and GAE in the place of the group baseline.

A window is drawn and scored as in GRPO. Then the critic gives its values, the credit stage `gae` makes advantages and
returns of them, and in every micro-batch the critic learns the returns after the policy has made its own backward pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cib_rl.errors import UserError
from cib_rl.plugin import Scores
from cib_rl.trainers.batch import Batch, pad_tokens, unpad_tokens
from cib_rl.trainers.critic import Critic
from cib_rl.trainers.grpo import GRPOTrainer
from cib_rl.trainers.passes import Forward
from cib_rl.trainers.value_head import HeadOnPolicy
from cib_rl.trainers.value_loss import explained_variance
from cib_rl.trainers.window import Window

FOLDER, KIND = "critic", "kind.txt"  # of a checkpoint


def _later(rate: Callable[[int], float], steps: int) -> Callable[[int], float]:
    return lambda step: rate(max(step - steps, 0))


class PPOTrainer(GRPOTrainer):
    """See the module's docstring. `critic_model`: from `load_critic`; None for a head on the policy's backbone."""

    critic: Critic | HeadOnPolicy
    _critic_seconds = 0.0  # of this optimizer step so far

    def __init__(self, *, critic_model: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._value_sums = np.zeros(3)  # loss, clipped, tokens of this optimizer step so far
        section = self.recipe.critic
        assert section is not None
        common: dict[str, Any] = {
            "steps": self.args.max_steps,
            "in_passes": self._values_in_passes,
            "guard": partial(self._finite_or_nothing, whose="critic"),
            "adam_beta2": self.recipe.trainer.adam_beta2,
        }
        if section.backbone == "policy":
            self.critic = HeadOnPolicy(arguments["model"], section, self.accelerator, **common)
        else:
            self.critic = Critic(
                critic_model,
                section,
                self.accelerator,
                micro_batch_size=self.args.per_device_train_batch_size,
                **common,
            )

    # ---- the rollout side -------------------------------------------------------------------------------------------

    def _credit(self, window: Window, scores: Scores, batch: Batch) -> list[np.ndarray]:
        """Values before the credit stages, returns after them."""
        trajectories = window.trajectories
        # Without a reward there is no return to learn; such rows leave whitening and both losses.
        window.in_loss &= scores.valid & np.isfinite(scores.total)
        scores = replace(scores, valid=window.in_loss.copy())
        kept = np.repeat(window.in_loss, [len(t.segments) for t in trajectories])
        batch["tool_mask"][: len(kept)] *= torch.from_numpy(kept[:, None]).to(batch["tool_mask"])
        started = time.perf_counter()
        values_BT1 = self.critic.values(batch)
        window.seconds["values"] = time.perf_counter() - started
        self._attach(values_BT1, window, batch)
        advantages = super()._credit(window, scores, batch)
        returns = [np.asarray(t.tracks["return"]) for t in trajectories]
        batch["values"], batch["returns"] = values_BT1[:, :-1], pad_tokens(returns, trajectories, batch)
        used = batch["tool_mask"].bool()
        self._log(
            explained_variance=explained_variance(
                batch["values"][used].cpu().numpy(), batch["returns"][used].cpu().numpy(), self._reduce
            ),
            value_mean=self._mean(batch["values"][used]),
            return_mean=self._mean(batch["returns"][used]),
        )
        return advantages

    def _attach(self, values_BT1: torch.Tensor, window: Window, batch: Batch) -> None:
        """The track `value` and the diagnostic `value_at_end`, V after the last token, of each trajectory."""
        values = unpad_tokens(values_BT1[:, :-1], window.trajectories)
        ends = batch["completion_mask"].sum(1, keepdim=True)
        last_B = values_BT1.gather(1, ends).squeeze(1).tolist()
        row = -1
        for trajectory, value_T in zip(window.trajectories, values, strict=True):
            trajectory.set_track("value", value_T.tolist())
            row += len(trajectory.segments)
            trajectory.diagnostics["value_at_end"] = last_B[row] if trajectory.segments else 0.0

    # ---- the learning side ------------------------------------------------------------------------------------------

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The policy's learning rate over its own steps: it stands still while the critic learns alone."""
        assert self.recipe.critic is not None
        waiting = self.recipe.critic.warmup_steps
        if self.lr_scheduler is None and waiting:
            scheduler: Any = super().create_scheduler(num_training_steps - waiting, optimizer)
            scheduler.lr_lambdas = [_later(rate, waiting) for rate in scheduler.lr_lambdas]
        return super().create_scheduler(num_training_steps, optimizer)

    def _policy_waits(self) -> bool:
        assert self.recipe.critic is not None
        return bool(self.state.global_step < self.recipe.critic.warmup_steps)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        started = time.perf_counter()
        value = self.critic.learn(
            self._micro, last=self.accelerator.sync_gradients, scale=self._token_mean_scale, **self._values_of_pass()
        )
        self._critic_seconds += time.perf_counter() - started
        self._value_sums += np.array([float(value.total.detach()), value.clipped, value.tokens])
        if value.grad_norm is not None:  # the last of an optimizer step
            total, clipped, tokens = self._reduce(self._value_sums)
            self._log(
                loss=float(total / max(tokens, 1)),
                clip_share=float(clipped / max(tokens, 1)),
                grad_norm=value.grad_norm,
                learning_rate=self.critic.scheduler.get_last_lr()[0],
            )
            self._metrics["train"]["seconds/critic"].append(self._critic_seconds)
            self._critic_seconds, self._value_sums = 0.0, np.zeros(3)
        return loss

    def _of_this_pass(self) -> tuple[torch.Tensor, ...]:
        return (self.critic.of_this_pass(),) if isinstance(self.critic, HeadOnPolicy) else ()

    def _values_of_pass(self) -> dict[str, torch.Tensor]:
        return {"values_BT": self._more_of_passes[0]} if isinstance(self.critic, HeadOnPolicy) else {}

    def _extra_loss(self, inputs: Any) -> torch.Tensor | float:
        if not isinstance(self.critic, HeadOnPolicy) or self.critic.section.detach:
            return 0.0
        value = self.critic.loss(inputs, self._more_of_passes[0]).total
        return self.critic.section.coefficient * self._token_mean_scale * value

    @property
    def _token_mean_scale(self) -> float:
        """1 / tokens of the optimizer step, for a loss that is then averaged over processes, as TRL's `dapo`."""
        items = self._micro["num_items_in_batch"].clamp(min=1) / self.recipe.trainer.steps_per_window
        return float(self.accelerator.num_processes / items)

    def _values_in_passes(self, forward: Forward, batch: Batch, after_last: bool) -> torch.Tensor:
        ids, mask = (torch.cat([batch[f"prompt_{x}"], batch[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
        (values,) = self._in_passes(forward, ids, mask, batch["completion_ids"].size(1), after_last=after_last)
        return values

    def _mean(self, values: torch.Tensor) -> float:
        total, count = self._reduce(np.array([float(values.sum()), values.numel()]))
        return float(total / max(count, 1))

    def _log(self, **metrics: float) -> None:
        for name, value in metrics.items():
            self._metrics["train"][f"critic/{name}"].append(value)

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def _save_more(self, folder: Path) -> None:
        if self.accelerator.is_main_process:
            (folder / FOLDER).mkdir()
            (folder / FOLDER / KIND).write_text(self.critic.kind, encoding="utf-8")
        self.accelerator.wait_for_everyone()
        self.critic.save(folder / FOLDER)

    def restore(self, checkpoint: Path) -> None:
        super().restore(checkpoint)
        kind = checkpoint / FOLDER / KIND
        if not kind.is_file():
            raise UserError(f"checkpoint {checkpoint} has no critic: it was not written by trainer ppo")
        if (wrote := kind.read_text(encoding="utf-8")) != self.critic.kind:
            raise UserError(
                f"the critic of checkpoint {checkpoint} is another kind ({wrote}) than the recipe's "
                f"({self.critic.kind}): resume with the one that wrote it"
            )
        self.critic.load(checkpoint / FOLDER)
