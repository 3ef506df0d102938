"""Placebo grams: how many, how long, how frequent, and apart from the strategic ones wherever these stand."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.errors import UserError
from cib_rl.grams import GramMatcher, load_grams
from cib_rl.grams.match import words
from cib_rl.grams.placebo import placebo

# "let me see" in 8 solutions, "so it is" in 3. Of three words there are also, apart from them: "the red box" in 8, "a
# blue box" in 7, "one old hat" in 3; "me see now" in 8 touches a strategic one each time, "by the sea" only once.
SOLUTIONS = [
    *["let me see now . the red box . a blue box . by the sea"] * 4,
    *["let me see now . the red box . a blue box"] * 3,
    "Let me see now , the RED box . let me see by the sea . see by the",
    *["so it is . one old hat"] * 3,
    "see by the shore",
]
GRAMS = ["let me see", "so it is"]


def drawn(grams=GRAMS, **keywords):
    return placebo(grams, SOLUTIONS, **{"min_solutions": 2, **keywords})


def test_each_gram_has_a_partner_of_as_many_words_and_about_as_many_solutions():
    found = {seed: {e["like"]: (e["gram"], e["solutions"]) for e in drawn(seed=seed)["grams"]} for seed in range(8)}
    assert {pair["let me see"] for pair in found.values()} == {("the red box", 8), ("a blue box", 7)}
    assert {pair["so it is"] for pair in found.values()} == {("one old hat", 3)}
    assert drawn(seed=3) == drawn(seed=3)
    assert all(e["like_solutions"] == {"let me see": 8, "so it is": 3}[e["like"]] for e in drawn()["grams"])


@pytest.mark.parametrize("seed", range(4))
def test_where_nothing_is_about_as_frequent_the_nearest_is_taken(seed):
    solutions = ["so it is"] * 3 + ["a blue box"] * 10 + ["the red box"] * 12
    (entry,) = placebo(["so it is"], solutions, min_solutions=1, seed=seed)["grams"]
    assert (entry["gram"], entry["solutions"], entry["like_solutions"]) == ("a blue box", 10, 3)


def test_the_settings_say_how_it_was_drawn_and_what_both_cover():
    settings = drawn(["let me see", "so it is", "no such thing", "wait, what"], seed=5)["settings"]
    assert (settings["seed"], settings["min_solutions"], settings["solutions"]) == (5, 2, 12)
    assert settings["without_partner"] == 2
    count = sum(1 for text in SOLUTIONS for _ in words(text))
    assert settings["like_word_share"] == pytest.approx(3 * (7 + 2 + 3) / count, abs=1e-5)


def test_a_drawn_file_is_a_file_that_hicra_reads(tmp_path):
    (tmp_path / "p.json").write_text(json.dumps(drawn()))
    assert load_grams("p.json", tmp_path) == [e["gram"] for e in drawn()["grams"]]


@pytest.mark.parametrize(
    ("grams", "keywords", "says"),
    [
        (["no such thing"], {}, "none of the 1 grams stands in 2 of the 12 solutions"),
        (GRAMS, {"min_solutions": 9}, "none of the 2 grams stands in 9"),
        (["the red box", "a blue box", "let me see", "me see now", "one old hat", "so it is", "by the sea"], {},
         r"of 3 words, fewer n-grams keep apart .* than there are of these \(7\)"),
    ],
)  # fmt: skip
def test_where_none_can_be_drawn_the_reason_is_named(grams, keywords, says):
    with pytest.raises(UserError, match=says):
        drawn(grams, **keywords)


TEXTS = st.lists(st.lists(st.sampled_from("abcdef."), max_size=12).map(" ".join), min_size=1, max_size=8)


@given(solutions=TEXTS, grams=st.lists(st.sampled_from(["a b", "b c", "c d e", "f"]), min_size=1, unique=True))
def test_no_occurrence_of_a_placebo_touches_one_of_a_strategic_gram(solutions, grams):
    try:
        content = placebo(grams, solutions, min_solutions=1)
    except UserError:
        return
    names = [entry["gram"] for entry in content["grams"]]
    assert len(set(names)) == len(names) == len(grams) - content["settings"]["without_partner"]
    assert Counter(len(n.split()) for n in names) == Counter(len(e["like"].split()) for e in content["grams"])
    for text in solutions:
        covered = [
            {c for m in GramMatcher([name]).find(text) for c in range(m.start, m.end) if text[c] != " "}
            for name in (*grams, *names)
        ]
        strategic = set().union(*covered[: len(grams)])
        assert all(not strategic & own for own in covered[len(grams) :])
