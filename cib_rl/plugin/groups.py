"""What a reward may ask about the trajectories it is given together: which belong to one prompt, which succeeded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cib_rl.plugin.contract import PluginError
from cib_rl.trajectory import Trajectory


def by_group(trajectories: Sequence[Trajectory]) -> list[list[int]]:
    """The indices of the trajectories of each group, that is, of the completions of one prompt.

    Told by the number `trajectory.group`, wherever in the list they stand. A reward is always given whole groups,
    without the episodes that failed.
    """
    groups: dict[int, list[int]] = {}
    for i, trajectory in enumerate(trajectories):
        groups.setdefault(trajectory.group, []).append(i)
    return list(groups.values())


def success(trajectories: Sequence[Trajectory]) -> NDArray[np.bool_]:
    """Which trajectories are successes, shape (N,): `Scores.correct`, as the outcome rewards have decided it.

    For shaping rewards, which run after the outcome rewards. Declare them with `@reward(..., needs_success=True)`, so
    that a recipe without an outcome is refused before training.

    Raises:
        PluginError: no outcome reward has judged a trajectory (the recipe has none, or the caller is one).
    """
    for t in trajectories:
        if t.success is None:
            raise PluginError(
                f"row {t.task.get('id')!r}: whether it is a success is not known; this needs an outcome reward in "
                "the recipe (such as math_correct), and is for shaping rewards, which run after it"
            )
    return np.array([t.success for t in trajectories], dtype=bool)
