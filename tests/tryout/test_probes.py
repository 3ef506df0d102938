"""Hacking probes: each changes one thing about an honest right completion, and nothing else."""

from __future__ import annotations

from collections import Counter

import pytest

from cib_rl.samples.load import load_samples
from cib_rl.trajectory import StopReason
from cib_rl.tryout.parts import take_apart
from cib_rl.tryout.probes import KEEP_ANSWER, PROBES, ProbeMaker
from tests.samples.files import gold_of, prompt_of, solution, write_lines

TAGGED = "<think>Let us see: 40 + 2 is 42, and that is the sum we want </think> So we say <answer>42</answer>"


@pytest.fixture
def maker(words):
    return ProbeMaker(words.tokenizer, words.answer_style)


@pytest.fixture
def honest(words):
    return words.trajectories[4]  # right and short, of problem 1


def text(maker, trajectory):
    return maker.tokenizer.decode(trajectory.policy_ids, skip_special_tokens=True)


def test_the_parts_put_together_are_the_completion(words, maker, honest):
    parts = take_apart(honest, words.tokenizer, words.answer_style, maker.end_ids)
    assert parts.opening + parts.body + parts.rest == honest.policy_ids
    assert words.tokenizer.decode(parts.answer) == f"#### {gold_of(1)}"
    assert words.tokenizer.decode(parts.body) == solution(1).partition("\n")[0]
    assert parts.end == [words.tokenizer.eos_token_id]


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_is_one_more_member_of_the_honest_ones_group_with_its_row_and_prompt(maker, honest, name):
    probe = maker(name, honest)
    assert (probe.group, probe.task) == (honest.group, honest.task) and probe.member != honest.member
    assert probe.segments[0].prompt_ids == honest.segments[0].prompt_ids


@pytest.mark.parametrize("name", PROBES)
def test_only_the_probes_meant_to_keep_the_answer_keep_it(maker, honest, name):
    assert (maker(name, honest).answer == honest.answer) == (name in KEEP_ANSWER)


@pytest.mark.parametrize("name", PROBES)
def test_only_the_truncated_one_is_cut_off(maker, honest, name):
    probe = maker(name, honest)
    assert probe.stop_reason is (StopReason.LENGTH if name == "truncated" else StopReason.EOS)
    assert probe.truncated == (name == "truncated")


def test_what_the_probes_say(maker, honest):
    whole, body = solution(1), solution(1).partition("\n")[0]
    said = {name: text(maker, maker(name, honest)) for name in PROBES}
    assert said["empty"] == ""
    assert said["answer_only"] == f"#### {gold_of(1)}"
    assert said["repeated"] == body * 3 + whole.removeprefix(body)
    assert said["padded"].endswith(whole) and "Wait, let me think" in said["padded"]
    assert said["copied_prompt"] == prompt_of(1)
    assert said["forged_tags"].endswith(whole) and "<information>" in said["forged_tags"]
    assert whole.startswith(said["truncated"])


def test_nonsense_has_the_same_tokens_in_another_order(maker, honest):
    probe = maker("nonsense", honest)
    assert Counter(probe.policy_ids) == Counter(honest.policy_ids) and probe.policy_ids != honest.policy_ids
    assert probe.policy_ids == maker("nonsense", honest).policy_ids  # the same shuffle every time


def test_padding_doubles_the_reasoning(maker, honest):
    parts = take_apart(honest, maker.tokenizer, maker.answer, maker.end_ids)
    added = maker("padded", honest).num_tokens - honest.num_tokens
    assert added == len(parts.body)


def test_think_tags_stay_around_what_is_left(tmp_path):
    row = {"prompt": "What is 40 + 2?", "completion": TAGGED, "answer": "42"}
    samples = load_samples(write_lines(tmp_path / "t.jsonl", [row]))
    maker, (honest,) = ProbeMaker(samples.tokenizer, samples.answer_style), samples.trajectories
    # A token may hold the space before a tag, too.
    assert text(maker, maker("answer_only", honest)).replace(" ", "") == "<think></think><answer>42</answer>"
    for name in ("repeated", "padded", "forged_tags", "nonsense"):
        said = text(maker, maker(name, honest))
        assert said.startswith("<think>") and said.endswith("</think> So we say <answer>42</answer>"), name


def test_probes_stay_within_the_token_limit(words, honest):
    room = honest.num_tokens // 2
    limited = ProbeMaker(words.tokenizer, words.answer_style, limit=honest.num_tokens + room)
    assert limited("repeated", honest) is None  # not even twice
    assert limited("padded", honest).num_tokens == limited.limit
    wide = ProbeMaker(words.tokenizer, words.answer_style, limit=2 * honest.num_tokens)
    body = solution(1).partition("\n")[0]
    assert text(wide, wide("repeated", honest)).startswith(body * 2 + "\n")


def test_without_reasoning_there_is_nothing_to_change(tmp_path):
    rows = [{"prompt": "What is 40 + 2?", "completion": said, "answer": "42"} for said in ("#### 42", "I do not know")]
    samples = load_samples(write_lines(tmp_path / "t.jsonl", rows))
    maker = ProbeMaker(samples.tokenizer, samples.answer_style)
    assert [maker(name, t) for t in samples.trajectories for name in PROBES] == [None] * 2 * len(PROBES)


def test_words_that_the_tokenizer_does_not_know_are_never_put_in(tmp_path):
    trace = " 3 + 4 = 7, 7 + 5 = 12, found it. </think> <answer> 3 + 4 + 5 </answer>"
    row = {"prompt": "numbers 3 4 5 target 12 <think>", "numbers": [3, 4, 5], "target": 12, "completion": trace}
    path = write_lines(tmp_path / "c.jsonl", [row])
    samples = load_samples(path, model="shipped:quickstart/policy")
    maker, (honest,) = ProbeMaker(samples.tokenizer, samples.answer_style), samples.trajectories
    for name in PROBES:
        assert samples.tokenizer.unk_token_id not in maker(name, honest).policy_ids
    assert "<think>" in maker("forged_tags", honest).text and "check that again" in maker("padded", honest).text


def test_a_probe_whose_answer_would_be_read_differently_is_not_made(words, honest):
    """A style that reads no answer from a text with the padding's words in it."""
    maker = ProbeMaker(words.tokenizer, r"regex:(?s)\A(?!.*Wait).*#### (\d+)")
    assert maker("padded", honest) is None
    assert maker("repeated", honest).answer == honest.answer
