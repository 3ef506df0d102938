"""Calling one reward so that its errors stay with the groups they belong to."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

from cib_rl.plugin.contract import Failed, PluginError
from cib_rl.plugin.groups import by_group
from cib_rl.plugin.results import Result, as_list, as_result, describe
from cib_rl.trajectory import Trajectory


def call_isolated(label: str, call: Callable[[list[Trajectory]], Any], given: list[Trajectory]) -> list[Result]:
    """One result per trajectory.

    When the call raises or its list has the wrong length, each group is tried alone, and the groups on which it goes
    wrong again are Failed. A PluginError (a mistake in the recipe or the data's columns) is raised. A group is the
    smallest unit: its members share a baseline, so a reward may compare them.
    """
    try:
        returned = as_list(call(given), len(given))
        return [as_result(item, trajectory) for item, trajectory in zip(returned, given, strict=True)]
    except (CancelledError, PluginError):
        raise
    except Exception as error:
        groups = by_group(given)
        if len(groups) == 1:
            where = f"group {given[0].group} (task {given[0].task.get('id')!r})"
            return [Failed(f"{describe(label, error)}, on {where}")] * len(given)
    results: list[Result] = [None] * len(given)
    for members in groups:
        alone = call_isolated(label, call, [given[i] for i in members])
        for i, result in zip(members, alone, strict=True):
            results[i] = result
    return results
