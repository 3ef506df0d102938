"""Short answers: normalisation, exact match, F1, containment, yes and no; checked against a second implementation."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.grading.qa import cover_match, exact_match, f1, normalise, polarity


def stepwise(text: str) -> str:
    """Search-R1's order, one step after the other: lower case, punctuation, articles, white space."""
    text = text.lower()
    for mark in string.punctuation:
        text = text.replace(mark, "")
    text = re.sub(r"\b(a|an|the)\b", " ", text)
    return re.sub(r"\s+", " ", text).strip()


@pytest.mark.parametrize(
    "text, normal",
    [
        ("The  Beatles!", "beatles"),
        ("U.S.A.", "usa"),  # punctuation goes before articles: "u s a" would lose its a
        ("a-ha", "aha"),
        ("An apple\ta day", "apple day"),
        ("Theory", "theory"),
        ("14 December 1972 UTC", "14 december 1972 utc"),
        ("Wilhelm Conrad Röntgen", "wilhelm conrad röntgen"),
        ("The The", "the the"),
        ("A", "a"),
        ("?!", "?!"),
        (" \n", ""),
    ],
)
def test_normal_forms(text, normal):
    assert normalise(text) == normal


@given(st.text(alphabet="aAnN thHeE.,!?-'\"_ \n9", max_size=30))
def test_normalisation_is_search_r1s_unless_nothing_is_left(text):
    assert normalise(text) == (stepwise(text) or " ".join(text.lower().split()))


@given(st.text(max_size=30))
def test_normalising_twice_changes_nothing_more(text):
    once = normalise(text)
    assert normalise(once) == once or not stepwise(text)


def test_any_gold_answer_will_do_and_none_is_empty():
    golds = ["14 December 1972 UTC", "December 1972"]
    assert exact_match(golds=golds, prediction="december, 1972.")
    assert not exact_match(golds=golds, prediction="1972")
    assert not exact_match(golds=golds, prediction="")
    assert not exact_match(golds=["", " "], prediction="  ")


def test_answers_of_articles_and_marks_alone_are_not_all_the_same():
    assert not exact_match(golds=["A"], prediction="the")
    assert not exact_match(golds=["?"], prediction="")
    assert exact_match(golds=["The The"], prediction="the  THE") and not exact_match(golds=["The The"], prediction="a")


def test_f1_by_hand():
    # 2 common words of 3 and 4: P = 2/3, R = 2/4, F1 = 2·(2/3·1/2)/(2/3+1/2) = 4/7
    assert f1(golds=["Arthur Philip of Wales"], prediction="the King Arthur Philip") == pytest.approx(4 / 7)
    # A word counts as often as it stands on both sides: 1 common of 3 and 1.
    assert f1(golds=["duran"], prediction="duran duran duran") == pytest.approx(0.5)
    assert f1(golds=["x y", "king arthur"], prediction="arthur") == pytest.approx(2 / 3)
    assert f1(golds=["paris"], prediction="london") == 0.0
    assert f1(golds=["", " "], prediction="") == 0.0


def test_yes_and_no_are_never_partly_right():
    assert f1(golds=["yes"], prediction="yes it is") == 0.0 == f1(golds=["no man's land"], prediction="no")
    assert f1(golds=["yes"], prediction="Yes.") == 1.0


WORDS = st.lists(st.sampled_from(["king", "the", "of", "wales", "arthur", "x"]), max_size=6).map(" ".join)


@given(st.lists(WORDS, min_size=1, max_size=3), WORDS)
def test_relations_between_the_measures(golds, prediction):
    score = f1(golds=golds, prediction=prediction)
    assert 0.0 <= score <= 1.0
    assert exact_match(golds=golds, prediction=prediction) <= (score == 1.0)
    assert exact_match(golds=golds, prediction=prediction) <= cover_match(golds=golds, prediction=prediction)
    assert score == max(f1(golds=[gold], prediction=prediction) for gold in golds)
    if len(golds) == 1:
        assert score == f1(golds=[prediction], prediction=golds[0]), "precision and recall change places"


def test_a_contained_answer_stands_there_in_whole_words():
    assert cover_match(golds=["Walter Mondale"], prediction="It was Walter Mondale, in 1984.")
    assert not cover_match(golds=["no"], prediction="unknown")
    assert cover_match(golds=["no"], prediction="unknown", whole_words=False)
    assert not cover_match(golds=["1984"], prediction="in 19845")
    assert not cover_match(golds=["", "?"], prediction="anything")


@pytest.mark.parametrize(
    "text, said",
    [
        ("yes", True),
        ("Yes, because it floats.", True),
        ("TRUE", True),
        ("no", False),
        ("False.", False),
        ("No, there is nothing", False),
        ("yes and no", None),
        ("No... yes", None),
        ("Maybe yes", None),
        ("nothing", None),
        ("", None),
        ("the", None),
    ],
)
def test_what_says_yes_and_what_says_no(text, said):
    assert polarity(text) is said
