"""Phrases in text: what counts as the same, where words end, and which of several is found."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.grams import GramMatcher


def found(text, *grams):
    """(what stands in the text, the phrase it is) for each match."""
    matcher = GramMatcher(grams)
    return [(text[m.start : m.end], grams[m.gram]) for m in matcher.find(text)]


@pytest.mark.parametrize(
    ("text", "gram", "there"),
    [
        ("Wait, let me think.", "wait", "Wait"),
        ("so LET  ME\nTHINK again", "let me think", "LET  ME\nTHINK"),
        ("let’s try", "let's try", "let’s try"),
        ("Straße frei", "STRASSE", "Straße"),
        ("un cafe\u0301 noir", "caf\u00e9", "cafe\u0301"),
        ("😀 wait 🎉", "wait", "wait"),
        ("\u0130stanbul", "\u0130STANBUL", "\u0130stanbul"),
        ("re-check this", "re-check", "re-check"),
        ("first, check it", "first, check", "first, check"),
    ],
)
def test_capitals_spaces_and_forms_of_accents_do_not_matter(text, gram, there):
    assert found(text, gram) == [(there, gram)]


@pytest.mark.parametrize(
    ("text", "gram"),
    [
        ("the solution", "so"),
        ("let's try", "let"),
        ("cafe\u0301", "cafe"),
        ("wait2", "wait"),
        ("first check", "first, check"),
        ("first, check", "first check"),
    ],
)
def test_parts_of_words_and_other_punctuation_are_not_found(text, gram):
    assert found(text, gram) == []


def test_the_longest_wins_and_what_overlaps_otherwise_is_found_too():
    grams = ("let me", "let me think", "think again", "me think")
    assert found("let me think again", *grams) == [("let me think", "let me think"), ("think again", "think again")]


WORDS = st.sampled_from(["a", "b", "c", "let's", "ab"])


@given(
    text=st.lists(st.tuples(WORDS, st.sampled_from([" ", "  ", "\n", ", "])), max_size=12).map(
        lambda parts: "".join(word + gap for word, gap in parts)
    ),
    grams=st.lists(st.lists(WORDS, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=5, unique=True),
)
def test_it_finds_what_trying_every_phrase_at_every_place_finds(text, grams):
    """Regular expressions, longest first; inside an apostrophe's word there is no boundary."""
    naive = []
    for start in range(len(text)):
        if re.search(r"[\w']\Z", text[:start]):
            continue
        ends = [
            start + m.end()
            for gram in grams
            if (m := re.match(r"\s+".join(map(re.escape, gram.split())) + r"(?![\w'])", text[start:]))
        ]
        if ends and (not naive or max(ends) > naive[-1][1]):
            naive.append((start, max(ends)))
    assert [(m.start, m.end) for m in GramMatcher(grams).find(text)] == naive
