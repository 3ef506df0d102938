"""The other rewards on the same completions, to see whether a new one says anything that they do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cib_rl.errors import UserError
from cib_rl.integrations.scorer import RewardSpec, Scorer, Settings
from cib_rl.plugin import describe_rewards
from cib_rl.trajectory import Trajectory


@dataclass(frozen=True)
class Other:
    """Another reward: its values (N,), NaN where it has none, or why it could not be scored here."""

    label: str
    values: NDArray[np.float64] | None
    why_not: str = ""


def built_in(without: Sequence[str]) -> list[str]:
    """Names of the built-in rewards, but for those named. Other packages' rewards must be asked for: they may cost."""
    return [d.name for d in describe_rewards() if d.origin.startswith("cib_rl.rewards.") and d.name not in without]


def score_others(specs: Sequence[RewardSpec], judged: Sequence[Trajectory], settings: Settings) -> list[Other]:
    """Each reward alone on copies of trajectories whose success is known.

    One that needs keywords, columns or groups that are not there is reported with its reason, and stops nothing.
    """
    return [_score(spec, judged, settings) for spec in specs]


def _score(spec: RewardSpec, judged: Sequence[Trajectory], settings: Settings) -> Other:
    name = spec if isinstance(spec, str) else str(spec.get("name"))
    scorer = None
    try:
        scorer = Scorer([spec], replace(settings, success=None), judged=True)
        label: str = scorer.suite.names[0]
        scores = scorer.suite.score([_copy(t) for t in judged], stop=False)
    except UserError as error:
        return Other(name, None, str(error))
    finally:
        if scorer is not None:
            scorer.close()
    values: Any = scores.values[label]
    if np.isnan(values).all():
        first = scores.errors[0].message if scores.errors else "it applies to no completion"
        return Other(label, None, first)
    return Other(label, values)


def _copy(t: Trajectory) -> Trajectory:
    # Its success stays known, and what failed in an earlier scoring does not count against this one.
    errors = [error for error in t.errors if not error.startswith("reward ")]
    return replace(t, rewards={}, tracks={}, diagnostics={}, extras={}, errors=errors)
