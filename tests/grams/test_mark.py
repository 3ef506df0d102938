"""Tokens that a phrase stands on, for tokenizers of the usual kinds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.countdown.tokenizer import build_tokenizer
from cib_rl.grams import GramMatcher, mark_planning, planning_mask
from cib_rl.spans import decode, token_spans
from cib_rl.trajectory import Segment, Trajectory
from tests.trained_tokenizers import KINDS, byte_level

PHRASES = ["wait", "let me check", "so the answer", "答案是", "naïve café"]


def marked_text(tokenizer, ids, marks):
    """The pieces of the text that marked tokens cover, neighbours together."""
    spans = token_spans(tokenizer, ids)
    pieces = []
    for mark, before, (a, b) in zip(marks, [0, *marks], spans, strict=False):
        if mark and before:
            pieces[-1][1] = b
        elif mark:
            pieces.append([a, b])
    return [decode(tokenizer, ids)[a:b] for a, b in pieces]


@pytest.mark.parametrize("kind", KINDS)
def test_marked_tokens_decode_to_the_phrase(kind):
    """In the middle of a sentence, with a capital, split into several tokens: up to what else those tokens hold."""
    tokenizer = KINDS[kind]()
    ids = tokenizer.encode("ok, Wait, let me check: done", add_special_tokens=False)
    marks = mark_planning(ids, [1] * len(ids), tokenizer, GramMatcher(["wait", "let me check"]))
    pieces = marked_text(tokenizer, ids, marks)
    assert "".join(pieces).lower().replace(" ", "").replace(",", "") in ("waitletmecheck", "waitletmecheck:")
    assert 0 < sum(marks) < len(ids)


def test_the_embedded_tasks_tokenizer():
    tokenizer = build_tokenizer()
    ids = tokenizer.encode("numbers 3 7 = 21: <think> let's try the products first. 3 * 7 = 21 </think>")
    words = [decode(tokenizer, [i]) for i in ids]
    marks = mark_planning(ids, [1] * len(ids), tokenizer, GramMatcher(["try the products first"]))
    assert [word.strip() for word, mark in zip(words, marks, strict=True) if mark] == [
        "try",
        "the",
        "products",
        "first",
    ]


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_token_is_marked_when_and_only_when_a_character_of_a_phrase_is_in_it(kind, data):
    """Arbitrary text and arbitrary cuts into what the policy and what the environment wrote; checked by characters."""
    tokenizer = KINDS[kind]()
    parts = data.draw(st.lists(st.sampled_from([*PHRASES, " ", ", ", "x", "Let me", "😀", "\n"]), max_size=10))
    ids = tokenizer.encode("".join(parts), add_special_tokens=False)
    mask = data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)).map(sorted))
    spans, text = token_spans(tokenizer, ids), decode(tokenizer, ids)
    matcher = GramMatcher(PHRASES)
    start = next((spans[t][0] for t, sampled in enumerate(mask) if sampled), len(text))
    characters = {c for m in matcher.find(text[start:]) for c in range(start + m.start, start + m.end)}
    expected = [int(m and any(c in characters for c in range(a, b))) for m, (a, b) in zip(mask, spans, strict=True)]
    assert mark_planning(ids, [int(m) for m in mask], tokenizer, matcher) == expected


def test_what_the_environment_wrote_is_neither_marked_nor_part_of_a_phrase():
    tokenizer = byte_level()
    segment = Segment(tokenizer.encode("q"))
    policy, document = tokenizer.encode("wait, let me"), tokenizer.encode(" check: wait")
    segment.append_policy(policy, [-1.0] * len(policy))
    segment.append_environment(document)
    segment.append_policy(policy, [-1.0] * len(policy))
    other = Segment([1])
    other.append_policy(tokenizer.encode("let me check"), [-1.0] * len(tokenizer.encode("let me check")))
    marks = planning_mask(Trajectory({}, 0, segments=[segment, other]), tokenizer, GramMatcher(PHRASES))
    first = mark_planning(policy, [1] * len(policy), tokenizer, GramMatcher(["wait"]))
    assert sum(first) > 0
    assert marks == first + [0] * len(document) + first + [1] * len(other)


def test_all_pieces_of_a_character_that_belongs_to_a_phrase_are_marked():
    tokenizer = byte_level()
    ids = tokenizer.encode("a 𐍈 b")
    marks = mark_planning(ids, [1] * len(ids), tokenizer, GramMatcher(["𐍈 b"]))
    spans = token_spans(tokenizer, ids)
    assert marks == [int(a >= 2 or (a, b) == (1, 3)) for a, b in spans]
    assert sum(marks) >= 4
