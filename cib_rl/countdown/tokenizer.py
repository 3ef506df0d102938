"""The tokenizer of the embedded task: one token per word, sign or digit.

A token carries the space in front of it (as in GPT-2), so "12 - 3" is " 1", "2", " -", " 3": numbers are spelled digit
by digit, a number's first digit is told from the others by its space, and decoding is plain concatenation.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cib_rl.countdown.phrases import words

BOS, EOS, PAD, UNK = "<|bos|>", "<|eos|>", "<|pad|>", "<|unk|>"
THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE = "<think>", "</think>", "<answer>", "</answer>"
TAGS = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)


def vocabulary() -> list[str]:
    """All tokens but the special ones and the tags, in a fixed order."""
    digits = [space + digit for space in (" ", "") for digit in "0123456789"]
    signs = [" +", " -", " *", " /", " =", "(", ")", " (", ",", ".", ":", " "]
    return [*digits, *signs, "numbers", *(f" {word}" for word in words())]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, built from nothing; `decode(encode(text)) == text` for every prompt and demonstration.

    Tags are ordinary tokens (not "special"), so that decoding with `skip_special_tokens=True` keeps the answer.
    """
    special = [PAD, EOS, BOS, UNK]
    tokens = [*special, *TAGS, *vocabulary()]
    backend = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+| ?[0-9]| ?[^A-Za-z0-9 ]| "), behavior="isolated")
    # A tag swallows the space before it (lstrip) and the decoder gives it back: no token is spent on that space.
    backend.add_tokens([AddedToken(tag, lstrip=True, normalized=False) for tag in TAGS])
    backend.decoder = decoders.Sequence([*(decoders.Replace(tag, f" {tag}") for tag in TAGS), decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(folder: Path) -> None:
    """Write the tokenizer's files into `folder`, where `AutoTokenizer.from_pretrained` finds them."""
    build_tokenizer().save_pretrained(str(folder))
