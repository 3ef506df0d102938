"""One process's share of a window: whole groups with their scores, taken apart and put together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from cib_rl.plugin import Scores
from cib_rl.trajectory import Trajectory

_ARRAYS = ("outcome", "shaping", "total", "valid", "correct")


@dataclass
class Window:
    """One process's share of a window: whole groups, adjacent, with their scores.

    `in_loss` (N,) is False where a row must not train: its group was flat and could not be replaced, it failed, or it
    was cut off and the recipe masks such rows. `played` has the scores of each call of the suite, groups that were
    replaced included: what belongs to calls, not to rows (timings, failures, logged numbers), stands there.
    """

    trajectories: list[Trajectory]
    scores: Scores
    in_loss: np.ndarray
    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    played: list[Scores] = field(default_factory=list)


def slice_scores(scores: Scores, rows: slice) -> Scores:
    """The scores of a run of rows. Errors are renumbered; what counts calls (timings, failures) is the whole's."""
    indices = range(*rows.indices(len(scores.total)))
    return replace(
        scores,
        values={label: v[rows] for label, v in scores.values.items()},
        counted={label: v[rows] for label, v in scores.counted.items()},
        extras={column: v[rows] for column, v in scores.extras.items()},
        errors=[replace(e, index=e.index - indices.start) for e in scores.errors if e.index in indices],
        token_rewards=scores.token_rewards[rows],
        **{name: getattr(scores, name)[rows] for name in _ARRAYS},
    )


def concatenate(groups: list[Window], counts: dict[str, int], seconds: dict[str, float]) -> Window:
    """One window of many groups."""
    parts = [g.scores for g in groups]
    offsets = np.cumsum([0] + [len(g.trajectories) for g in groups])
    columns = dict.fromkeys(column for p in parts for column in p.extras)
    scores = replace(
        parts[0],
        values={label: np.concatenate([p.values[label] for p in parts]) for label in parts[0].values},
        counted={label: np.concatenate([p.counted[label] for p in parts]) for label in parts[0].counted},
        extras={c: [v for p in parts for v in p.extras.get(c, [None] * len(p.total))] for c in columns},
        errors=[replace(e, index=int(e.index + o)) for p, o in zip(parts, offsets, strict=False) for e in p.errors],
        token_rewards=[r for p in parts for r in p.token_rewards],
        **{name: np.concatenate([getattr(p, name) for p in parts]) for name in _ARRAYS},
    )
    trajectories = [t for g in groups for t in g.trajectories]
    return Window(trajectories, scores, np.concatenate([g.in_loss for g in groups]), counts, seconds)
