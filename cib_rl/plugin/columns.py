"""Numbers of the task row that a reward or prior is steered by, such as a target length per problem."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cib_rl.plugin.contract import PluginError


def number_in(task: Mapping[str, Any], column: str, *, who: str) -> float:
    """The number in `task[column]`.

    Raises:
        PluginError: the column is missing or holds no finite number; names the row and `who` needs it.
    """
    value = task.get(column)
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise PluginError(
            f"{who} needs a number in the column {column!r} of each task row; row {task.get('id')!r} "
            + ("has no such column" if column not in task else f"holds {value!r}")
        )
    return float(value)


def column_of(reference: str, *, who: str) -> str:
    """COLUMN of `task.COLUMN`. Raises PluginError for any other text."""
    prefix, _, column = reference.partition(".")
    if prefix != "task" or not column:
        raise PluginError(f"{who}: target must be a number or task.COLUMN, got {reference!r}")
    return column
