"""The critic of PPO: a learner of its own, with its own optimizer, clip, schedule and checkpoint, beside the policy.

It never meets the policy's optimizer or gradients. On several processes it is wrapped as the policy is: in DDP, or in a
DeepSpeed engine of its own with the same ZeRO stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import get_scheduler

from cib_rl.recipe import CriticSection
from cib_rl.trainers.batch import Batch
from cib_rl.trainers.critic_deepspeed import critic_config
from cib_rl.trainers.critic_model import load_weights, save_weights
from cib_rl.trainers.passes import Forward
from cib_rl.trainers.value_loss import ValueLoss, value_loss

LEARNER = "learner.pt"
# A forward function, the window's rows and whether values after the last token are wanted -> (B, T) or (B, T + 1).
InPasses = Callable[[Forward, Batch, bool], torch.Tensor]
# A loss and how to make a finite one of the same graph -> the loss, or 0 where it is not finite on some process.
Guard = Callable[[torch.Tensor, Callable[[], torch.Tensor]], torch.Tensor]


class Critic:
    """A model with one output per token, and its optimizer.

    Args:
        model: from `load_critic`.
        section: the recipe's `critic`.
        accelerator: the trainer's; the critic is wrapped as it wraps the policy.
        steps: optimizer steps of the run, for the schedule.
        in_passes: runs a forward function over a batch in passes of like length.
        guard: replaces a loss that is not finite, alike on all processes.
        adam_beta2, micro_batch_size: the trainer's.
    """

    def __init__(
        self,
        model: Any,
        section: CriticSection,
        accelerator: Any,
        *,
        steps: int,
        in_passes: InPasses,
        guard: Guard,
        adam_beta2: float = 0.999,
        micro_batch_size: int = 1,
    ) -> None:
        self.section, self.accelerator, self.in_passes, self.guard = section, accelerator, in_passes, guard
        self.model = model.to(accelerator.device).train()
        if section.gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.optimizer = adamw(self.model, section.learning_rate, section.weight_decay, adam_beta2)
        self.scheduler = schedule(section, self.optimizer, steps)
        self.engine: Any = None
        self.wrapped: Any = self.model
        if accelerator.state.deepspeed_plugin is not None:
            import deepspeed

            self.engine, self.optimizer, _, _ = deepspeed.initialize(
                model=self.model,
                optimizer=self.optimizer,
                config=critic_config(
                    accelerator.state.deepspeed_plugin.deepspeed_config,
                    max_grad_norm=section.max_grad_norm,
                    micro_batch_size=micro_batch_size,
                    bf16=self.model.dtype == torch.bfloat16 or accelerator.mixed_precision == "bf16",
                    hidden=self.model.config.get_text_config().hidden_size,
                ),
            )
            self.wrapped = self.engine
        elif accelerator.num_processes > 1:
            device = accelerator.device
            self.wrapped = torch.nn.parallel.DistributedDataParallel(
                self.model,
                device_ids=None if device.type == "cpu" else [device.index],
                broadcast_buffers=False,
            )

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor]:
        with self.accelerator.autocast():
            return (self.wrapped(input_ids=ids, attention_mask=mask).logits.squeeze(-1).float(),)

    @torch.no_grad()
    def values(self, batch: Batch) -> torch.Tensor:
        """V before each completion token and, in one more column, after a row's last: (B, T + 1), without gradients."""
        self.wrapped.eval()
        found = self.in_passes(self._forward, batch, True)
        self.wrapped.train()
        return found

    def learn(self, micro: Batch, *, last: bool, scale: float) -> ValueLoss:
        """Gradients of the value loss (see `value_loss`) times `scale`; after the `last` micro-batch of an optimizer
        step, that step."""
        with self._together(last):
            values_BT = self.in_passes(self._forward, micro, False)
            loss = value_loss(
                values_BT, micro["values"], micro["returns"], micro["tool_mask"], clip=self.section.value_clip
            )
            self._backward(self.guard(loss.total * scale, lambda: self._nothing(micro)), last)
        if last:
            loss.grad_norm = self._step()
        return loss

    def _nothing(self, micro: Batch) -> torch.Tensor:
        ids = micro["prompt_ids"][:1, -1:]
        return self._forward(ids, torch.ones_like(ids), ids)[0].sum()

    def _together(self, last: bool) -> AbstractContextManager[Any]:
        """DDP adds gradients over processes once per optimizer step."""
        if last or self.wrapped is self.model or self.engine is not None:
            return nullcontext()
        context: AbstractContextManager[Any] = self.wrapped.no_sync()
        return context

    def _backward(self, loss: torch.Tensor, last: bool) -> None:
        if self.engine is None:
            loss.backward()
            return
        self.engine.set_gradient_accumulation_boundary(is_boundary=last)
        self.engine.backward(loss, scale_wrt_gas=False)
        self.engine.step()  # an update at the boundary only

    def _step(self) -> float:
        """One optimizer step; returns the norm of the gradients before the clip."""
        if self.engine is not None:
            found = self.engine.get_global_grad_norm()
            norm = math.nan if found is None else float(found)
        else:
            norm = clip_and_step(self.model, self.optimizer, self.section.max_grad_norm)
        self.scheduler.step()
        return norm

    @property
    def kind(self) -> str:
        """What a checkpoint of it can be restored into."""
        adapters = " with adapters" if self.section.lora else ""
        return f"own backbone{adapters}{' in DeepSpeed' if self.engine is not None else ''}"

    def save(self, folder: Path) -> None:
        """Write weights (as transformers or PEFT do) and the learner's state; every process calls it."""
        if self.engine is not None:
            self.engine.save_checkpoint(
                str(folder), tag="engine", client_state={"schedule": self.scheduler.state_dict()}
            )
        elif self.accelerator.is_main_process:
            save_weights(self.model, folder)
            torch.save(
                {"optimizer": self.optimizer.state_dict(), "schedule": self.scheduler.state_dict()}, folder / LEARNER
            )

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote."""
        if self.engine is not None:
            _, state = self.engine.load_checkpoint(str(folder), tag="engine")
            self.scheduler.load_state_dict(state["schedule"])
            return
        load_weights(self.model, folder)
        state = torch.load(folder / LEARNER, map_location="cpu", weights_only=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["schedule"])


def clip_and_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, max_norm: float) -> float:
    """One update with gradients that all processes have alike; returns their norm before the clip.

    There is none where the norm is not finite: an overflow in backward would make all weights no numbers.
    """
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm))
    if math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad()
    return norm


def adamw(model: torch.nn.Module, learning_rate: float, weight_decay: float, beta2: float) -> torch.optim.Optimizer:
    """AdamW over what is trained; only matrices decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=(0.9, beta2))


def schedule(section: CriticSection, optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """The learning rate over the run, as transformers makes it for the policy."""
    return get_scheduler(
        section.schedule,
        optimizer,
        num_warmup_steps=math.ceil(section.warmup_ratio * steps),
        num_training_steps=steps,
    )
