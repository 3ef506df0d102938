"""Tokenizers of the three usual kinds, trained here on a few lines; for tests of spans and of re-encoding."""

from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "the numbers are three and seven, so the answer is twenty one.",
    "Wait, let me check: 3 * 7 = 21. That is right!",
    "答案是二十一。 数字は三と七です。",
    "naïve café 😀 🎉 ok, done",
] * 4


def _wrap(backend: Tokenizer, **special) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special)


@cache
def byte_level(vocab_size: int = 330, eos: str = "<|end|>") -> PreTrainedTokenizerFast:
    """Byte-level BPE as in GPT-2 and Qwen: tokens may split a character. Think tags are added tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[eos],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    backend.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    return _wrap(backend, eos_token=eos, pad_token=eos)


@cache
def unigram(byte_fallback: bool = True) -> PreTrainedTokenizerFast:
    """Unigram as in SentencePiece: `▁` for spaces (the decoder strips the first), bytes for unknown characters."""
    trained = Tokenizer(models.Unigram())
    trained.normalizer = normalizers.NFKC()
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(
        CORPUS[:2] * 4,
        trainers.UnigramTrainer(
            vocab_size=70, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
        ),
    )
    scores = dict(_pieces(trained))
    for b in range(256) if byte_fallback else ():
        scores.setdefault(f"<0x{b:02X}>", -12.0)
    backend = Tokenizer(models.Unigram(list(scores.items()), unk_id=0, byte_fallback=byte_fallback))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _wrap(backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _pieces(tokenizer: Tokenizer) -> list[tuple[str, float]]:
    import json

    return [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]]


@cache
def wordpiece() -> PreTrainedTokenizerFast:
    """WordPiece as in BERT: lower-cased, spaces are lost, `##` marks the inside of a word, unknown words are [UNK]."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    backend.train_from_iterator(
        CORPUS,
        trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False),
    )
    return _wrap(backend, unk_token="[UNK]", bos_token="[CLS]", eos_token="[SEP]")


@cache
def chat(
    special: tuple[str, ...], added: tuple[str, ...] = (), normalizer: str | None = None, template: str | None = None
) -> PreTrainedTokenizerFast:
    """Byte-level BPE with the special tokens of a chat model, the first of which ends a turn, and added tokens that
    are not special. `normalizer`: the name of one of `tokenizers`' own, as NFKC or Lowercase."""
    backend = Tokenizer(models.BPE())
    if normalizer:
        backend.normalizer = getattr(normalizers, normalizer)()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    backend.add_tokens([AddedToken(token, normalized=normalizer == "Lowercase") for token in added])
    wrapped = _wrap(backend, eos_token=special[0], pad_token=special[-1], additional_special_tokens=list(special[1:]))
    wrapped.chat_template = template
    return wrapped


KINDS = {"byte_level": byte_level, "unigram": unigram, "wordpiece": wordpiece}
