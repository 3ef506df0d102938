"""Gold answers are graded against themselves before a run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cib_rl.errors import UserError
from cib_rl.grading.pool import RIGHT, WRONG, Grade
from cib_rl.grading.selfcheck import check_golds, check_recipe_golds

ROWS = [{"id": f"r{i}", "prompt": "p", "answer": str(i)} for i in range(20)]


class Grader:
    """Calls rows wrong that are not among `good`; counts its calls."""

    def __init__(self, bad: dict[str, Grade]) -> None:
        self.bad, self.calls = bad, 0

    def __call__(self, rows):
        self.calls += 1
        return [self.bad.get(row["answer"], RIGHT) for row in rows]


def test_rows_that_do_not_grade_as_right_are_listed_and_stop_the_run(tmp_path):
    bad = {"3": Grade("error", "cannot be read"), "7": WRONG}
    with pytest.raises(UserError) as stopped:
        check_golds(ROWS, Grader(bad), allowed_share=0.09, cache_dir=tmp_path)
    message = str(stopped.value)
    assert "2 of 20 gold answers" in message and "task.max_ungradable: 0.101" in message
    assert "row 3 (id r3): '3': cannot be read" in message and "row 7 (id r7): '7': graded as wrong" in message


def test_the_recipe_may_allow_a_share(tmp_path):
    report = check_golds(ROWS, Grader({"3": WRONG, "7": WRONG}), allowed_share=0.1, cache_dir=tmp_path)
    assert [u.index for u in report.ungradable] == [3, 7] and report.share == 0.1


def test_results_are_kept_by_data_and_version(tmp_path):
    grader = Grader({"3": WRONG})

    def check(rows=ROWS, version="1"):
        return check_golds(rows, grader, allowed_share=1.0, cache_dir=tmp_path, version=version)

    first, second = check(), check()
    assert (first.cached, second.cached, grader.calls) == (False, True, 1)
    assert second.ungradable == first.ungradable
    check(version="2")
    check([*ROWS[:-1], ROWS[-1] | {"answer": "other"}])
    assert grader.calls == 3


def test_a_kept_failure_still_stops_the_run(tmp_path):
    for _ in range(2):
        with pytest.raises(UserError, match="1 of 20"):
            check_golds(ROWS, Grader({"3": WRONG}), allowed_share=0.0, cache_dir=tmp_path)


def test_a_time_out_is_tried_again_and_a_damaged_file_is_replaced(tmp_path):
    grader = Grader({"3": Grade("error", "timeout: more than 5 s")})
    for calls in (1, 2):
        check_golds(ROWS, grader, allowed_share=1.0, cache_dir=tmp_path)
        assert grader.calls == calls
    grader.bad = {}
    check_golds(ROWS, grader, allowed_share=0.0, cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text('{"rows": ')
    assert not check_golds(ROWS, grader, allowed_share=0.0, cache_dir=tmp_path).cached
    assert check_golds(ROWS, grader, allowed_share=0.0, cache_dir=tmp_path).cached


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    assert check_golds(ROWS, Grader({}), allowed_share=0.0, cache_dir=tmp_path / "file" / "sub").ungradable == []


def test_a_recipe_is_checked_with_each_reward_that_can_judge_golds(tmp_path):
    able = SimpleNamespace(target=SimpleNamespace(grade_golds=Grader({"3": WRONG}), grader_version="1"))
    versionless = SimpleNamespace(target=SimpleNamespace(grade_golds=Grader({})))
    suite = SimpleNamespace(rewards=[able, SimpleNamespace(target=object()), versionless])
    recipe = SimpleNamespace(task=SimpleNamespace(max_ungradable=0.05))
    reports = check_recipe_golds(recipe, ROWS, suite, tmp_path)
    assert [len(r.ungradable) for r in reports] == [1, 0]
    assert len(list(tmp_path.iterdir())) == 1
    recipe.task.max_ungradable = 0.04
    with pytest.raises(UserError, match="1 of 20"):
        check_recipe_golds(recipe, ROWS, suite, tmp_path)
