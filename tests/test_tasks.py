"""Task rows and the stream."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.errors import UserError
from cib_rl.recipe import TaskSection
from cib_rl.tasks import TaskStream, load_rows


def _write(path, rows):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_json_lines_rows_are_renamed_and_keep_their_columns(tmp_path, name):
    _write(tmp_path / name, [{"id": 5, "problem": "1+1", "gold": "2", "level": {"a": 1}}])
    section = TaskSection(name="jsonl", path=name, columns={"prompt": "problem", "answer": "gold"})
    assert load_rows(section, tmp_path) == [
        {"id": "5", "problem": "1+1", "gold": "2", "level": {"a": 1}, "prompt": "1+1", "answer": "2"}
    ]


def test_the_gold_after_a_marker_is_cut_out(tmp_path):
    _write(tmp_path / "a.jsonl", [{"prompt": "q", "answer": "so 3*400 #### 1,200"}])
    section = TaskSection(name="jsonl", path="a.jsonl", answer_after="####")
    assert load_rows(section, tmp_path)[0]["answer"] == "1200"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"prompt": "q", "answer": 1}\n{"prompt": "q"', "a.jsonl, line 2: not JSON"),
        ('{"prompt": "q", "answer": 1}\n[1]', "line 2: a row must be an object"),
        ('{"question": "q", "answer": 1}', "no 'prompt'; it has question, answer. Map one with task.columns"),
        ('{"prompt": "", "answer": 1}', "not empty"),
        ("", "holds no rows"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, text, match):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(UserError, match=match):
        load_rows(TaskSection(name="jsonl", path="a.jsonl"), tmp_path)


def test_a_missing_file_column_or_source_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no file .*none\.jsonl"):
        load_rows(TaskSection(name="jsonl", path="none.jsonl"), tmp_path)
    _write(tmp_path / "a.jsonl", [{"q": "x", "answer": 1}])
    with pytest.raises(UserError, match=r"no column 'Q' \(task.columns.prompt\)"):
        load_rows(TaskSection(name="jsonl", path="a.jsonl", columns={"prompt": "Q"}), tmp_path)
    with pytest.raises(UserError, match="unknown source 'json'; known: countdown, fiction, hub, jsonl, mix"):
        load_rows(TaskSection(name="json"), tmp_path)


@given(st.integers(1, 20), st.integers(0, 5), st.lists(st.integers(0, 13), max_size=8))
def test_draws_are_each_row_once_per_epoch_however_they_are_taken(size, seed, takes):
    rows = [{"id": i} for i in range(size)]
    stream = TaskStream(rows, seed)
    drawn = [pair for take in takes for pair in stream.draw(take)]
    assert [n for n, _ in drawn] == list(range(sum(takes)))
    for start in range(0, len(drawn) - size + 1, size):
        assert sorted(row["id"] for _, row in drawn[start : start + size]) == list(range(size))


@given(st.integers(1, 20), st.integers(0, 60))
def test_a_cursor_is_all_the_state_there_is(size, cursor):
    rows = [{"id": i} for i in range(size)]
    whole = TaskStream(rows, 1)
    whole.draw(cursor)
    resumed = TaskStream(rows, 1)
    resumed.cursor = cursor
    assert resumed.draw(25) == whole.draw(25)


def test_epochs_are_ordered_differently():
    stream = TaskStream([{"id": i} for i in range(30)], 0)
    first, second = ([row["id"] for _, row in stream.draw(30)] for _ in range(2))
    assert first != second


def test_a_hub_data_set_is_read_from_local_files_of_the_same_format(tmp_path):
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    _write(folder / "train.jsonl", [{"question": "q", "answer": "x #### 7"}])
    section = TaskSection(
        name="hub",
        path="gsm8k",
        columns={"prompt": "question"},
        answer_after="####",
    )
    (row,) = load_rows(section, tmp_path)
    assert (row["prompt"], row["answer"], row["id"]) == ("q", "7", "0")


def test_a_mix_holds_the_rows_of_all_sources_with_their_own_columns(tmp_path):
    _write(tmp_path / "nq.jsonl", [{"id": 1, "question": "a?", "golden_answers": ["x"], "metadata": None}])
    _write(
        tmp_path / "hotpot.jsonl",
        [{"id": 1, "question": "b?", "golden_answers": ["y", "z"], "metadata": {"type": "comparison"}}],
    )
    columns = {"prompt": "question", "answer": "golden_answers"}
    section = TaskSection(
        name="mix",
        sources=[
            {"name": "jsonl", "path": "nq.jsonl", "columns": columns, "constants": {"type": "na"}},
            {"name": "jsonl", "path": "hotpot.jsonl", "columns": {**columns, "type": "metadata.type"}},
        ],
    )
    rows = load_rows(section, tmp_path)
    assert [(r["id"], r["prompt"], r["answer"], r["type"]) for r in rows] == [
        ("0:1", "a?", ["x"], "na"),
        ("1:1", "b?", ["y", "z"], "comparison"),
    ]
    assert len(load_rows(section.model_copy(update={"limit": 1}), tmp_path)) == 1


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ({"name": "mix"}, r"task\.sources is missing"),
        ({"name": "mix", "sources": [{"path": "a.jsonl"}]}, r"task\.sources\.0"),
        ({"name": "mix", "sources": [{"name": "jsonl", "path": "none.jsonl"}]}, "no file"),
        ({"name": "mix", "sources": []}, r"task\.sources is missing"),
        (
            {"name": "mix", "sources": [{"name": "fiction"}], "path": "a"},
            r"task\.path: mix does not read it; give it to",
        ),
        ({"name": "mix", "sources": [{"name": "fiction", "path": "a"}]}, r"task\.path: fiction does not read it"),
        ({"name": "countdown", "constants": {"a": 1}}, r"task\.constants: countdown does not read it; leave it out"),
        (
            {"name": "jsonl", "path": "a.jsonl", "columns": {"type": "metadata.kind"}},
            "no column 'metadata.kind'.*it has type",
        ),
    ],
)
def test_a_wrong_mix_or_dotted_column_is_named(tmp_path, section, complaint):
    _write(tmp_path / "a.jsonl", [{"prompt": "q", "answer": 1, "metadata": {"type": "x"}}])
    with pytest.raises(UserError, match=complaint):
        load_rows(TaskSection.model_validate(section), tmp_path)
