"""Files of completions: which columns are read, which completions belong together, and what is refused."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cib_rl.errors import UserError
from cib_rl.samples.fields import read_completions
from cib_rl.samples.golds import kind_of_golds
from cib_rl.samples.read import read_rows
from tests.samples.files import write_lines

ROW = {"prompt": "What is 1 + 1?", "completion": "It is 2.", "answer": "2"}


def read(tmp_path, rows, **columns):
    return read_completions(read_rows(write_lines(tmp_path / "s.jsonl", rows)), columns)[0]


def test_one_completion_a_row_or_a_list_of_them_is_the_same(tmp_path):
    apart = read(tmp_path, [ROW, ROW | {"completion": "So 3."}])
    together = read(tmp_path, [{"prompt": ROW["prompt"], "completions": ["It is 2.", "So 3."], "answer": "2"}])
    assert [c.text for c in apart] == [c.text for c in together] == ["It is 2.", "So 3."]
    assert len({c.group for c in apart}) == len({c.group for c in together}) == 1
    assert all("completions" not in c.task and c.task["answer"] == "2" for c in together)


def test_gzipped_lines_and_parquet_tables_give_the_same_rows(tmp_path):
    rows = [ROW, ROW | {"completion": "So 3."}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "s.parquet")
    lines, packed = write_lines(tmp_path / "s.jsonl", rows), write_lines(tmp_path / "s.jsonl.gz", rows)
    read_ = [[row.values for row in read_rows(path)] for path in (lines, packed, tmp_path / "s.parquet")]
    assert read_ == [rows, rows, rows]


def test_known_names_are_found_and_others_can_be_given(tmp_path):
    (known,) = read(tmp_path, [{"problem": "p", "trace": "t", "answer": "1", "correct": False}])
    assert (known.task["prompt"], known.text, known.label) == ("p", "t", False)
    row = {"ask": "p", "said": "t", "meta": {"gold": "9"}, "key": 5}
    (named,) = read(tmp_path, [row], prompt="ask", completion="said", answer="meta.gold", group="key")
    assert (named.task["prompt"], named.text, named.task["answer"], named.group) == ("p", "t", "9", "5")


def test_the_column_solution_is_not_taken_for_the_gold_answer(tmp_path):
    (only,) = read(tmp_path, [{"prompt": "p", "completion": "t", "solution": "First, ..."}])
    assert only.task["answer"] is None


def test_a_conversation_is_its_assistants_words(tmp_path):
    (only,) = read(tmp_path, [ROW | {"completion": [{"role": "assistant", "content": "It is 2."}]}])
    assert only.text == "It is 2."
    tool = [{"role": "assistant", "content": "a"}, {"role": "tool", "content": "b"}]
    with pytest.raises(UserError, match=r"line 1: .*message of 'tool'"):
        read(tmp_path, [ROW | {"completion": tool}])


TALK = [
    {"role": "user", "content": "What is 1 + 1?"},
    {"role": "assistant", "content": "I search."},
    {"role": "tool", "content": "2"},
    {"role": "assistant", "content": "It is 2."},
]


@pytest.mark.parametrize("after", [[], [{"role": "user", "content": "Episode finished."}]])
def test_of_a_conversation_alone_the_assistants_last_message_is_the_completion(tmp_path, after):
    (only,) = read(tmp_path, [{"messages": TALK + after, "answers": ["2"]}])
    assert (only.text, only.task["prompt"], only.task["answer"]) == ("It is 2.", TALK[:3], ["2"])
    (asked,) = read(tmp_path, [{"question": "What is 1 + 1?", "messages": TALK + after}])
    assert (asked.text, asked.task["prompt"]) == ("It is 2.", "What is 1 + 1?")
    assert "messages" not in asked.task


def test_messages_beside_a_completion_are_its_prompt(tmp_path):
    (only,) = read(tmp_path, [{"messages": TALK[:1], "completion": "It is 2."}])
    assert (only.text, only.task["prompt"]) == ("It is 2.", TALK[:1])


def test_a_conversation_without_the_assistant_is_refused_with_its_line(tmp_path):
    with pytest.raises(UserError, match="line 1: messages: there is none of the assistant"):
        read(tmp_path, [{"question": "q", "messages": TALK[:1]}])


def test_completions_of_one_problem_share_its_prompt_or_its_group_column(tmp_path):
    rows = [ROW, ROW | {"prompt": "What is 1 + 2?", "answer": "3"}, ROW]
    groups = [c.group for c in read(tmp_path, rows)]
    assert groups[0] == groups[2] != groups[1]
    by_column = read(tmp_path, [ROW | {"group": 1}, ROW | {"group": 2}])
    assert [c.group for c in by_column] == ["1", "2"]


@pytest.mark.parametrize(("field", "value"), [("prompt", "another"), ("answer", "7")])
def test_a_group_that_does_not_agree_with_itself_is_refused_with_both_lines(tmp_path, field, value):
    rows = [ROW | {"group": 1}, ROW | {"group": 2}, ROW | {"group": 1, field: value}]
    with pytest.raises(UserError, match=rf"line 3: it has the same group as .*line 1, but another {field}"):
        read(tmp_path, rows)


def notes(tmp_path, rows, **columns):
    return read_completions(read_rows(write_lines(tmp_path / "s.jsonl", rows)), columns)[1]


def test_a_prompt_with_several_golds_is_several_problems_and_that_is_said(tmp_path):
    rows = [ROW, ROW | {"answer": "two"}, ROW | {"answer": 2}, ROW | {"prompt": "What is 1 + 2?"}, ROW]
    groups = [c.group for c in read(tmp_path, rows)]
    assert groups[0] == groups[2] == groups[4]  # 2 says what "2" says
    assert len(set(groups)) == 3
    (note,) = notes(tmp_path, rows)
    assert note.startswith("warning: 1 of 2 prompts stand with more than one gold answer (the first: line 1 and line 2")
    assert notes(tmp_path, [ROW, ROW]) == []


def test_golds_in_another_order_are_the_same_golds_and_a_group_column_is_not_second_guessed(tmp_path):
    rows = [ROW | {"answer": ["2", "two"]}, ROW | {"answer": ["two", "2"]}]
    assert len({c.group for c in read(tmp_path, rows)}) == 1 and notes(tmp_path, rows) == []
    by_id = [ROW | {"id": 1}, ROW | {"id": 2, "answer": "two"}]
    assert notes(tmp_path, by_id, group="id") == ["group = column 'id'"]


@pytest.mark.parametrize("missing", [{}, {"answer": None}, {"answer": ""}, {"answer": []}])
def test_rows_without_a_gold_are_left_out_and_counted_with_the_first_of_them(tmp_path, missing):
    bare = {"prompt": "p", "completions": ["t", "u"]} | missing
    rows = [bare, {"prompt": "p", "completions": ["t", "u"], "answer": "1"}, bare, bare | {"prompt": "q"}]
    assert [(c.where[-6:], c.text) for c in read(tmp_path, rows)] == [("line 2", "t"), ("line 2", "u")]
    assert "left out: 3 of 4 rows, which have no gold answer; the first is line 1" in notes(tmp_path, rows)


def test_where_no_row_has_a_gold_all_stay(tmp_path):
    rows = [{"prompt": "p", "completion": "t"}, {"prompt": "p", "completion": "u", "answer": None}]
    assert [c.task["answer"] for c in read(tmp_path, rows)] == [None, None] and notes(tmp_path, rows) == []


def test_rows_without_a_gold_do_not_count_for_their_group(tmp_path):
    rows = [ROW | {"group": 1}, ROW | {"group": 1, "answer": None}]
    assert len(read(tmp_path, rows)) == 1


def test_a_gold_asked_for_is_looked_for_under_this_name_alone(tmp_path):
    rows = [ROW | {"meta": {"gold": "9"}}, ROW | {"meta": {}}, ROW]
    assert [c.task["answer"] for c in read(tmp_path, rows, answer="meta.gold")] == ["9"]
    with pytest.raises(UserError, match=r"line 1: no column 'meta.gld'; it has prompt, completion, answer, meta"):
        read(tmp_path, rows, answer="meta.gld")


def test_a_column_is_the_one_that_most_rows_have_not_that_of_the_first(tmp_path):
    rows = [{"question": "p", "trace": "t"}, *[{"question": "p", "trace": "t", "answers": ["1"]}] * 2]
    rows += [{"question": "p", "trace": "t", "answer": "1"}]
    assert [c.task["answer"] for c in read(tmp_path, rows)] == [["1"], ["1"]]


def test_what_the_file_says_about_being_cut_off_and_right(tmp_path):
    rows = [
        {"prompt": "p", "completions": ["a", "b"], "answer": "1", "truncated": [True, False], "correct": [False, True]},
        {"prompt": "q", "completions": ["a", "b"], "answer": "1", "finish_reason": ["stop", "length"]},
    ]
    found = read(tmp_path, rows)
    assert [c.truncated for c in found] == [True, False, False, True]
    assert [c.label for c in found] == [False, True, None, None]
    with pytest.raises(UserError, match=r"line 1: truncated has 3 entries for 2 completions"):
        read(tmp_path, [rows[0] | {"truncated": [True] * 3}])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"completion": "t"}], r"line 1: no column for the prompt; it has completion"),
        ([{"prompt": "p", "text": "t"}], r"line 1: no column for the completion; it has prompt, text"),
        ([ROW, {"prompt": "p", "answer": "1"}], r"line 2: no column 'completion'"),
        ([ROW | {"completion": 7}], r"line 1: a completion must be a text.*it is int"),
        ([ROW | {"completion": []}], r"line 1: .*it is an empty list"),
        ([ROW | {"prompt": ""}], r"line 1: the prompt must be"),
        ([ROW, [1]], r"line 2: a row must be an object, not list"),
        ([], r"holds no rows"),
    ],
)
def test_a_wrong_row_is_named_by_file_and_line(tmp_path, rows, words):
    with pytest.raises(UserError, match=words):
        read(tmp_path, rows)


def test_half_a_character_is_a_question_mark(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text(r'{"prompt": "p", "completion": "a \ud83d\ude00 b \uD83D", "answer": "1"}' + "\n")
    assert [row.values["completion"] for row in read_rows(path)] == ["a \U0001f600 b ?"]


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    broken = tmp_path / "s.jsonl"
    broken.write_text('{"prompt": "p"}\n{oops}\n')
    with pytest.raises(UserError, match=r"s\.jsonl, line 2: not JSON"):
        read_rows(broken)
    (tmp_path / "s.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(UserError, match=r"s\.jsonl\.gz: cannot be read as JSON Lines"):
        read_rows(tmp_path / "s.jsonl.gz")
    (tmp_path / "s.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"s\.parquet: not a readable parquet file"):
        read_rows(tmp_path / "s.parquet")


@pytest.mark.parametrize(
    ("golds", "kind"),
    [
        (["2", 3, 1.5], "text"),
        ([["2"], ["3", "4"]], "list"),
        ([{"a": 1}], "object"),
        ([True], "boolean"),
        ([None], None),
    ],
)
def test_texts_and_numbers_are_one_kind_of_gold(golds, kind):
    assert kind_of_golds([{"answer": g} for g in golds], [f"line {i}" for i in range(1, 4)]) == kind


@pytest.mark.parametrize(
    ("golds", "words"),
    [
        (["2", ["3"]], "line 2: the gold answer is a list, but a text or a number in line 1"),
        ([{"a": 1}, "2"], "line 2: the gold answer is a text or a number, but an object in line 1"),
        (["2", True], "line 2: the gold answer is a boolean"),
        (["2", None, ""], "line 2: no gold answer, and so in 2 of 3 completions"),
    ],
)
def test_mixed_and_missing_golds_are_refused_with_their_lines(golds, words):
    with pytest.raises(UserError, match=words):
        kind_of_golds([{"answer": g} for g in golds], [f"line {i}" for i in range(1, 4)])
