"""Reading what a reward returned: one checked result per trajectory, whatever the reward did."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Sequence
from typing import Any

import numpy as np

from cib_rl.plugin.contract import Failed, TokenRewards
from cib_rl.trajectory import Trajectory

logger = logging.getLogger(__name__)

# A number (None: does not apply), the values of TokenRewards, or why there is none.
Result = float | None | np.ndarray | Failed


class BadReturn(Exception):
    """A reward returned something that cannot be matched with its trajectories, or returned too late."""


def describe(label: str, error: Exception) -> str:
    """One line for an exception a reward raised, with the place where it was raised; the traceback goes to the log."""
    if not isinstance(error, BadReturn):  # ours: its traceback holds no line of the reward
        logger.warning("reward %s raised", label, exc_info=error)
    frames = traceback.extract_tb(error.__traceback__)
    at = "" if isinstance(error, BadReturn) or not frames else f" ({frames[-1].filename}:{frames[-1].lineno})"
    kind = "" if isinstance(error, BadReturn) else f"{type(error).__name__}: "
    return f"{kind}{error}{at}"


def as_list(returned: Any, count: int) -> list[Any]:
    """What a reward returned as a list of `count` items; raises BadReturn."""
    if isinstance(returned, str | bytes | dict | set) or not hasattr(returned, "__len__"):
        raise BadReturn(f"returned {_kind_of(returned)} instead of a list with one value per trajectory")
    if len(returned) != count:
        raise BadReturn(f"returned {len(returned)} values for {count} trajectories")
    return list(returned)


def as_result(item: Any, trajectory: Trajectory) -> Result:
    """One returned item, checked. Anything that is no finite number becomes Failed."""
    if item is None or isinstance(item, Failed):
        return item
    if isinstance(item, TokenRewards):
        return _token_values(item.values, trajectory.num_tokens)
    try:
        if isinstance(item, str | bytes):
            raise TypeError
        value = float(item)
    except (TypeError, ValueError):
        return Failed(f"returned {_kind_of(item)} instead of a number, None, TokenRewards or Failed")
    return value if math.isfinite(value) else Failed(f"returned {value}")


def _token_values(values: Sequence[float], tokens: int) -> Result:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        return Failed(f"returned TokenRewards that are no list of numbers ({error})")
    if array.shape != (tokens,):
        return Failed(f"returned TokenRewards of shape {array.shape} for {tokens} policy tokens")
    bad = np.flatnonzero(~np.isfinite(array))
    return Failed(f"returned TokenRewards with {array[bad[0]]} at token {bad[0]}") if bad.size else array


def _kind_of(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"
