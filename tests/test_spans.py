"""Token spans in the one decode of all ids, and the reasoning part of a completion."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Template
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from cib_rl.countdown.tokenizer import build_tokenizer
from cib_rl.spans import decode, reasoning_mask, reasoning_spans, token_spans
from cib_rl.trajectory import Segment, Trajectory
from tests.trained_tokenizers import KINDS, byte_level, unigram

ALPHABET = "ab e  the\n.,3=é😀🎉答案是 数字"
TEXTS = st.text(alphabet=ALPHABET, max_size=40)


def check(tokenizer, ids):
    text, spans = decode(tokenizer, ids), token_spans(tokenizer, ids)
    assert len(spans) == len(ids)
    covered = set()
    for (a, b), (c, d) in pairwise(spans):
        assert a <= c and b <= d
    for a, b in spans:
        assert 0 <= a <= b <= len(text)
        covered.update(range(a, b))
    assert covered == set(range(len(text)))
    return text, spans


def word_level(vocabulary):
    """Tokens are concatenated as they are."""
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=next(iter(vocabulary))))
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS)
def test_spans_rise_and_cover_the_text(kind, text):
    tokenizer = KINDS[kind]()
    check(tokenizer, tokenizer.encode(text, add_special_tokens=False))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_spans_of_arbitrary_ids_rise_and_cover_the_text(kind, data):
    """What an untrained policy samples: broken characters, special tokens anywhere."""
    tokenizer = KINDS[kind]()
    check(tokenizer, data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=30)))


@given(text=TEXTS)
def test_byte_level_spans_equal_those_from_decoding_every_prefix(text):
    tokenizer = byte_level()
    ids = tokenizer.encode(text)
    whole = decode(tokenizer, ids)
    assert whole == text

    def done(k):
        prefix = decode(tokenizer, ids[:k])
        same = next((i for i, (a, b) in enumerate(zip(prefix, whole, strict=False)) if a != b), len(prefix))
        return same, len(prefix) > same  # characters complete; another one begun

    expected = []
    for k in range(len(ids)):
        end, begun = done(k + 1)
        expected.append((done(k)[0], end + begun))
    assert token_spans(tokenizer, ids) == expected


def test_pieces_of_one_character_all_get_it():
    tokenizer = byte_level()
    ids = tokenizer.encode("a𐍈b")
    assert len(ids) == 6
    assert token_spans(tokenizer, ids) == [(0, 1), (1, 2), (1, 2), (1, 2), (1, 2), (2, 3)]


def test_a_stripped_first_space_moves_nothing():
    tokenizer = unigram()
    ids = tokenizer.encode("the numbers are", add_special_tokens=False)
    text, spans = check(tokenizer, ids)
    assert text == "the numbers are"
    words = [text[a:b] for a, b in spans]
    assert "".join(words) == text
    assert all(len(word) <= len(tokenizer.convert_ids_to_tokens(i)) for word, i in zip(words, ids, strict=True))


def test_the_embedded_tasks_tokenizer():
    tokenizer = build_tokenizer()
    ids = tokenizer.encode("numbers 3 7 = 21: <think> 3 * 7 = 21 </think> <answer> 3*7 </answer>")
    text, spans = check(tokenizer, ids)
    assert [text[a:b] for a, b in spans] == [decode(tokenizer, [i]) for i in ids]


@pytest.mark.parametrize("make", [lambda: byte_level(), lambda: unigram()])
def test_work_is_linear_in_the_number_of_tokens(make, monkeypatch):
    """Ids given to the decoder, in all; the text has characters in pieces, which is the hard case."""
    from cib_rl import spans

    tokenizer = make()
    counts = []
    for n in (50, 200):
        ids = tokenizer.encode("the answer 🙂 is 答案 " * n, add_special_tokens=False)
        decoded = 0

        def counting(tokenizer, ids):
            nonlocal decoded
            decoded += len(ids)
            return decode(tokenizer, ids)

        monkeypatch.setattr(spans, "decode", counting)
        token_spans(tokenizer, ids)
        counts.append(decoded / len(ids))
    assert counts[1] <= 1.1 * counts[0] + 1


# --- reasoning --------------------------------------------------------------------------------------------------------

# In the shape of R1-Distill's and Qwen3's templates, as far as the thinking goes.
R1_DISTILL = (
    "{{ bos }}{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}"
    "{% else %}<｜Assistant｜>{{ m.content.split('</think>')[-1] }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
)
QWEN3_THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
QWEN3_HYBRID = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def render(template, **kwargs):
    question = "What is 3*7? Write your thoughts as <think> thoughts </think>."
    return Template(template).render(
        messages=[{"role": "user", "content": question}], add_generation_prompt=True, bos="<s>", **kwargs
    )


def reasoning(text, prompt):
    return [text[a:b] for a, b in reasoning_spans(text, prompt)]


@pytest.mark.parametrize("template", [R1_DISTILL, QWEN3_THINKING])
def test_templates_that_open_the_thinking_in_the_prompt(template):
    prompt = render(template)
    assert prompt.endswith("<think>\n")
    assert reasoning("3*7=21\n</think>\n\nIt is 21.", prompt) == ["3*7=21\n</think>"]
    assert reasoning("3*7=21, wait", prompt) == ["3*7=21, wait"]  # never closed: all of it
    assert reasoning("hm <think>3</think>21", prompt) == ["hm <think>3</think>"]  # opened once more
    assert reasoning("", prompt) == [""]


def test_templates_that_leave_the_thinking_to_the_completion():
    prompt = render(QWEN3_HYBRID)
    assert reasoning("<think>\n3*7\n</think>\n\n21", prompt) == ["<think>\n3*7\n</think>"]
    assert reasoning("Well, <think>3*7", prompt) == ["<think>3*7"]
    assert reasoning("<think>a</think>b<think>c</think>d", prompt) == ["<think>a</think>", "<think>c</think>"]


def test_thinking_switched_off_by_the_template_and_plain_completions():
    prompt = render(QWEN3_HYBRID, enable_thinking=False)
    assert reasoning("It is 21.", prompt) == ["It is 21."]  # no tag: all of it
    assert reasoning("3*7</think>21", "") == ["3*7</think>"]  # only a closing one: from the start
    assert reasoning("a", "the tag <think> opens it") == ["a"]
    assert reasoning("a <think>b", "write <think> first.") == ["<think>b"]  # in the question, not at the prompt's end


def segment(tokenizer, prompt, *parts):
    """Parts: (text, sampled)."""
    made = Segment(tokenizer.encode(prompt))
    for text, sampled in parts:
        ids = tokenizer.encode(text)
        if sampled:
            made.append_policy(ids, [0.0] * len(ids))
        else:
            made.append_environment(ids)
    return made


def masked_text(trajectory, tokenizer, wanted=1):
    """Text of the policy tokens whose mask is `wanted`."""
    mask = reasoning_mask(trajectory, tokenizer)
    assert len(mask) == trajectory.num_tokens
    return decode(tokenizer, [i for i, m in zip(trajectory.policy_ids, mask, strict=True) if m == wanted])


@pytest.mark.parametrize("template", [R1_DISTILL, QWEN3_THINKING])
def test_the_mask_starts_at_the_first_token_when_the_prompt_opens(template):
    tokenizer = byte_level()
    t = Trajectory({}, 0, segments=[segment(tokenizer, render(template), ("3*7 🙂</think>It is 21.", True))])
    assert masked_text(t, tokenizer) == "3*7 🙂</think>"
    assert masked_text(t, tokenizer, 0) == "It is 21."


def test_turns_carry_on_and_documents_cannot_close_the_thinking():
    tokenizer = byte_level()
    parts = [("search", True), ("doc </think> <think> doc", False), ("so</think>21", True)]
    t = Trajectory({}, 0, segments=[segment(tokenizer, "Q <think>", *parts)])
    assert masked_text(t, tokenizer) == "searchso</think>"


def test_a_template_may_open_the_thinking_of_the_next_turn():
    tokenizer = byte_level()
    parts = [("a</think>b", True), ("<user>go on<assistant><think>\n", False), ("c</think>d", True)]
    t = Trajectory({}, 0, segments=[segment(tokenizer, "Q <think>\n", *parts)])
    assert masked_text(t, tokenizer) == "a</think>c</think>"


def test_each_segment_is_judged_behind_its_own_prompt():
    tokenizer = byte_level()
    t = Trajectory(
        {},
        0,
        segments=[
            segment(tokenizer, "Q<think>", ("a</think>b", True)),
            segment(tokenizer, "Q b", ("<think>c</think>", True), ("d", True)),
        ],
    )
    assert masked_text(t, tokenizer, 0) == "bd"


def test_a_token_across_the_border_counts():
    tokenizer = word_level({"x<": 0, "think>y</": 1, "think>z": 2, "end": 3})
    t = Trajectory({}, 0, segments=[Segment([3], [0, 1, 2, 3], [0.0] * 4, [1] * 4)])
    assert reasoning_mask(t, tokenizer) == [1, 1, 1, 0]


def test_an_empty_completion_has_an_empty_mask():
    assert reasoning_mask(Trajectory({}, 0, segments=[Segment([1])]), byte_level()) == []
