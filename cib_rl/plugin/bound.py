"""A reward bound to its recipe section: keywords checked, object built, ready to be called on trajectories."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cib_rl.plugin.contract import PluginError, RewardContext
from cib_rl.plugin.registry import find_reward
from cib_rl.plugin.roles import Role, role_of
from cib_rl.plugin.signature import check_call, check_keywords, keyword_parameters
from cib_rl.plugin.trl_style import Logged, TrlStyle, is_trl_style
from cib_rl.recipe import RewardSection
from cib_rl.trajectory import Trajectory


class BoundReward:
    """One reward of a recipe.

    Attributes:
        label: its name in logs. kind, only_when_correct, call_timeout, call_concurrency, max_error_share: as the recipe
            or the plugin says.
        weight: the recipe's, before its schedule (see `weight_at`); a controller may change it.
        target: the plugin's own object: the instance of a class, or the function.
        is_async: calling it gives an awaitable.
        logged: what a TRL-style function logged since it was last cleared; None for other rewards.
    """

    def __init__(self, section: RewardSection, context: RewardContext) -> None:
        plugin = find_reward(section.name, Path(context.base_dir))
        role = check_section(section, plugin)
        name, self.label, self.kind = role.name, role.label, role.kind
        self.weight = section.weight
        self.call_timeout, self.call_concurrency = section.call_timeout, section.call_concurrency
        self.max_error_share = section.max_error_share
        self._schedule = sorted((section.weight_schedule or {0: 1.0}).items())
        self.only_when_correct = section.only_when_correct
        self.replaces_outcome = role.replaces_outcome
        self.is_async = _is_async(plugin)
        self.logged: Logged | None = None
        self.target: Any = plugin
        self._call: Callable[[list[Trajectory]], Any]
        if inspect.isclass(plugin):
            self.target = plugin(**_keywords(name, plugin, section, context))
            self._call = self.target
            if is_trl_style(plugin):
                adapter = TrlStyle(name, self.target, {}, context)
                self.logged, self._call = adapter.logged, adapter
        elif is_trl_style(plugin):
            adapter = TrlStyle(name, plugin, section.kwargs, context)
            self.logged, self._call = adapter.logged, adapter
        else:
            keywords = _keywords(name, plugin, section, context)
            self._call = lambda trajectories: plugin(trajectories, **keywords)

    def weight_at(self, step: int) -> float:
        """The weight at a training step: `weight` times the schedule's factor, on straight lines between its points."""
        steps, factors = zip(*self._schedule, strict=True)
        return self.weight * float(np.interp(step, steps, factors))

    def check_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Let the plugin refuse the task's rows before any is played, where it has a `check_rows(rows)` of its own.

        Raises:
            UserError: it does.
        """
        check = getattr(self._call, "check_rows", None)
        if check is not None and rows:
            check(rows)

    def __call__(self, trajectories: list[Trajectory]) -> Any:
        """What the plugin returns, or an awaitable of it."""
        return self._call(trajectories)


def check_section(section: RewardSection, plugin: Any) -> Role:
    """The role of `plugin`, and all that can be held against its section without building it.

    Raises:
        PluginError: see `role_of`; a keyword does not fit, it cannot be called with trajectories, or it is not async
            where the section asks for that.
    """
    role = role_of(section, plugin)
    if not is_trl_style(plugin):
        check_call(role.name, plugin, ("trajectories",))
    if inspect.isclass(plugin) or not is_trl_style(plugin):
        _keywords(role.name, plugin, section)
    for key in ("call_timeout", "call_concurrency"):
        if getattr(section, key) is not None and not _is_async(plugin):
            what = "class" if inspect.isclass(plugin) else "function"
            raise PluginError(f"reward {role.name!r}: {key} is for async rewards; this one is a plain {what}")
    return role


def _is_async(plugin: Any) -> bool:
    called = plugin.__call__ if inspect.isclass(plugin) else plugin
    return inspect.iscoroutinefunction(called if inspect.isroutine(called) else type(called).__call__)


def _keywords(name: str, plugin: Any, section: RewardSection, context: RewardContext | None = None) -> dict[str, Any]:
    """What a function is called with beside the trajectories, or a class is built with."""
    is_class = inspect.isclass(plugin)
    # A class without __init__ has the signature of object: no keywords.
    bare = is_class and plugin.__init__ is object.__init__
    parameters = {} if bare else keyword_parameters(plugin, skip=0 if is_class else 1)
    keywords = check_keywords(name, plugin, parameters, section.kwargs)
    return keywords | {"context": context} if "context" in parameters else keywords
