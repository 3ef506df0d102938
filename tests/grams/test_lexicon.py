"""Lists of grams: files of both kinds, and what is refused."""

import json

import pytest

from cib_rl.errors import UserError
from cib_rl.grams import GramMatcher, load_grams
from cib_rl.grams.lexicon import read_grams
from cib_rl.grams.match import words


def test_json_text_and_a_list_give_the_same_phrases_each_once(tmp_path):
    phrases = ["let me think", "wait", "Wait a bit"]
    entries = [{"gram": p, "cluster": 3, "examples": ["…"]} for p in [*phrases, "wait"]]
    (tmp_path / "g.json").write_text(json.dumps({"version": 1, "settings": {"n": [3, 5]}, "grams": entries}))
    (tmp_path / "g.txt").write_text("# mine\nlet me think\n\n wait\nWait a bit\nwait\n")
    assert load_grams("g.json", tmp_path) == load_grams("g.txt", tmp_path) == load_grams(phrases) == phrases


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("none.json", None, "cannot read"),
        ("g.json", "", "is empty"),
        ("g.json", "{", "is not JSON"),
        ("g.json", '{"version": 2, "grams": []}', "version 2; this cib-rl reads version 1"),
        ("g.json", '{"grams": []}', "version: Field required"),
        ("g.json", "[]", "valid dictionary"),
        ("g.json", '{"version": 1, "grams": [{"gram": "wait"}, {"phrase": "so"}]}', "grams.1.gram: Field required"),
        ("g.json", '{"version": 1, "grams": []}', "no gram in it"),
        ("g.json", '{"version": 1, "grams": [{"gram": "wait"}, {"gram": "…"}]}', "entry 1: '…' holds no word"),
        ("g.txt", "# nothing\n", "no gram in it"),
        ("g.txt", "wait\n\n--\n", "line 3: '--' holds no word"),
        ("g.txt", b"wait\n\xff", "not UTF-8 text (byte 5)"),
    ],
)
def test_a_bad_file_is_refused_by_name_and_place(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        load_grams(name, tmp_path)
    assert says in str(error.value) and name in str(error.value)


def test_an_empty_list_is_refused():
    with pytest.raises(UserError, match="no gram"):
        load_grams([])


def test_the_shipped_grams_are_phrases_of_2_to_6_words_that_are_found(tmp_path):
    content = read_grams("shipped")
    grams = load_grams("shipped", tmp_path)
    assert grams == [entry.gram for entry in content.grams] and 80 <= len(grams) <= 150
    assert all(2 <= len(list(words(gram))) <= 6 for gram in grams)
    assert {entry.model_dump()["cluster"] for entry in content.grams} == {
        "deduction", "branching", "backtracking", "verification",
    }  # fmt: skip
    matcher = GramMatcher(grams)
    for number, gram in enumerate(grams):
        # Nothing longer or earlier hides it, and it is written only once.
        assert [match.gram for match in matcher.find(f"x. {gram.capitalize()}. x")] == [number]
