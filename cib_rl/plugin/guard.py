"""Rewards share the trajectories with each other, with credit and with the loss: none may change them, and what they
attach must be numbers."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import numpy as np

from cib_rl.plugin.contract import PluginError
from cib_rl.trajectory import Trajectory


class Guard:
    """Remembers what trajectories are, but for what a reward may add: tracks under new names, and `diagnostics`."""

    def __init__(self, trajectories: Sequence[Trajectory]) -> None:
        self._trajectories = trajectories
        self._tracks = [tuple(t.tracks) for t in trajectories]
        self._before = [_parts(t, tracks) for t, tracks in zip(trajectories, self._tracks, strict=True)]

    def check(self, who: str) -> None:
        """Make floats of the diagnostics. Raises PluginError, blaming `who`, when one is no number, or something that
        may not be changed has been."""
        for trajectory, tracks, before in zip(self._trajectories, self._tracks, self._before, strict=True):
            changed = [name for name, value in _parts(trajectory, tracks).items() if value != before[name]]
            if changed:
                raise PluginError(
                    f"reward {who} changed `{changed[0]}` of a trajectory (row {trajectory.task.get('id')!r}): rewards "
                    "must leave what they are given as it is; work on a copy"
                )
            for name, value in trajectory.diagnostics.items():
                trajectory.diagnostics[name] = _number(name, value, trajectory, who)


def _number(name: str, value: object, trajectory: Trajectory, who: str) -> float:
    single = getattr(value, "item", None) if getattr(value, "shape", None) == () else None
    number = single() if single else value  # of numpy or torch
    if isinstance(number, Real | np.bool_):
        return float(number)
    raise PluginError(
        f"reward {who} attached the diagnostic {name!r} = {value!r} to a trajectory (row "
        f"{trajectory.task.get('id')!r}): diagnostics are numbers"
    )


def _parts(t: Trajectory, tracks: Sequence[str]) -> dict[str, int]:
    """A hash of each part, by its name; of the tracks those that are named."""
    return {
        "segments": hash(
            tuple(
                (tuple(s.prompt_ids), tuple(s.completion_ids), tuple(s.logprobs), tuple(s.policy_mask))
                for s in t.segments
            )
        ),
        "turns": hash(repr(t.turns)),
        "tracks": hash(tuple(tuple(t.tracks.get(name, ())) for name in tracks)),
        "task": hash(repr(t.task)),
        "text": hash((t.text, t.policy_text)),
        "answer": hash(t.answer),
        "group": hash((t.group, t.member)),
        "stop_reason": hash(t.stop_reason),
        "rewards": hash(tuple(t.rewards.items())),
        "extras": hash(repr(t.extras)),
        "success": hash(t.success),
        "errors": hash(tuple(t.errors)),
    }
