"""The second kind of critic: one linear layer that reads the policy's last hidden states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cib_rl.recipe import CriticSection
from cib_rl.trainers.batch import Batch
from cib_rl.trainers.critic import LEARNER, Guard, InPasses, adamw, clip_and_step, schedule
from cib_rl.trainers.value_loss import ValueLoss, value_loss


class HeadOnPolicy:
    """A value head in float32, replicated on every process, with an optimizer of its own; zeros at first.

    It learns from the hidden states of the very pass that the policy's loss makes, caught by a hook, so it costs no
    pass of its own in training. With `critic.detach` the value loss ends at those states; without, it is part of the
    policy's loss (times `critic.coefficient`), and its gradient goes through the backbone.

    Args:
        policy: the causal language model, unwrapped; a PEFT model is looked through.
        guard: see `Critic`.
    """

    kind = "head on the policy"

    def __init__(
        self,
        policy: Any,
        section: CriticSection,
        accelerator: Any,
        *,
        steps: int,
        in_passes: InPasses,
        guard: Guard,
        adam_beta2: float = 0.999,
    ) -> None:
        self.section, self.accelerator, self.in_passes, self.guard = section, accelerator, in_passes, guard
        base = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
        self.decoder = base.get_decoder()
        self.head = torch.nn.Linear(base.config.get_text_config().hidden_size, 1).to(accelerator.device)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        self.optimizer = adamw(self.head, section.learning_rate, section.weight_decay, adam_beta2)
        self.scheduler = schedule(section, self.optimizer, steps)
        self._hidden_BLD: torch.Tensor | None = None
        self.decoder.register_forward_hook(self._catch)

    def _catch(self, module: Any, inputs: Any, output: Any) -> None:
        self._hidden_BLD = output[0] if isinstance(output, tuple) else output.last_hidden_state

    def _values(self, hidden_BLD: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.head(hidden_BLD.float()).squeeze(-1)
        return values

    def of_this_pass(self) -> torch.Tensor:
        """Values (B, L) at all positions of the policy's pass that was just made, with gradients."""
        hidden_BLD, self._hidden_BLD = self._hidden_BLD, None
        assert hidden_BLD is not None
        return self._values(hidden_BLD.detach() if self.section.detach else hidden_BLD)

    @torch.no_grad()
    def values(self, batch: Batch) -> torch.Tensor:
        """V before each completion token and, in one more column, after a row's last: (B, T + 1), without gradients."""

        def forward(ids: torch.Tensor, mask: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor]:
            with self.accelerator.autocast():
                self.decoder(input_ids=ids, attention_mask=mask)
            hidden_BLD, self._hidden_BLD = self._hidden_BLD, None
            assert hidden_BLD is not None
            return (self._values(hidden_BLD),)

        return self.in_passes(forward, batch, True)

    def loss(self, micro: Batch, values_BT: torch.Tensor) -> ValueLoss:
        """The value loss of a micro-batch from its values (B, T)."""
        return value_loss(
            values_BT, micro["values"], micro["returns"], micro["tool_mask"], clip=self.section.value_clip
        )

    def learn(self, micro: Batch, *, last: bool, scale: float, values_BT: torch.Tensor | None = None) -> ValueLoss:
        """As `Critic.learn`, with the values (B, T) of the policy's pass over this micro-batch."""
        assert values_BT is not None
        loss = self.loss(micro, values_BT)
        if self.section.detach:
            self.guard(loss.total * scale, lambda: self.head.weight.sum() + self.head.bias.sum()).backward()
        if last:
            for parameter in self.head.parameters():
                # None where the policy's loss, which the values are part of, was left out.
                own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self.accelerator.reduce(own, reduction="mean")
            loss.grad_norm = clip_and_step(self.head, self.optimizer, self.section.max_grad_norm)
            self.scheduler.step()
        return loss

    def save(self, folder: Path) -> None:
        """Write head and learner; every process calls it."""
        if self.accelerator.is_main_process:
            parts = {"head": self.head, "optimizer": self.optimizer, "schedule": self.scheduler}
            torch.save({name: part.state_dict() for name, part in parts.items()}, folder / LEARNER)

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote."""
        state = torch.load(folder / LEARNER, map_location="cpu", weights_only=True)
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["schedule"])
