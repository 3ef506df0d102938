"""The tokenizer that texts are counted with: a model's, or one learned from the texts themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cib_rl.errors import UserError
from cib_rl.models import load_tokenizer, resolve_model
from cib_rl.trainers.sft_data import Row, train_bpe

LEARNED_VOCABULARY = 4096  # tokens of a learned tokenizer (ours)


def learned_tokenizer(prompts: Sequence[str], completions: Sequence[str]) -> Any:
    """A byte-level BPE of the texts, for counting where no model is named. The same texts give the same tokens.

    Its counts can be compared with each other, not with those of a model: it splits numbers into digits and joins what
    is frequent in these texts.
    """
    rows = [Row(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
    return train_bpe(rows, LEARNED_VOCABULARY)


def model_tokenizer(model: str, base_dir: Path) -> Any:
    """The tokenizer of a model: hub id, folder, run, checkpoint or `shipped:NAME`. Raises UserError."""
    return load_tokenizer(resolve_model(model, base_dir))


def encode_texts(tokenizer: Any, texts: Sequence[str], places: Sequence[str], model: str) -> list[list[int]]:
    """The ids of each text, without special tokens.

    Raises UserError when the tokenizer has no tokens for what a text holds: its answer could then be lost.
    """
    encoded = [list(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
    unknown = tokenizer.unk_token_id
    lost = [i for i, ids in enumerate(encoded) if unknown is not None and unknown in ids]
    if lost:
        raise UserError(
            f"{places[lost[0]]}: the tokenizer of {model} has no tokens for {encoded[lost[0]].count(unknown)} pieces "
            f"of the completion, and so in {len(lost)} of {len(texts)}; name the model that wrote them, or leave "
            "--model out"
        )
    return encoded
