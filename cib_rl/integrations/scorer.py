"""A reward suite outside of our own trainer: built from arguments instead of a recipe; failures are told in words."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError

from cib_rl.errors import UserError
from cib_rl.grading.answers import finder
from cib_rl.models import load_tokenizer, resolve_model, unsharded
from cib_rl.plugin import PluginError, RewardContext, RewardFailure, RewardSuite, Scores
from cib_rl.plugin.scores import failure
from cib_rl.recipe import RewardSection, SuccessSection
from cib_rl.trajectory import Trajectory

logger = logging.getLogger("cib_rl.integrations")

# A reward as an argument: its name (built-in, entry point, package.module:name, path/file.py:name), or what stands in a
# recipe's `rewards` list.
RewardSpec = str | Mapping[str, Any]

Checked = TypeVar("Checked", bound=BaseModel)

_SHOWN_ERRORS = 5


@dataclass(frozen=True)
class Settings:
    """What a recipe would say around its rewards.

    Attributes:
        tokenizer: the policy's tokenizer, or the model to take it from (hub id, folder, run, checkpoint).
        answer: where the answer stands in a completion: tag, boxed, hash, last_line or regex:PATTERN.
        columns: task column -> column of the other trainer's rows, e.g. `{"answer": "solution"}`.
        success: what counts as a success, as in a recipe: `{"threshold": 0.9}`, `{"outcome": LABEL}`.
        max_completion_length: policy tokens per completion; 0 where it is not known.
        seed, base_dir, device: see `RewardContext`. Device by default: this process' GPU, else the CPU.
        stop_after: RewardFailure is raised when a reward fails on all of the last so many completions, or on more than
            its `max_error_share` of them. The number is ours: one call may be for a few completions only.
    """

    tokenizer: Any
    answer: str = "tag"
    columns: Mapping[str, str] | None = None
    success: Mapping[str, Any] | None = None
    max_completion_length: int = 0
    seed: int = 0
    base_dir: str | Path | None = None
    device: str | torch.device | None = None
    stop_after: int = 64

    def resolved(self) -> Settings:
        """The same with a tokenizer, folder and device instead of names. Raises UserError for what cannot be found."""
        if self.tokenizer is None:
            raise UserError("rewards read tokens: give tokenizer=, the policy's tokenizer or the model to take it from")
        if self.stop_after < 1:
            raise UserError(f"stop_after must be at least 1, not {self.stop_after}")
        finder(self.answer)
        base_dir = Path(self.base_dir) if self.base_dir is not None else Path.cwd()
        tokenizer = self.tokenizer
        if isinstance(tokenizer, str | Path):
            tokenizer = load_tokenizer(resolve_model(str(tokenizer), base_dir))
        device = torch.device(self.device) if self.device is not None else _own_device()
        return replace(self, tokenizer=tokenizer, base_dir=base_dir, device=device)


class Scorer:
    """Scores trajectories as a recipe with these rewards would. One call at a time, from any thread.

    `judged`: see `RewardSuite`.

    Raises:
        UserError: a reward cannot be found or built (PluginError), or a setting is wrong.
    """

    def __init__(self, rewards: Sequence[RewardSpec], settings: Settings, *, judged: bool = False) -> None:
        self.settings = settings.resolved()
        self.context = RewardContext(
            tokenizer=self.settings.tokenizer,
            device=torch.device(self.settings.device) if self.settings.device is not None else None,
            seed=self.settings.seed,
            base_dir=Path(self.settings.base_dir or "."),
            max_completion_length=self.settings.max_completion_length,
        )
        sections = [to_section(spec) for spec in rewards]
        if not sections:
            raise PluginError("no reward is given")
        with unsharded():  # a reward's model, e.g. the prior, stays whole under ZeRO-3
            success = _checked(SuccessSection, self.settings.success, "success")
            self.suite = RewardSuite(sections, self.context, success, judged=judged)
        self._lock = threading.Lock()
        self._last: deque[Scores] = deque()

    def score(self, trajectories: list[Trajectory]) -> Scores:
        """The scores of N trajectories; what failed is warned about, naming rows.

        Raises:
            PluginError: a mistake in arguments or columns.
            RewardFailure: a reward has failed too often on the last `stop_after` completions.
        """
        with self._lock:
            scores = self.suite.score(trajectories, stop=False)
            if scores.errors:
                logger.warning(_describe_errors(scores, trajectories))
            self._last.append(scores)
            self._stop_on_failures()
            return scores

    def _stop_on_failures(self) -> None:
        """Judge the newest calls that together have at least `stop_after` completions."""
        sizes = [len(scores.valid) for scores in self._last]
        if sum(sizes) < self.settings.stop_after:
            return
        while sum(sizes) - sizes[0] >= self.settings.stop_after:
            sizes.pop(0)
            self._last.popleft()
        for r in self.suite.rewards:
            attempted, failures = (
                sum(getattr(scores, name)[r.label] for scores in self._last) for name in ("attempted", "failures")
            )
            errors = [error.message for scores in self._last for error in scores.errors if error.label == r.label]
            if message := failure(r, attempted, failures, next(iter(errors), None)):
                raise RewardFailure(f"{message} (the last {len(self._last)} calls taken for one step)")

    def close(self) -> None:
        """End what rewards have started (grading processes, clients, the event loop). May be called twice."""
        self.suite.close()


def to_section(spec: RewardSpec) -> RewardSection:
    """A reward's section from its name or mapping. Raises PluginError for one that a recipe would refuse."""
    given = {"name": spec} if isinstance(spec, str) else dict(spec)
    return _checked(RewardSection, given, f"reward {given.get('name', given)!r}")


def _checked(schema: type[Checked], given: Mapping[str, Any] | None, what: str) -> Checked:
    try:
        return schema.model_validate(dict(given or {}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PluginError(f"{what}: {where}: {first['msg']}") from error


def _own_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def _describe_errors(scores: Scores, trajectories: list[Trajectory]) -> str:
    """One text for all failures of a call; the first few by row."""
    rows = {error.index for error in scores.errors}
    shown = [
        f"row {trajectories[error.index].task.get('id')!r} (completion {error.index}): reward {error.label!r}: "
        f"{error.message}"
        for error in scores.errors[:_SHOWN_ERRORS]
    ]
    if len(scores.errors) > _SHOWN_ERRORS:
        shown.append(f"and {len(scores.errors) - _SHOWN_ERRORS} more")
    return f"{len(rows)} of {len(trajectories)} completions could not be scored: " + "; ".join(shown)
