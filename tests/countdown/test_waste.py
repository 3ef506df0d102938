"""Kinds of spans: what the classifier reads from the text is what the solver meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.countdown.tokenizer import build_tokenizer
from cib_rl.countdown.waste import KINDS, SEARCH, WASTE, classify, count_tokens
from tests.countdown.strategies import demonstrations

TOKENIZER = build_tokenizer()


def kinds(completion: str) -> list[str]:
    return [span.kind for span in classify(completion) if completion[span.start : span.end].strip()]


@given(demonstrations())
def test_the_kinds_read_from_a_demonstration_are_those_it_was_written_with(demonstration):
    assert kinds(demonstration.completion) == [*(span.kind for span in demonstration.spans), "answer"]


@given(st.text(alphabet="123 +-*/=.,:abc<>/think\n", max_size=120))
def test_spans_cover_any_text_without_gap_or_overlap(text):
    spans = classify(text)
    assert "".join(text[span.start : span.end] for span in spans) == text
    assert all(span.kind in KINDS for span in spans)


@given(demonstrations(), st.integers(0, 400))
def test_token_counts_sum_to_all_tokens_even_of_truncated_traces(demonstration, length):
    text = demonstration.completion[:length]
    counts = count_tokens(text, TOKENIZER)
    assert set(counts) == set(KINDS)
    assert sum(counts.values()) == len(TOKENIZER(text)["input_ids"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" we have 3 8 12 and need 44.", ["restate"]),
        (" 12 - 3 = 9, 9 * 8 = 72, too big.", ["try"]),
        # The same try with commuted operands is a duplicate, with or without its cue.
        (" 3 * 8 = 24, 24 + 12 = 36, no. 8 * 3 = 24, 12 + 24 = 36, not 44.", ["try", "duplicate"]),
        (" 12 - 3 = 9, no. 3 - 12 = 9, no.", ["try", "try"]),  # differences do not commute
        (" let me double check: 12 - 3 = 9, right.", ["recheck", "recheck"]),
        (" the misses so far: 36, 72.", ["list", "list"]),
        (" 4 * 11 = 44, yes. 4 * 11 = 44, so.", ["solution", "recheck"]),
        (" verify the whole thing: 4 * 11 = 44, fine.", ["verify", "verify"]),
        (" none of these fit. work back from target:", ["planning", "planning"]),
        (" work back from the sums:", ["planning"]),  # a phrase that a model mixed
        (" 12 * 12 = 144, hopeless.", ["abandoned"]),
        (" now we are done. </think> <answer> 4 * 11 </answer>", ["statement", "answer"]),
        (" maybe once more here: 12 - 3 = 9, no", ["duplicate", "try"]),  # announced, but new
        (" 12 -", ["other"]),
        ("", []),
    ],
)
def test_kinds_of_model_written_texts(text, expected):
    assert kinds(text) == expected


def test_every_kind_is_search_or_waste_or_other():
    assert sorted([*SEARCH, *WASTE, "other"]) == sorted(KINDS) and not set(SEARCH) & set(WASTE)


def test_tokens_are_counted_for_the_span_they_belong_to():
    text = " we have 3 8 and need 11. 3 + 8 = 11, yes. </think> <answer> 3 + 8 </answer>"
    counts = count_tokens(text, TOKENIZER)
    assert {kind: n for kind, n in counts.items() if n} == {"restate": 9, "solution": 9, "answer": 6}
