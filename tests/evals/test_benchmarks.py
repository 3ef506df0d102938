"""Benchmarks: found by name, rows from local files in either format, golds that grade as right, bad files named."""

import gzip
import json
from pathlib import Path

import pytest

from cib_rl.errors import UserError
from cib_rl.evals.benchmarks import Benchmark, benchmark_names, get_benchmark
from cib_rl.evals.runner import check_benchmark_golds
from cib_rl.plugin import RewardContext, RewardSuite
from cib_rl.recipe import RewardSection


def _write(path, rows):
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def test_the_shipped_benchmarks_are_there_and_complete():
    assert benchmark_names() == ["countdown", "gsm8k", "math500"]
    for name in benchmark_names():
        benchmark = get_benchmark(name)
        assert benchmark.name == name and benchmark.about
        assert benchmark.environment_section().max_completion_length >= 1
        suite = RewardSuite(benchmark.rewards, RewardContext())
        assert any(reward.kind == "outcome" for reward in suite.rewards)
        suite.close()


def test_an_unknown_name_says_what_there_is_and_what_is_near():
    with pytest.raises(UserError, match=r"countdown, gsm8k, math500.*Did you mean 'gsm8k'"):
        get_benchmark("gsm8")
    with pytest.raises(UserError, match="cannot be loaded"):
        get_benchmark("no.such.module:THING")
    with pytest.raises(UserError, match="is a function, not a Benchmark"):
        get_benchmark("json:dumps")


def test_a_third_partys_benchmark_is_found_by_its_import_path():
    assert isinstance(get_benchmark("cib_rl.evals.benchmarks.gsm8k:BENCHMARK"), Benchmark)


@pytest.mark.parametrize("name", ["gsm8k", "math500"])
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_local_file_in_either_format_gives_rows(tmp_path, name, suffix):
    plain = _write(tmp_path / f"a{suffix}", [{"id": "x", "problem": "2+2?", "answer": "4", "level": 1}])
    marked = _write(tmp_path / f"b{suffix}", [{"question": "2+2?", "answer": "It is 2+2.\n#### 1,004"}])
    assert get_benchmark(name).rows(plain, None) == [
        {"id": "x", "problem": "2+2?", "prompt": "2+2?", "answer": "4", "level": 1}
    ]
    (row,) = get_benchmark(name).rows(marked, None)
    assert (row["id"], row["prompt"], row["answer"]) == ("0", "2+2?", "1004")


def test_the_first_problems_are_taken_and_too_few_are_an_error(tmp_path):
    path = _write(tmp_path / "a.jsonl", [{"problem": str(i), "answer": "4"} for i in range(5)])
    assert [row["prompt"] for row in get_benchmark("gsm8k").rows(path, 3)] == ["0", "1", "2"]
    with pytest.raises(UserError, match=r"asked for 6 problems of gsm8k, but .*a\.jsonl holds 5"):
        get_benchmark("gsm8k").rows(path, 6)
    with pytest.raises(UserError, match="at least 1"):
        get_benchmark("gsm8k").rows(path, 0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no rows"),
        ("{broken\n", "the first row is not JSON"),
        ('{"text": "a"}\n', r"needs columns problem \(or question\) and answer; the first row has text"),
        ("[1]\n", "first row has list"),
        ('{"problem": "a", "answer": "1"}\n{"problem": "b"}\n', "line 2: no 'answer'"),
        ('{"question": "a", "answer": "#### 1"}\n{"question": "b", "answer": "2"}\n', "line 2: no '####'"),
        (
            '{"id": 1, "problem": "a", "answer": "1"}\n{"id": 1, "problem": "b", "answer": "2"}\n',
            "two rows have the id",
        ),
    ],
)
def test_bad_files_are_named_with_the_row(tmp_path, content, words):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        get_benchmark("gsm8k").rows(path, None)
    assert "bad.jsonl" in str(caught.value)


def test_a_missing_file_is_named():
    for name in benchmark_names():
        with pytest.raises(UserError, match=r"no file .*nowhere"):
            get_benchmark(name).rows(Path("nowhere.jsonl"), None)


def test_an_environment_key_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="environment of benchmark gsm8k"):
        get_benchmark("gsm8k").environment_section({"max_completion_length": 0})
    assert get_benchmark("gsm8k").environment_section({"suffix": "!"}).suffix == "!"


def test_countdown_rows_are_held_out_distinct_and_gradable():
    benchmark = get_benchmark("countdown")
    rows = benchmark.rows(None, 40)
    assert len({row["id"] for row in rows}) == 40
    assert benchmark.rows(None, 20) == rows[:20]  # fewer problems are the first of more
    suite = RewardSuite(benchmark.rewards, RewardContext())
    check_benchmark_golds(rows, suite, 0.0)
    rows[3]["target"] += 1
    with pytest.raises(UserError, match="1 of 40 gold answers"):
        check_benchmark_golds(rows, suite, 0.0)
    check_benchmark_golds(rows, suite, 0.03)


@pytest.mark.data
@pytest.mark.parametrize(("name", "file", "count"), [("gsm8k", "gsm8k_test", 1319), ("math500", "math500", 500)])
def test_the_real_golds_grade_as_right(data_dir, name, file, count):
    benchmark = get_benchmark(name)
    rows = benchmark.rows(data_dir / "math" / f"{file}.jsonl", None)
    assert len(rows) == count
    suite = RewardSuite([RewardSection(name="math_correct")], RewardContext())
    try:
        check_benchmark_golds(rows, suite, benchmark.max_ungradable)
    finally:
        suite.close()
