"""A reward bound to its recipe section: keywords checked, object built, ready to be called on trajectories."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cib_rl.plugin.contract import PluginError, RewardContext
from cib_rl.plugin.registry import find_reward
from cib_rl.plugin.roles import role_of
from cib_rl.plugin.signature import check_keywords, keyword_parameters
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
        role = role_of(section, plugin)
        name, self.label, self.kind = role.name, role.label, role.kind
        self.weight = section.weight
        self.call_timeout, self.call_concurrency = section.call_timeout, section.call_concurrency
        self.max_error_share = section.max_error_share
        self._schedule = sorted((section.weight_schedule or {0: 1.0}).items())
        self.only_when_correct = section.only_when_correct
        self.replaces_outcome = role.replaces_outcome
        self.logged: Logged | None = None
        self._call: Callable[[list[Trajectory]], Any]
        if inspect.isclass(plugin):
            self.target = _build(name, plugin, section, context)
            if not callable(self.target):
                raise PluginError(f"reward {name!r}: the class {plugin.__name__} has no __call__(self, trajectories)")
            self._call = self.target
            if is_trl_style(plugin):
                adapter = TrlStyle(name, self.target, {}, context)
                self.logged, self._call = adapter.logged, adapter
        elif is_trl_style(plugin):
            self.target = plugin
            adapter = TrlStyle(name, plugin, section.kwargs, context)
            self.logged, self._call = adapter.logged, adapter
        else:
            self.target = plugin
            parameters = keyword_parameters(plugin, skip=1)
            keywords = check_keywords(name, plugin, parameters, section.kwargs)
            if "context" in parameters:
                keywords["context"] = context
            self._call = lambda trajectories: plugin(trajectories, **keywords)
        called = self.target if inspect.isroutine(self.target) else type(self.target).__call__
        self.is_async = inspect.iscoroutinefunction(called)
        for key in ("call_timeout", "call_concurrency"):
            if getattr(section, key) is not None and not self.is_async:
                raise PluginError(f"reward {name!r}: {key} is for async rewards; this one is a plain {_what(plugin)}")

    def weight_at(self, step: int) -> float:
        """The weight at a training step: `weight` times the schedule's factor, on straight lines between its points."""
        steps, factors = zip(*self._schedule, strict=True)
        return self.weight * float(np.interp(step, steps, factors))

    def __call__(self, trajectories: list[Trajectory]) -> Any:
        """What the plugin returns, or an awaitable of it."""
        return self._call(trajectories)


def _what(plugin: Any) -> str:
    return "class" if inspect.isclass(plugin) else "function"


def _build(name: str, plugin: Any, section: RewardSection, context: RewardContext) -> Any:
    # A class without __init__ has the signature of object: no keywords.
    parameters = keyword_parameters(plugin, skip=0) if plugin.__init__ is not object.__init__ else {}
    keywords = check_keywords(name, plugin, parameters, section.kwargs)
    if "context" in parameters:
        keywords["context"] = context
    return plugin(**keywords)
