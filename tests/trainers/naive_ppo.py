"""PPO in plain torch, row by row and token by token, for comparison. It shares nothing with the trainer but the models'
classes; what is drawn at random (episodes, and which rows form an optimizer step) it is told."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

import torch


@dataclass
class Settings:
    learning_rate: float
    critic_rate: float
    gamma: float = 1.0
    lam: float = 1.0
    clip: float = 0.2
    value_clip: float = 0.5
    kl: float = 0.0
    kl_in: str = "loss"
    estimator: str = "k1"
    steps_per_window: int = 1
    critic_max_norm: float = math.inf
    entropy: float = 0.0


@dataclass
class Row:
    """One segment, as data and as the numbers of the window's start."""

    prompt: list[int]
    completion: list[int]
    mask: list[int]
    old: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)  # one more than tokens
    advantages: dict[int, float] = field(default_factory=dict)
    returns: dict[int, float] = field(default_factory=dict)


def _distributions(model, row):
    """Log-probabilities of every token, before each of the completion's."""
    logits = model(torch.tensor([row.prompt + row.completion])).logits[0]
    return logits.log_softmax(-1)[len(row.prompt) - 1 : -1]


def _logps(model, row):
    return [logps[token] for logps, token in zip(_distributions(model, row), row.completion, strict=True)]


def _values(critic, row):
    """V before each token and after the last."""
    values = critic(torch.tensor([row.prompt + row.completion])).logits[0, :, 0]
    return [values[len(row.prompt) + t - 1] for t in range(len(row.completion) + 1)]


class NaivePPO:
    """`step` makes one optimizer step and keeps both models' gradients, before any clip, in `gradients`."""

    def __init__(self, policy, critic, settings: Settings):
        self.policy, self.critic, self.settings = policy, critic, settings
        self.reference = copy.deepcopy(policy)
        self.optimizer = torch.optim.AdamW(policy.parameters(), lr=settings.learning_rate, weight_decay=0.0)
        self.critic_optimizer = torch.optim.AdamW(critic.parameters(), lr=settings.critic_rate, weight_decay=0.0)
        self.gradients: list[tuple[dict, dict]] = []

    def window(self, trajectories, rewards, token_rewards=None, kept=None):
        """Rows, old numbers and advantages of a window. `rewards`: one total per trajectory, without token rewards;
        `kept`: which of them are in the loss."""
        self.rows, s = [], self.settings
        with torch.no_grad():
            for k, t in enumerate(trajectories):
                rows = [Row(g.prompt_ids, g.completion_ids, g.policy_mask) for g in t.segments]
                for row in rows:
                    row.old = [x.item() for x in _logps(self.policy, row)]
                    row.reference = [x.item() for x in _logps(self.reference, row)]
                    row.values = [x.item() for x in _values(self.critic, row)]
                self.rows += rows
                places = [(row, i) for row in rows for i, m in enumerate(row.mask) if m]
                if kept is not None and not kept[k]:
                    continue
                paid = [0.0] * len(places) if token_rewards is None else list(token_rewards[k])
                paid[-1] += rewards[k]
                if s.kl_in == "reward":
                    for n, (row, i) in enumerate(places):
                        ratio = row.old[i] - row.reference[i]
                        k3 = torch.tensor(-ratio).exp().item() - 1 + ratio
                        paid[n] -= s.kl * (ratio if s.estimator == "k1" else k3)
                values = [row.values[i] for row, i in places]
                values.append(rows[-1].values[-1] if t.truncated else 0.0)
                for n, (row, i) in enumerate(places):
                    advantage = sum(
                        (s.gamma * s.lam) ** (later - n) * (paid[later] + s.gamma * values[later + 1] - values[later])
                        for later in range(n, len(places))
                    )
                    row.advantages[i], row.returns[i] = advantage, advantage + values[n]
        everything = torch.tensor([a for row in self.rows for a in row.advantages.values()])
        for row in self.rows:
            row.advantages = {i: ((a - everything.mean()) / everything.std()).item() for i, a in row.advantages.items()}
        self.tokens = len(everything)

    def step(self, chosen):
        """One optimizer step of both over the rows with these numbers."""
        s, policy_loss, value_loss, entropies = self.settings, 0.0, 0.0, []
        for number in chosen:
            if number >= len(self.rows):
                continue  # a filler
            row = self.rows[number]
            logps, values = _logps(self.policy, row), _values(self.critic, row)
            for i, advantage in row.advantages.items():
                ratio = (logps[i] - row.old[i]).exp()
                policy_loss = policy_loss - torch.min(
                    ratio * advantage, ratio.clamp(1 - s.clip, 1 + s.clip) * advantage
                )
                if s.kl and s.kl_in == "loss":
                    away = row.reference[i] - logps[i]
                    policy_loss = policy_loss + s.kl * (away.exp() - 1 - away) * ratio  # TRL's, with its correction
                if s.entropy:
                    of_all = _distributions(self.policy, row)[i]
                    entropies.append(-(of_all.exp() * of_all).sum())
                near = row.values[i] + (values[i] - row.values[i]).clamp(-s.value_clip, s.value_clip)
                value_loss = value_loss + 0.5 * torch.max(
                    (values[i] - row.returns[i]) ** 2, (near - row.returns[i]) ** 2
                )
        kept = []
        for model, optimizer, loss, max_norm in (
            (self.policy, self.optimizer, policy_loss, math.inf),
            (self.critic, self.critic_optimizer, value_loss, s.critic_max_norm),
        ):
            optimizer.zero_grad()
            loss = loss / self.tokens * s.steps_per_window
            if entropies and model is self.policy:
                loss = loss - s.entropy * sum(entropies) / len(entropies)
            loss.backward()
            kept.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            optimizer.step()
        self.gradients.append((kept[0], kept[1]))
