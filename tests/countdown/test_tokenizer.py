"""The tokenizer: texts survive it, numbers are digits, tags are single tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from transformers import AutoTokenizer

from cib_rl.countdown.tokenizer import build_tokenizer, save_tokenizer
from tests.countdown.strategies import demonstrations, problems

TOKENIZER = build_tokenizer()


@given(demonstrations())
def test_demonstrations_round_trip_without_unknown_tokens(demonstration):
    ids = TOKENIZER(demonstration.completion)["input_ids"]
    assert TOKENIZER.decode(ids) == demonstration.completion
    assert TOKENIZER.unk_token_id not in ids


@given(problems())
def test_prompts_round_trip_and_end_with_the_opening_tag(problem):
    ids = TOKENIZER(problem.prompt)["input_ids"]
    assert TOKENIZER.decode(ids) == problem.prompt
    assert ids[-1] == TOKENIZER.convert_tokens_to_ids("<think>")


@given(problems(), demonstrations())
def test_prompt_and_completion_tokenize_alike_apart_and_together(problem, demonstration):
    # Otherwise re-encoding a text would give other tokens than were sampled.
    apart = TOKENIZER(problem.prompt)["input_ids"] + TOKENIZER(demonstration.completion)["input_ids"]
    assert TOKENIZER(problem.prompt + demonstration.completion)["input_ids"] == apart


def test_numbers_are_spelled_digit_by_digit_with_the_space_on_the_first():
    assert TOKENIZER.tokenize(" 12 - 3") == [" 1", "2", " -", " 3"]
    assert TOKENIZER.tokenize(" (12 - 3) * 8") == [" (", "1", "2", " -", " 3", ")", " *", " 8"]


def test_tags_survive_when_special_tokens_are_skipped():
    text = " yes. </think> <answer> 1 + 2 </answer>"
    ids = [*TOKENIZER(text)["input_ids"], TOKENIZER.eos_token_id]
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == text
    tags = ["</think>", "<answer>", "</answer>"]
    assert [token for token in TOKENIZER.convert_ids_to_tokens(ids) if token in tags] == tags


def test_special_tokens_are_there_and_differ():
    ids = [TOKENIZER.pad_token_id, TOKENIZER.eos_token_id, TOKENIZER.bos_token_id, TOKENIZER.unk_token_id]
    assert len(set(ids)) == 4 and None not in ids


def test_nothing_is_added_around_a_text():
    assert TOKENIZER("numbers")["input_ids"] == TOKENIZER("numbers", add_special_tokens=False)["input_ids"]


def test_a_saved_tokenizer_is_the_same(tmp_path):
    save_tokenizer(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "numbers 3 8 12 target 44 <think> make a round number: 12 + 8 = 20, no."
    assert loaded(text)["input_ids"] == TOKENIZER(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert (loaded.eos_token_id, loaded.pad_token_id) == (TOKENIZER.eos_token_id, TOKENIZER.pad_token_id)


@pytest.mark.parametrize("text", ["Überall  zwei", "tab\there", "12.5%"])
def test_foreign_text_becomes_unknown_tokens_not_an_error(text):
    assert TOKENIZER.unk_token_id in TOKENIZER(text)["input_ids"]
