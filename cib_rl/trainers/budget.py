"""A token budget instead of a fixed weight: the weight of one shaping reward is moved until the budget is met."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from cib_rl.errors import UserError
from cib_rl.plugin.bound import BoundReward
from cib_rl.plugin.roles import Role
from cib_rl.recipe import BudgetSection
from cib_rl.trainers.window import Window

_PATIENCE = 10  # windows with the price at a bound, and no progress, before a warning
_MET, _PROGRESS = 0.05, 0.01  # of the tokens at the start: near enough to the budget; nearer than before

Row = tuple[int, int, float]  # group, policy tokens, unweighted value of the steered reward

Reward = TypeVar("Reward", BoundReward, Role)


class Budget:
    """Dual ascent on E[tokens] ≤ budget, with the shaping reward's weight β as the multiplier.

    After each window, with m the mean of its tokens (smoothed) and m₀ the tokens at the start:

        e = (m − budget) / m₀,   price ← clip(price + rate·e),   β = clip(price + gain·e) / cost₀

    The integral term is plain dual ascent; the proportional one damps its overshoot (PID Lagrangian, Stooke et al.,
    arXiv 2007.03964, without its derivative term). The price is in units of outcome reward: what the completions of the
    first window cost on average at this weight. cost₀, the mean size |r| of their unweighted values, turns it into β,
    so that the defaults of `rate` and `gain` (ours) serve every prior and every additive penalty alike; of a penalty it
    is minus the mean, while Kimi's pays short answers as much as it fines long ones. Price and β start at 0, whatever
    weight the recipe names, and stay there until cost₀ is known: for the first window, and for as long as the reward is
    0 for every completion (soft overlong, while none is near its limit).

    A budget above what the outcome alone leads to is met only with `min_price` below 0, which pays for length.

    Args:
        section: the recipe's `budget`.
        rewards: the bound rewards of the run; the weight of one of them is set.

    Raises UserError when no reward, or more than one, can be meant.
    """

    def __init__(self, section: BudgetSection, rewards: Sequence[BoundReward]) -> None:
        self.section = section
        self.reward = steered(section, rewards)
        self.reward.weight = 0.0
        self.start: float | None = None
        self.smoothed: float | None = None
        self.price = 0.0
        self.unit: float | None = None  # cost₀
        self._errors: list[float] = []  # of the last windows, as long as the price is at one and the same bound
        self._warned = False

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

    def rows(self, window: Window) -> list[Row]:
        """What `observe` reads of a process's completions: those the reward counts for."""
        label, scores = self.reward.label, window.scores
        counted_N = scores.counted[label] & scores.valid & np.isfinite(scores.values[label])
        return [
            (t.group, t.num_tokens, float(value))
            for t, value, counted in zip(window.trajectories, scores.values[label], counted_N, strict=True)
            if counted
        ]

    def observe(self, metrics: Mapping[str, float], rows: Sequence[Row]) -> dict[str, float]:
        """Set the next window's weight from this one's metrics and `rows` (of all processes). Returns what to log.

        A window without a number (no right answer, for instance) changes nothing. Raises UserError when the reward does
        not fall with length within the first window's groups.
        """
        tokens = metrics.get(self.counts, math.nan)
        if not math.isfinite(tokens):
            return self._logged()
        self.begin(tokens)
        if self.unit is None:
            self.unit = self._cost(rows)
            if self.unit is None:
                return self._logged()
        past = self.section.smoothing if self.smoothed is not None else 0.0
        self.smoothed = past * (self.smoothed or 0.0) + (1 - past) * tokens
        assert self.start is not None and self.target is not None
        error = (self.smoothed - self.target) / self.start
        self.price = self._within(self.price + self.section.rate * error)
        asked = self.price + self.section.gain * error
        self.reward.weight = self._within(asked) / self.unit
        at_bound = asked >= self.section.max_price or asked <= self.section.min_price
        same = not self._errors or (error > 0) == (self._errors[-1] > 0)
        self._errors = [*(self._errors if same else ()), error][-_PATIENCE:] if at_bound else []
        return self._logged()

    def warning(self) -> str | None:
        """Once per run: that the price has been at a bound for ten windows without the tokens getting nearer."""
        if self._warned or len(self._errors) < _PATIENCE:
            return None
        first, last = abs(self._errors[0]), abs(self._errors[-1])
        if last <= _MET or last < first - _PROGRESS:
            return None
        self._warned = True
        bound, mend = ("max_price", "raise it") if self._errors[-1] > 0 else ("min_price", "lower it: below 0 it pays")
        return (
            f"budget: the price has been at {bound} ({getattr(self.section, bound):g}) for {_PATIENCE} windows, and "
            f"the tokens stay at {self.smoothed:.4g} (budget {self.target:.4g}): it may not be reachable. Ask for "
            f"another budget, or {mend} (budget.{bound})"
        )

    def _cost(self, rows: Sequence[Row]) -> float | None:
        """cost₀, or None while the reward is 0 everywhere or all completions of each prompt are of one length."""
        cost = float(np.mean([abs(value) for _, _, value in rows])) if rows else 0.0
        if cost == 0:
            return None
        group_N, tokens_N, value_N = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
        for group in np.unique(group_N):
            own = group_N == group
            tokens_N[own] -= tokens_N[own].mean()
            value_N[own] -= value_N[own].mean()
        if not tokens_N.any():
            return None
        if (slope := float(tokens_N @ value_N) / float(tokens_N @ tokens_N)) >= 0:
            raise UserError(
                f"budget: reward {self.reward.label!r} does not fall with length (by {slope:+.3g} per token, within "
                "the prompts of the first window): a budget needs one that does, such as surprisal"
            )
        return cost

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
