"""The reward contract: what a reward is given, what it returns, and what the suite makes of it.

A reward is a function or a class, decorated with `@reward(name, kind=...)`. It gets a list of trajectories and returns
a list of the same length with, for each trajectory, a number, `None` (does not apply), `TokenRewards` (one number per
policy token) or `Failed(reason)` (this one could not be scored). Keyword arguments come from the recipe. Importing this
module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from cib_rl.errors import UserError

if TYPE_CHECKING:
    import torch

Kind = Literal["outcome", "shaping"]
T = TypeVar("T", bound=Callable[..., Any])


class PluginError(UserError):
    """A reward cannot be found, imported or built. The message says which and how to mend it."""


class RewardFailure(UserError):
    """A reward failed on every trajectory of a step, or on too large a share of them: the run must stop."""


@dataclass(frozen=True)
class TokenRewards:
    """A reward per policy token.

    Attributes:
        values: one number for each token the policy sampled, in order (`trajectory.num_tokens` of them).
    """

    values: Sequence[float]

    def sum(self) -> float:
        """The trajectory's scalar reward."""
        return float(np.sum(np.asarray(self.values, dtype=np.float64)))


@dataclass(frozen=True)
class Failed:
    """Returned in place of a number: this trajectory could not be scored. It leaves baseline and loss; never a 0."""

    reason: str


@dataclass
class RewardContext:
    """What a reward may need beyond its keywords; given to it when it has a parameter named `context`.

    Attributes:
        tokenizer: the policy's tokenizer.
        device: where a reward that runs a model should run it.
        seed: the run's seed.
        base_dir: relative paths in the recipe start here.
        deterministic: repeated runs must give equal numbers.
        max_completion_length: policy tokens per episode.
        trainer_state: the trainer's state (`global_step`, ...), set by the trainer while training.
    """

    tokenizer: Any = None
    device: torch.device | None = None
    seed: int = 0
    base_dir: Path = field(default_factory=Path)
    deterministic: bool = False
    max_completion_length: int = 0
    trainer_state: Any = None


@dataclass(frozen=True)
class RewardInfo:
    """What `@reward` declares (see there)."""

    name: str
    kind: Kind
    needs_success: bool = False
    replaces_outcome: bool = False


@dataclass(frozen=True)
class RewardError:
    """One trajectory that one reward could not score: `index` is its place in the list given to the suite."""

    label: str
    index: int
    message: str


@dataclass
class Scores:
    """The rewards of N trajectories. All arrays are float64 or bool of shape (N,).

    Attributes:
        values: label -> unweighted value; NaN where the reward does not apply or failed.
        weights: label -> the weight at this step, schedule included.
        counted: label -> bool (N,): the value enters the sums; it applies, and its gate (`only_when_correct`) is open.
        outcome, shaping: weighted sums by kind; a reward that does not apply counts as nothing. NaN where not valid.
        total: outcome + shaping; NaN where no reward applied, or not valid.
        token_rewards: weighted sum of the token-level rewards, one value per policy token; None where there are none.
            Their sums are part of `shaping`, `outcome` and `total`.
        valid: False where the episode or a reward failed: the row leaves baseline and loss.
        errors: what failed.
        correct: success, as the recipe's `success` section says. By default: the weighted outcome sum is at least half
            of the most it could be with rewards between 0 and 1, that is, of the sum of the positive weights
            (before their schedules) of the outcome rewards that apply. False without an outcome.
        seconds: label -> wall time.
        attempted, failures: label -> trajectories the reward was given, and those it failed on.
        metrics: means of what rewards logged with `log_metric`, over all that logged under a name, as in TRL.
        extras: columns that rewards logged with `log_extra`, one entry per trajectory (None where not given); a list
            where several values were logged for it. Also written to `trajectory.extras`.
    """

    values: dict[str, NDArray[np.float64]]
    weights: dict[str, float]
    counted: dict[str, NDArray[np.bool_]]
    outcome: NDArray[np.float64]
    shaping: NDArray[np.float64]
    total: NDArray[np.float64]
    token_rewards: list[NDArray[np.float64] | None]
    valid: NDArray[np.bool_]
    errors: list[RewardError]
    correct: NDArray[np.bool_]
    seconds: dict[str, float]
    attempted: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    extras: dict[str, list[Any]] = field(default_factory=dict)


def reward(name: str, *, kind: Kind, needs_success: bool = False, replaces_outcome: bool = False) -> Callable[[T], T]:
    """Declare a function or class as a reward.

    Args:
        name: under which recipes and logs know it.
        kind: "outcome" (is it right?) or "shaping" (how was it reached?).
        needs_success: it calls `success(trajectories)`; a recipe in which no outcome reward decides that is refused
            before training, instead of at the first scoring.
        replaces_outcome: its values are a whole reward minus 1[success], so that with the outcome the sum is that
            reward. That holds only where the success's outcome is 0 or 1 and has weight 1; others are refused.
    """
    if kind not in ("outcome", "shaping"):
        raise ValueError(f"reward {name!r}: kind must be 'outcome' or 'shaping', not {kind!r}")
    if kind == "outcome" and needs_success:
        raise ValueError(f"reward {name!r}: outcomes decide what is a success and cannot ask for it (needs_success)")
    if replaces_outcome and not needs_success:
        raise ValueError(f"reward {name!r}: replaces_outcome takes 1[success] away, so it needs needs_success=True")

    def declare(target: T) -> T:
        target.__reward__ = RewardInfo(name, kind, needs_success, replaces_outcome)  # type: ignore[attr-defined]
        return target

    return declare
