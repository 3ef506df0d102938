"""A token budget instead of a fixed weight: the weight of one shaping reward is moved until the budget is met."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from cib_rl.errors import UserError
from cib_rl.plugin.bound import BoundReward
from cib_rl.plugin.roles import Role
from cib_rl.recipe import BudgetSection

Reward = TypeVar("Reward", BoundReward, Role)


class Budget:
    """Dual ascent on E[tokens] ≤ budget, with the shaping reward's weight β as the multiplier.

    After each window, with m the mean of its tokens (smoothed) and m₀ the tokens at the start:

        e = (m − budget) / m₀,   price ← clip(price + rate·e),   β = clip(price + gain·e) / cost₀

    The integral term is plain dual ascent; the proportional one damps its overshoot (PID Lagrangian, Stooke et al.,
    arXiv 2007.03964, without its derivative term). The price is in units of outcome reward: what the completions of the
    first window cost on average at this weight. cost₀ = −(their mean unweighted value) turns it into β, so that the
    defaults of `rate` and `gain` (ours) serve every prior and every additive penalty alike. The price starts at 0; the
    recipe's weight holds for the first window, before cost₀ is known.

    A budget above what the outcome alone leads to is met only with `min_price` below 0, which pays for length.

    Args:
        section: the recipe's `budget`.
        rewards: the bound rewards of the run; the weight of one of them is set.

    Raises UserError when no reward, or more than one, can be meant.
    """

    def __init__(self, section: BudgetSection, rewards: Sequence[BoundReward]) -> None:
        self.section = section
        self.reward = steered(section, rewards)
        self.start: float | None = None
        self.smoothed: float | None = None
        self.price = 0.0
        self.unit: float | None = None  # cost₀

    @property
    def counts(self) -> str:
        """The metric that is held to the budget."""
        return "tokens/right" if self.section.count == "right" else "tokens/mean"

    @property
    def target(self) -> float | None:
        """Tokens per completion to be reached; None while a relative budget does not know its start."""
        asked = self.section.tokens
        if isinstance(asked, float):
            return asked
        return None if self.start is None else self.start * (1 + float(asked.rstrip("%")) / 100)

    def begin(self, tokens: float | None) -> None:
        """Take the tokens at the start from an evaluation; without one the first window's are taken."""
        if self.start is None and tokens is not None and math.isfinite(tokens):
            self.start = float(tokens)

    def observe(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Set the next window's weight from the metrics of this one. Returns what is to be logged.

        A window without a number (no right answer, for instance) changes nothing.
        """
        tokens, value = metrics.get(self.counts, math.nan), metrics.get(f"reward/{self.reward.label}", math.nan)
        if not (math.isfinite(tokens) and math.isfinite(value)):
            return self._logged()
        self.begin(tokens)
        if self.unit is None:
            if value >= 0:
                raise UserError(
                    f"budget: reward {self.reward.label!r} costs nothing (its mean is {value:.4g}): a budget needs one "
                    "whose value falls with length, such as surprisal"
                )
            self.unit = -value
        past = self.section.smoothing if self.smoothed is not None else 0.0
        self.smoothed = past * (self.smoothed or 0.0) + (1 - past) * tokens
        assert self.start is not None and self.target is not None
        error = (self.smoothed - self.target) / self.start
        self.price = self._within(self.price + self.section.rate * error)
        self.reward.weight = self._within(self.price + self.section.gain * error) / self.unit
        return self._logged()

    def _within(self, price: float) -> float:
        return min(max(price, self.section.min_price), self.section.max_price)

    def _logged(self) -> dict[str, float]:
        named = {"budget/target": self.target, "budget/tokens": self.smoothed, "budget/price": self.price}
        return {name: value for name, value in named.items() if value is not None}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: price, unit, start, smoothed tokens, and the weight now in force."""
        names = ("start", "smoothed", "price", "unit")
        return {name: getattr(self, name) for name in names} | {"weight": self.reward.weight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.reward.weight = state["weight"]
        for name in ("start", "smoothed", "price", "unit"):
            setattr(self, name, state[name])


def steered(section: BudgetSection, rewards: Sequence[Reward]) -> Reward:
    """The reward whose weight the budget moves. Raises UserError when none or several can be meant."""
    shaping = [r for r in rewards if r.kind == "shaping"]
    named = [r for r in shaping if section.reward in (None, r.label)]
    if len(named) != 1:
        labels = ", ".join(r.label for r in shaping) or "none"
        asked = "its weight is what is moved" if section.reward is None else f"got {section.reward!r}"
        raise UserError(f"budget.reward: name one shaping reward ({asked}); there are: {labels}")
    return named[0]
