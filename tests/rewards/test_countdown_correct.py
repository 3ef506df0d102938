"""countdown_correct within the suite."""

from __future__ import annotations

from typing import Any

import pytest

from cib_rl.countdown.problems import task_rows
from cib_rl.plugin import PluginError, RewardContext, RewardSuite
from cib_rl.recipe import RewardSection
from cib_rl.trajectory import Trajectory

SUITE = RewardSuite([RewardSection(name="countdown_correct")], RewardContext())
ROW = {"id": "a", "prompt": "?", "answer": {"solution": "3*8+12"}, "numbers": [3, 8, 12], "target": 36}


def values(*answers: str | None, row: dict[str, Any] = ROW) -> list[float]:
    scores = SUITE.score([Trajectory(task=row, group=0, answer=answer) for answer in answers])
    return scores.values["countdown_correct"].tolist()


def test_an_answer_must_make_the_target_from_all_numbers():
    assert values("3*8+12", "12 + (8*3)") == [1.0, 1.0]
    assert values("3*8+11", "36", "3*12", "3*8+12+0", "", "3*8+12=36)", None) == [0.0] * 7


def test_gold_solutions_of_generated_problems_are_right():
    rows = task_rows("train", 50)
    target = SUITE.rewards[0].target
    assert {g.outcome for g in target.grade_golds(rows)} == {"right"}
    assert values(*(row["answer"]["solution"] for row in rows[:1]), row=rows[0]) == [1.0]
    broken = [rows[0] | {"target": rows[0]["target"] + 1}, rows[0] | {"answer": {}}, rows[0] | {"answer": "1"}]
    assert {g.outcome for g in target.grade_golds(broken)} == {"wrong"}


def test_missing_columns_are_named():
    with pytest.raises(PluginError, match="needs the columns numbers and target; the row 'a' has id, prompt"):
        values("1", row={"id": "a", "prompt": "?", "answer": "1"})
