"""The whole trial of one reward: scores, what it goes along with, reversals, probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cib_rl.errors import UserError
from cib_rl.integrations.scorer import RewardSpec, to_section
from cib_rl.plugin import find_reward
from cib_rl.samples.load import Samples
from cib_rl.samples.outcome import choose_outcome
from cib_rl.trajectory import Trajectory
from cib_rl.tryout.hacks import ProbeResult, Rules, hacked, run_probes
from cib_rl.tryout.judge import Judge, Judged, reward_section, settings_of
from cib_rl.tryout.measures import Agreement, Distribution, agreements, distribution
from cib_rl.tryout.others import Other, built_in, score_others
from cib_rl.tryout.probes import ProbeMaker
from cib_rl.tryout.quiet import tracebacks
from cib_rl.tryout.reversals import Reversals, find_reversals


@dataclass(frozen=True)
class Trial:
    """Everything found about a reward on N completions.

    Attributes:
        label, kind, weight: of the tried reward.
        samples: what it was tried on; trajectories: its trajectories with what rewards attached.
        notes: what was chosen, in words; agreement: share of the file's own labels that the outcome agrees
            with, None where the file has none.
        distribution, agreements, others: of the reward alone; asked: the user has named the others.
        alone, together: reversals by the reward alone, and by the total.
        probes: empty when none were asked for.
        rules: what a hack is.
    """

    label: str
    kind: str
    weight: float
    samples: Samples
    trajectories: list[Trajectory]
    judged: Judged
    notes: list[str]
    agreement: float | None
    distribution: Distribution
    agreements: list[Agreement]
    others: list[Other]
    asked: bool
    alone: Reversals
    together: Reversals
    probes: list[ProbeResult]
    rules: Rules

    @property
    def hacks(self) -> list[ProbeResult]:
        """The probes that count as hacks."""
        return hacked(self.probes)


def try_reward(
    spec: str,
    samples: Samples,
    *,
    keywords: Mapping[str, Any] | None = None,
    weight: float | None = None,
    outcome: RewardSpec | None = None,
    against: Sequence[RewardSpec] | None = None,
    max_completion_length: int | None = None,
    probes: int = 64,
    rules: Rules | None = None,
    seed: int = 0,
) -> Trial:
    """Try a reward on samples.

    Args:
        spec: built-in name, entry point, package.module:name or path/file.py:name.
        keywords: its keywords and the other keys of a recipe's reward section (only_when_correct, kind, ...).
        weight: its weight beside the outcome; default: the recipe's where the samples are a run's and its recipe has
            this reward (whose keywords are then taken, too), else 1.
        outcome: which reward says what is right (see `choose_outcome`).
        against: other rewards to compare with; None: the built-in ones that can be scored here.
        max_completion_length: for rewards that ask for the limit; default: the run's, else not known.
        probes: use so many honest completions for the hacking probes; 0: no probes.
        rules: what counts as a hack.
        seed: of probes and rewards.

    Raises:
        UserError: a reward cannot be found or built, or fails on every completion; rows lack what it needs.
    """
    rules = rules or Rules()
    for other in against or []:  # one that cannot be scored here is reported; one that does not exist is a mistake
        find_reward(to_section(other).name, Path.cwd())
    chosen = choose_outcome(samples, outcome)
    settings = settings_of(samples, max_completion_length=max_completion_length, seed=seed)
    section, note = reward_section(spec, weight, keywords or {}, samples.origin)
    with closing(Judge(section, chosen, settings)) as judge:
        judged, scored = _score(judge, samples)
        maker = ProbeMaker(samples.tokenizer, samples.answer_style, limit=settings.max_completion_length, seed=seed)
        with tracebacks(0):
            tested = run_probes(judge, samples.trajectories, judged, maker, rules, limit=probes) if probes else []
        label, kind, by = judge.label, judge.reward.kind, judge.weight
        taken = [label, *(section.name for section in chosen.sections)]
    groups = np.array([t.group for t in scored])
    with tracebacks(0):
        others = score_others(against if against is not None else built_in(taken), scored, settings)
    return Trial(
        label=label,
        kind=kind,
        weight=by,
        samples=samples,
        trajectories=scored,
        judged=judged,
        notes=[*samples.notes, chosen.note, *([note] if note else [])],
        agreement=_agreement(samples.labels, judged),
        distribution=distribution(judged, groups),
        agreements=agreements(judged.values, _numbers(judged, scored, others), groups),
        others=others,
        asked=against is not None,
        alone=find_reversals(np.where(judged.counted, judged.values, np.nan), judged.correct, groups),
        together=find_reversals(judged.earned, judged.correct, groups),
        probes=tested,
        rules=rules,
    )


def _score(judge: Judge, samples: Samples) -> tuple[Judged, list[Trajectory]]:
    """See `Judge`. Raises UserError where there is not one value."""
    with tracebacks(1):
        judged, scored = judge(samples.trajectories)
    if judged.hopeless is not None:
        raise UserError(judged.hopeless)
    if not judged.attempted:
        first = next((error for t in scored for error in t.errors), "its episode failed")
        raise UserError(f"{samples.source}: no completion could be scored; the first: {first}")
    if np.isnan(judged.values).all():
        raise UserError(f"reward {judge.label!r} applies to none of the {len(scored)} completions (all None)")
    return judged, scored


def _numbers(judged: Judged, scored: Sequence[Trajectory], others: Sequence[Other]) -> dict[str, NDArray[np.float64]]:
    """What the reward is compared with. Shapes (N,)."""
    numbers = {
        "outcome": np.where(np.isnan(judged.earned), np.nan, judged.correct.astype(np.float64)),
        "tokens": np.array([t.num_tokens for t in scored], dtype=np.float64),
    }
    return numbers | {other.label: other.values for other in others if other.values is not None}


def _agreement(labels: Sequence[bool | None], judged: Judged) -> float | None:
    pairs = [
        label == bool(right)
        for label, right, earned in zip(labels, judged.correct, judged.earned, strict=True)
        if label is not None and not np.isnan(earned)
    ]
    return sum(pairs) / len(pairs) if pairs else None
