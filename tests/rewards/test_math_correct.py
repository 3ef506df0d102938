"""math_correct within the suite: right, wrong and error stay apart."""

from __future__ import annotations

import numpy as np

from cib_rl.plugin import RewardContext, RewardSuite
from cib_rl.recipe import RewardSection
from cib_rl.trajectory import Trajectory


def episode(group: int, gold: object, answer: str | None) -> Trajectory:
    return Trajectory(task={"id": group, "prompt": "?", "answer": gold}, group=group, answer=answer)


def test_right_wrong_missing_and_error():
    suite = RewardSuite([RewardSection(name="math_correct", timeout=8.0, workers=1)], RewardContext())
    try:
        made = [
            episode(0, r"\frac{1}{2}", "0.5"),
            episode(0, r"\frac{1}{2}", "0.6"),
            episode(1, 72, "72"),
            episode(1, 72, None),
            episode(2, "72", "9^{9^{9^{9}}}"),
            episode(2, 0.25, "1/4"),
        ]
        scores = suite.score(made)
    finally:
        suite.close()
    np.testing.assert_equal(scores.values["math_correct"], [1.0, 0.0, 1.0, 0.0, np.nan, 1.0])
    assert scores.valid.tolist() == [True, True, True, True, False, True]
    assert [(e.index, e.message) for e in scores.errors] == [(4, "timeout: more than 8 s")]
    assert scores.correct.tolist() == [True, False, True, False, False, True]


def test_golds_are_not_found_right_by_being_equal_texts():
    suite = RewardSuite([RewardSection(name="math_correct", workers=1)], RewardContext())
    try:
        rows = [{"answer": r"\frac{1}{2}"}, {"answer": "an arbitrary {"}, {"answer": 7}]
        grades = suite.rewards[0].target.grade_golds(rows)
    finally:
        suite.close()
    assert [g.outcome for g in grades] == ["right", "error", "right"]
