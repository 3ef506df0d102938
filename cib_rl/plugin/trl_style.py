"""Reward functions written for TRL, `f(prompts, completions, **columns)`, used as they are."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cib_rl.plugin.contract import PluginError, RewardContext
from cib_rl.plugin.signature import call_of
from cib_rl.trajectory import Trajectory

# Columns of the task row that TRL does not pass on either.
_NOT_COLUMNS = ("prompt", "completion", "completion_ids")
_FROM_TRL = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
_POSITIONAL = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
)


def is_trl_style(plugin: Any) -> bool:
    """True for a function that names `prompts`, `completions` or `completion_ids`, or has no place for trajectories.

    Of a class its `__call__` is looked at.
    """
    if inspect.isclass(plugin) and "__call__" not in dir(plugin):
        return False
    try:
        parameters = inspect.signature(call_of(plugin) if inspect.isclass(plugin) else plugin).parameters
    except (TypeError, ValueError):
        return False
    if {"prompts", "completions", "completion_ids"} & set(parameters):
        return True
    return bool(parameters) and not any(
        p.kind in _POSITIONAL for p in parameters.values()
    )  # f(**kwargs), as TRL calls it


@dataclass
class Logged:
    """What a function logged: `metrics` name -> values; `extras` column -> trajectory (by identity) -> values."""

    metrics: dict[str, list[float]] = field(default_factory=dict)
    extras: dict[str, dict[int, list[Any]]] = field(default_factory=dict)

    def clear(self) -> None:
        self.metrics.clear()
        self.extras.clear()


class TrlStyle:
    """Calls a TRL reward function, or an object that is called like one, with what TRL's GRPOTrainer would give it.

    Completions are the policy's own tokens decoded without special tokens, as one assistant message each when the
    task's prompt is a list of messages. Columns are those of the task rows (None where a row lacks one); keywords of
    the recipe come on top.
    """

    def __init__(self, name: str, function: Any, keywords: Mapping[str, Any], context: RewardContext) -> None:
        self.name, self.function, self.keywords, self.context = name, function, dict(keywords), context
        self.logged = Logged()
        self.known: dict[str, None] = {}  # columns of the rows checked so far: a window may be of rows without one
        parameters = inspect.signature(function).parameters
        self.takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        self.accepted = set(parameters)
        self.required = [
            p.name
            for p in parameters.values()
            if p.default is inspect.Parameter.empty
            and p.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        ]
        unknown = [key for key in self.keywords if key not in self.accepted and not self.takes_all]
        if unknown:
            shown = f"{getattr(function, '__name__', name)}{inspect.signature(function)}"
            raise PluginError(f"reward {name!r} has no keyword {unknown[0]!r}; its signature is {shown}")

    def check_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raises PluginError when the function requires a column that no row has."""
        columns = _columns(rows)
        self._require(columns)
        self.known |= columns

    def _require(self, columns: Iterable[str]) -> None:
        missing = [key for key in self.required if key not in {*columns, *self.keywords, *_FROM_TRL}]
        if missing:
            raise PluginError(
                f"reward {self.name!r} needs {missing[0]!r}, but the task rows have only {', '.join(columns)}; map a "
                f"column (task.columns: {{{missing[0]}: NAME}}) or give it as a keyword of the reward"
            )

    def __call__(self, trajectories: list[Trajectory]) -> Any:
        fresh: set[str] = set()

        def log_extra(column: str, values: list[Any]) -> None:
            own = self.logged.extras.setdefault(column, {})
            for t, value in zip(trajectories, values, strict=True):
                # What an earlier call left that then failed is replaced.
                own[id(t)] = [*(own[id(t)] if column in fresh else ()), value]
            fresh.add(column)

        def log_metric(name: str, value: float) -> None:
            self.logged.metrics.setdefault(name, []).append(float(value))

        names = self.known | _columns(t.task for t in trajectories)
        self._require(names)
        columns = {key: [t.task.get(key) for t in trajectories] for key in names}
        given = (
            columns
            | {
                "trainer_state": self.context.trainer_state or _at_start(),
                "log_extra": log_extra,
                "log_metric": log_metric,
            }
            | self.keywords
            | {
                "prompts": [t.task["prompt"] for t in trajectories],
                "completions": [self._completion(t) for t in trajectories],
                "completion_ids": [t.policy_ids for t in trajectories],
            }
        )
        return self.function(**{k: v for k, v in given.items() if self.takes_all or k in self.accepted})

    def _completion(self, trajectory: Trajectory) -> str | list[dict[str, str]]:
        text = trajectory.policy_text
        if self.context.tokenizer is not None:
            text = str(self.context.tokenizer.decode(trajectory.policy_ids, skip_special_tokens=True))
        return text if isinstance(trajectory.task["prompt"], str) else [{"role": "assistant", "content": text}]


def _at_start() -> Any:
    """The trainer's state where nothing is trained (a trial, an evaluation, another trainer): that of step 0."""
    from transformers import TrainerState

    return TrainerState()


def _columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, None]:
    """The columns of the rows, each once and in their order."""
    return dict.fromkeys(key for row in rows for key in row if key not in _NOT_COLUMNS)
