"""What the tests of reward plugins share: trajectories without a model, plugin files, suites that close themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cib_rl.plugin import RewardContext, RewardSuite
from cib_rl.recipe import RewardSection
from cib_rl.trajectory import Segment, StopReason, Trajectory


def trajectory(
    group: int = 0, *, tokens: int = 3, environment: int = 0, stop: StopReason | None = None, **task: Any
) -> Trajectory:
    """One episode with `tokens` policy tokens and, after the first, `environment` tokens of the environment's."""
    segment = Segment([1, 2])
    segment.append_policy([5], [-1.0])
    segment.append_environment([9] * environment)
    segment.append_policy([6] * (tokens - 1), [-1.0] * (tokens - 1))
    text = task.pop("text", "some text")
    row = {"id": f"task-{group}", "prompt": "a question", "answer": "1"} | task
    return Trajectory(task=row, group=group, segments=[segment], text=text, policy_text=text, stop_reason=stop)


@pytest.fixture(name="trajectory")
def _trajectory() -> Callable[..., Trajectory]:
    return trajectory


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[..., str]:
    """Writes a plugin file with the given source (the contract is imported for it) and returns its name."""

    def write(source: str, name: str = "mine.py") -> str:
        header = "from cib_rl.plugin import Failed, TokenRewards, reward\n"
        (tmp_path / name).write_text(header + source)
        return name

    return write


@pytest.fixture
def suite(tmp_path: Path) -> Iterator[Callable[..., RewardSuite]]:
    """Builds suites from sections given as dicts; closes them after the test."""
    made: list[RewardSuite] = []

    def build(*sections: dict[str, Any], **context: Any) -> RewardSuite:
        made.append(RewardSuite([RewardSection(**s) for s in sections], RewardContext(base_dir=tmp_path, **context)))
        return made[-1]

    yield build
    for one in made:
        one.close()
