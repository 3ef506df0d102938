"""The whole audit of samples."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from cib_rl.audit.after import AfterAnswer, after_answer
from cib_rl.audit.measures import (
    Bools,
    Composition,
    Cost,
    Floats,
    Gap,
    Ints,
    Shortest,
    composition,
    cost_and_length,
    length_gap,
    shortest_right,
)
from cib_rl.errors import UserError
from cib_rl.evals.statistics import Estimate, clustered_proportion
from cib_rl.integrations.scorer import RewardSpec, Scorer, Settings
from cib_rl.plugin.scores import stop_on_failures
from cib_rl.samples.load import Samples, as_sampled
from cib_rl.samples.outcome import choose_outcome


@dataclass(frozen=True)
class Audit:
    """What samples of several problems show. Arrays have shape (N,), for the N completions that could be judged.

    Attributes:
        notes: what was chosen, in words.
        tokens, correct, groups: of each completion.
        left_out: completions that failed, or that the outcome could not judge.
        per_problem: the fewest and the most completions of a problem.
        accuracy, truncated: shares of completions.
        cost: None when no prior was named.
    """

    source: str
    notes: list[str]
    tokens: Floats
    correct: Bools
    groups: Ints
    left_out: int
    problems: int
    per_problem: tuple[int, int]
    accuracy: Estimate
    truncated: Estimate
    groups_by_outcome: Composition
    shortest: Shortest
    gap: Gap
    after: AfterAnswer
    cost: Cost | None


def audit_samples(
    samples: Samples, *, outcome: RewardSpec | None = None, prior: Mapping[str, Any] | None = None
) -> Audit:
    """Audit samples.

    Args:
        outcome: which reward says what is right (see `choose_outcome`).
        prior: the `prior` of a surprisal reward, for the cost.

    Raises:
        UserError: nothing says what is right, nothing could be judged, or the prior cannot be loaded.
    """
    chosen = choose_outcome(samples, outcome)
    settings = Settings(samples.tokenizer, answer=samples.answer_style, success=chosen.success)
    trajectories = [as_sampled(t) for t in samples.trajectories]
    with closing(Scorer([s.model_dump(exclude_none=True) for s in chosen.sections], settings)) as scorer:
        scores = scorer.suite.score(trajectories, stop=False)
        if not scores.valid.any():
            stop_on_failures(scorer.suite.rewards, scores)
            raise UserError(f"{samples.source}: all of its {len(trajectories)} completions failed")
    judged = np.flatnonzero(scores.valid & ~np.isnan(scores.outcome))
    kept = [trajectories[i] for i in judged]
    tokens = np.array([t.num_tokens for t in kept], dtype=np.float64)
    groups = np.array([t.group for t in kept], dtype=np.intp)
    correct = scores.correct[judged]
    sizes = np.unique(groups, return_counts=True)[1]
    return Audit(
        source=str(samples.source),
        notes=[*samples.notes, chosen.note],
        tokens=tokens,
        correct=correct,
        groups=groups,
        left_out=len(trajectories) - len(kept),
        problems=len(sizes),
        per_problem=(int(sizes.min()), int(sizes.max())),
        accuracy=clustered_proportion(correct.astype(np.float64), groups),
        truncated=clustered_proportion(np.array([t.truncated for t in kept], dtype=np.float64), groups),
        groups_by_outcome=composition(correct, groups),
        shortest=shortest_right(tokens, correct, groups),
        gap=length_gap(tokens, correct, groups),
        after=after_answer(kept, correct.tolist(), samples.tokenizer, samples.answer_style),
        cost=None if prior is None else _cost(kept, prior, settings, tokens, correct, groups),
    )


def _cost(kept: list[Any], prior: Mapping[str, Any], settings: Settings, *columns: Any) -> Cost:
    """Costs as the surprisal reward counts them: −Σ log Q over the policy's tokens, in nats."""
    spec = {"name": "surprisal", "prior": dict(prior), "track": "surprisal"}
    with closing(Scorer([spec], Settings(settings.tokenizer, answer=settings.answer))) as scorer:
        scores = scorer.suite.score([as_sampled(t) for t in kept], stop=False)
        if np.isnan(scores.values["surprisal"]).all():
            stop_on_failures(scorer.suite.rewards, scores)
    return cost_and_length(-scores.values["surprisal"], *columns)
