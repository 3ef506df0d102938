"""Workers: verdicts in order, hard limits, replacement, clean ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cib_rl.grading.pool import RIGHT, WRONG, Grade, GradingPool

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[GradingPool]:
    monkeypatch.syspath_prepend(str(HERE))
    made = GradingPool("graders:grade", workers=2, timeout=2.0, memory_mb=1024)
    yield made
    made.close()


def ok(value: int = 0) -> dict:
    return {"what": "", "value": value}


def test_grades_come_in_the_order_of_the_items(pool):
    values = list(range(50))
    assert pool.grade([ok(v) for v in values]) == [RIGHT if v % 2 == 0 else WRONG for v in values]


@pytest.mark.parametrize(
    "what, cause",
    [
        ("sleep", "timeout: more than 2 s"),
        ("busy", "timeout: more than 2 s"),
        ("die", "the worker died (exit code 7)"),
        ("crash", "the worker died (signal 11)"),
        ("raise", "ValueError: no idea"),
        ("deep", "RecursionError"),
        ("memory", "memory: more than 1024 MB"),
    ],
)
def test_what_goes_wrong_with_one_answer_is_its_error_alone(pool, what, cause):
    before = pool.grade([ok()] * 8) and pool.processes
    grades = pool.grade([ok(0), ok(1), {"what": what}, ok(2), ok(3), ok(4)])
    assert grades[:2] + grades[3:] == [RIGHT, WRONG, RIGHT, WRONG, RIGHT]
    assert grades[2].outcome == "error" and cause in grades[2].cause
    assert pool.grade([ok(0), ok(1)]) == [RIGHT, WRONG]
    if what not in ("raise", "deep"):
        assert set(pool.processes) != set(before), "the worker was not replaced"
        assert not all(alive(pid) for pid in before), "the old worker still lives"


def test_more_hostile_answers_than_workers(pool):
    grades = pool.grade([{"what": "die"}] * 5 + [ok(0)] + [{"what": "sleep"}] * 2 + [ok(1)])
    assert [g.outcome for g in grades] == ["error"] * 5 + ["right"] + ["error"] * 2 + ["wrong"]


@pytest.mark.parametrize("what", ["die", "sleep", "memory"])
def test_what_waits_behind_a_hostile_answer_is_graded_by_another_worker(pool, what):
    """A worker is given several items at once; those it had not begun are not lost with it."""
    items = [ok(v) for v in range(40)]
    items[3:3] = [{"what": what}]
    grades = pool.grade(items)
    assert [g.outcome for g in grades] == ["right", "wrong", "right", "error"] + ["wrong", "right"] * 18 + ["wrong"]


def test_an_items_time_begins_when_the_one_before_is_done(pool):
    """Eight items of 0.7 s in one worker's hands: together far over the limit of 2 s, none by itself."""
    pool.size = 1
    assert pool.grade([{"what": "doze", "value": v} for v in range(8)]) == [RIGHT, WRONG] * 4


def test_large_items_behind_a_stuck_one_do_not_block_the_pool(pool):
    """More than a pipe holds: writing them to a worker that does not read would wait for ever."""
    large = [{"what": "x" * 50_000, "value": v} for v in range(12)]
    grades = pool.grade([{"what": "sleep"}, *large])
    assert [g.outcome for g in grades] == ["error"] + ["right", "wrong"] * 6


@pytest.mark.parametrize(
    "what, kind", [("sleep", "timeout"), ("memory", "memory"), ("crash", "crash"), ("raise", "ValueError")]
)
def test_errors_have_a_kind_to_count_them_by(pool, what, kind):
    assert pool.grade([{"what": what}])[0].kind == kind
    assert RIGHT.kind == ""


def test_what_a_library_prints_does_not_reach_the_verdicts(pool):
    assert pool.grade([{"what": "print", "value": 0}, ok(1)] * 3) == [RIGHT, WRONG] * 3


def test_a_large_item_goes_through(pool):
    assert pool.grade([ok(0) | {"what": "x" * 3_000_000}, ok(1)]) == [RIGHT, WRONG]


def test_workers_start_with_the_first_item_and_only_as_many_as_needed(pool):
    assert pool.processes == [] and pool.grade([]) == [] and pool.processes == []
    pool.grade([ok()])
    assert len(pool.processes) == 1


def test_close_leaves_no_process_and_the_pool_starts_again(pool):
    pool.grade([ok()] * 4)
    before = pool.processes
    pool.close()
    pool.close()
    assert not any(alive(pid) for pid in before)
    assert pool.grade([ok(1)]) == [WRONG]


def test_threads_may_share_a_pool(pool):
    results: dict[int, list[Grade]] = {}
    threads = [threading.Thread(target=lambda n=n: results.update({n: pool.grade([ok(n)] * 5)})) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: [RIGHT if n % 2 == 0 else WRONG] * 5 for n in range(6)}


def test_an_interrupted_call_does_not_mix_up_the_next(pool, monkeypatch):
    pool.grade([ok()])
    run = pool.__class__.grade
    import cib_rl.grading.pool as module

    original = module._Run.receive
    monkeypatch.setattr(module._Run, "receive", lambda self, worker: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(pool, [ok(0), ok(0)])
    monkeypatch.setattr(module._Run, "receive", original)
    assert pool.grade([ok(1), ok(1)]) == [WRONG, WRONG]


def test_a_function_that_cannot_be_imported_is_one_clear_error():
    pool = GradingPool("no_such_module_here:grade", workers=2, timeout=2.0)
    with pytest.raises(RuntimeError, match="no_such_module_here:grade: ModuleNotFoundError"):
        pool.grade([ok()])
    assert pool.processes == []


SCRIPT = """
import sys
sys.path[:0] = [{here!r}, {root!r}]
from cib_rl.grading.pool import GradingPool
pool = GradingPool("graders:grade", workers=2, timeout={timeout}, memory_mb=1024)
pool.grade([{{"what": "", "value": 0}}] * 4)
print(*pool.processes, flush=True)
{then}
"""


def run_script(then: str, timeout: float = 2.0) -> subprocess.Popen[str]:
    """A program without a `__main__` guard that starts a pool, prints its processes, and does `then`."""
    code = SCRIPT.format(here=str(HERE), root=str(ROOT), timeout=timeout, then=then)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_the_end_of_the_program_ends_the_workers():
    with run_script("") as program:
        assert program.stdout is not None
        pids = [int(pid) for pid in program.stdout.read().split()]
        assert program.wait(60) == 0
    assert pids and gone(pids)


@pytest.mark.parametrize("item", ["", pytest.param("busy", marks=pytest.mark.slow)])
def test_workers_end_by_themselves_when_the_program_is_killed(item):
    with run_script(f'pool.grade([{{"what": "{item}"}}] * 2); import time; time.sleep(3600)', 2.0) as program:
        assert program.stdout is not None
        pids = [int(pid) for pid in program.stdout.readline().split()]
        time.sleep(0.5)  # let it hand out the item
        program.kill()
    assert pids and gone(pids)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True


def gone(pids: list[int], seconds: float = 60.0) -> bool:
    """Whether all processes end within `seconds`."""
    end = time.monotonic() + seconds
    while any(alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(alive(pid) for pid in pids)
