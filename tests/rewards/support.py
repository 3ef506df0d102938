"""What the tests of efficiency rewards share: completions without a model, an outcome they are told, suites of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from cib_rl.plugin import RewardContext, RewardSuite, Scores, reward
from cib_rl.recipe import RewardSection
from cib_rl.trajectory import Segment, StopReason, Trajectory

OUTCOME = f"{Path(__file__).resolve()}:right"


@reward("right", kind="outcome")
def right(trajectories):
    """What the row says."""
    return [float(t.task["right"]) for t in trajectories]


class Row(NamedTuple):
    """One completion as a paper sees it."""

    group: int
    right: bool
    tokens: int
    cut: bool = False
    answered: bool = True


def completion(row: Row, **task: Any) -> Trajectory:
    """Its trajectory; one token of the environment's stands among the policy's and must not count."""
    segment = Segment([1, 2])
    segment.append_policy([5] * row.tokens, [-1.0] * row.tokens)
    segment.append_environment([9])
    return Trajectory(
        {"id": f"task-{row.group}", "prompt": "q", "right": row.right, **task},
        row.group,
        segments=[segment],
        stop_reason=StopReason.LENGTH if row.cut else StopReason.EOS,
        answer="1" if row.answered else None,
    )


def score(section: dict[str, Any], trajectories: list[Trajectory], weight: float = 1.0, **context: Any) -> Scores:
    """Scores under the outcome, with `weight`, and one shaping reward."""
    # By module: looking a name up reads all entry points, which is slow in a loop over examples.
    module = f"cib_rl.rewards.{section['name']}:{section['name']}"
    sections = [RewardSection(name=OUTCOME, weight=weight), RewardSection(**(section | {"name": module}))]
    suite = RewardSuite(sections, RewardContext(**({"max_completion_length": 64} | context)))
    try:
        return suite.score(trajectories)
    finally:
        suite.close()


def totals(section: dict[str, Any], rows: Sequence[Row], **keys: Any) -> list[float]:
    """Total rewards of the rows."""
    return score(section, [completion(row) for row in rows], **keys).total.tolist()


def batches(longest: int = 80) -> st.SearchStrategy[list[Row]]:
    """Rows of up to three prompts in any order; a right one has an answer."""
    row = st.builds(Row, st.integers(0, 2), st.booleans(), st.integers(0, longest), st.booleans(), st.booleans())
    return st.lists(row.map(lambda r: r._replace(answered=r.answered or r.right)), min_size=1, max_size=10)


def expected(rows: Sequence[Row], paper: Callable[[Row, list[Row]], float]) -> list[float]:
    """A paper's reward, given a completion and all completions of its prompt."""
    return [paper(row, [other for other in rows if other.group == row.group]) for row in rows]


def outranked(rows: Sequence[Row], total: Sequence[float]) -> bool:
    """Whether a wrong completion has more than a right one of the same prompt, by more than rounding."""
    pairs = [(a, b) for a in range(len(rows)) for b in range(len(rows)) if rows[a].group == rows[b].group]
    return any(not rows[a].right and rows[b].right and total[a] > total[b] + 1e-9 for a, b in pairs)


def close(got: Sequence[float], wanted: Sequence[float]) -> None:
    np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9)
