"""Tiny real sentence encoders, and numpy in float64 as the judge of dense retrieval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

KNOWN = (
    '[PAD] [UNK] [CLS] [SEP] query passage instruct : " , . ada lovelace charles babbage engine the analytical '
    "difference wrote about designed and a an turns heat into motion ; is machine nautilus submarine it dived deep"
)
WORDS = KNOWN.split()
LENGTH = 24  # tokens


def make_encoder(folder: Path, *, seed: int = 0, width: int = 32, prompts: dict[str, str] | None = None) -> Path:
    """Save a BERT of one layer with random weights and mean pooling in `folder`. Its vectors are not of length 1."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BertModel(config, add_pooling_layer=False)
    model.save_pretrained(folder / "transformer")
    tokenizer.save_pretrained(folder / "transformer")
    transformer = Transformer(str(folder / "transformer"), max_seq_length=LENGTH)
    encoder = SentenceTransformer(modules=[transformer, Pooling(width)], prompts=prompts, device="cpu")
    encoder.save(str(folder / "encoder"))
    return folder / "encoder"


def naive_ranking(query_D: np.ndarray, vectors_ND: np.ndarray, k: int) -> list[tuple[int, float]]:
    """(number, score) of the best `k`: dot products in float64, rounded to float32, ties by number."""
    scores = [np.float32(np.dot(query_D.astype(np.float64), vector.astype(np.float64))) for vector in vectors_ND]
    best = sorted(range(len(scores)), key=lambda number: (-scores[number], number))[:k]
    return [(number, float(scores[number])) for number in best]
