"""Stop strings against a search in the decode of everything so far."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cib_rl.engines.stops import StopWatch


@pytest.fixture(scope="module")
def byte_tokenizer() -> Any:
    """Byte-level: one token per byte and a few longer ones, so that characters and words span tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # The last one is a letter and the first byte of 日: text that is complete in a token that is not.
    merges = [("a", "b"), ("ab", "c"), ("Ġ", "a"), ("x", "æ")]
    vocab = {token: i for i, token in enumerate([*alphabet, "ab", "abc", "Ġa", "xæ"])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def first_stop(tokenizer: Any, ids: list[int], stop: tuple[str, ...]) -> tuple[int, str] | None:
    """By definition: the first token after which the decoded text contains a stop string."""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False)
        found = [(text.find(s), i) for i, s in enumerate(stop) if s in text]
        if found:
            return end, stop[min(found)[1]]
    return None


PIECES = st.lists(st.sampled_from(["a", "b", "c", "abc", " a", "é", "日本", "\n", "x"]), min_size=1, max_size=25)


@settings(max_examples=150)
@example(["b", "x", "日本"], ["bx"])
@given(
    PIECES,
    st.lists(st.sampled_from(["bc", "c a", "é", "本", "bca", "x\n", "日本a", "bx", "x"]), min_size=1, max_size=3),
)
def test_found_at_the_same_token_as_by_decoding_everything(
    byte_tokenizer: Any, pieces: list[str], stop: list[str]
) -> None:
    ids = byte_tokenizer("".join(pieces))["input_ids"]
    watch = StopWatch(byte_tokenizer, tuple(stop))
    seen = None
    for end, token in enumerate(ids, start=1):
        found = watch.push(token)
        if found is not None:
            seen = (end, found)
            break
    assert seen == first_stop(byte_tokenizer, ids, tuple(stop))


def test_broken_bytes_do_not_hide_later_text(byte_tokenizer: Any) -> None:
    """Bytes that never become a character: the watch must not wait for ever."""
    broken = byte_tokenizer("é")["input_ids"][:1]
    watch = StopWatch(byte_tokenizer, ("abc",))
    found = [watch.push(token) for token in [*broken * 20, *byte_tokenizer("abc")["input_ids"]]]
    assert found[-1] == "abc"
    assert found[:-1] == [None] * (len(found) - 1)
