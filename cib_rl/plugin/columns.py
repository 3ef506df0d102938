"""Numbers of the task row that a reward or prior is steered by, such as a target length per problem."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cib_rl.plugin.contract import PluginError


def number_in(task: Mapping[str, Any], column: str, *, who: str, least: float = -math.inf) -> float:
    """The number in `task[column]`.

    Raises:
        PluginError: the column is missing or holds no finite number, or one below `least`; names the row and `who`
            needs it.
    """
    value = task.get(column)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= least:
        return float(value)
    wanted = "a number" if least == -math.inf else f"a number of at least {least:g}"
    raise PluginError(
        f"{who} needs {wanted} in the column {column!r} of each task row; row {task.get('id')!r} "
        + ("has no such column" if column not in task else f"holds {value!r}")
    )


def column_of(reference: str, *, who: str) -> str:
    """COLUMN of `task.COLUMN`. Raises PluginError for any other text."""
    prefix, _, column = reference.partition(".")
    if prefix != "task" or not column:
        raise PluginError(f"{who}: target must be a number or task.COLUMN, got {reference!r}")
    return column
