"""What supervised training is made of: texts, examples with what is learned of them, batches, a tokenizer of its own.

Where the rows come from: `sft_rows`; how they become examples: `sft_encode`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Row:
    """One training text; `prompt` may be empty. `where` names file and line."""

    prompt: str
    completion: str
    where: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """What a tokenizer of its own is trained on."""
        return self.prompt, self.completion


class HasTexts(Protocol):
    """Any kind of row."""

    @property
    def texts(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Example:
    """One context: loss is taken on `ids[start:end]` of each of `spans`, which rise and start at 1 or later."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    @property
    def learned(self) -> int:
        """Number of tokens that are learned."""
        return sum(end - start for start, end in self.spans)


@dataclass(frozen=True)
class Batch:
    """Right-padded ids (B, S) with the labels (B, S) that each position must predict next; -100 = not learned."""

    input_ids: torch.Tensor
    labels: torch.Tensor


def collate(examples: list[Example], pad_id: int) -> Batch:
    """Pad on the right; with causal attention no mask is needed, since padding comes after everything learned."""
    width = max(len(example.ids) for example in examples) - 1
    input_ids = torch.full((len(examples), width), pad_id, dtype=torch.long)
    labels = torch.full((len(examples), width), -100, dtype=torch.long)
    for row, example in enumerate(examples):
        ids = torch.tensor(example.ids, dtype=torch.long)
        input_ids[row, : len(ids) - 1] = ids[:-1]
        for start, end in example.spans:
            labels[row, start - 1 : end - 1] = ids[start:end]
    return Batch(input_ids, labels)


def micro_batches(examples: list[Example], token_budget: int, pad_id: int) -> list[Batch]:
    """Cut one step's examples into batches of like length, each of at most `token_budget` tokens, padding counted.

    The step's examples are drawn at random and only then sorted, so that its gradient is not that of one length alone.
    """
    groups: list[list[Example]] = []
    for example in sorted(examples, key=lambda one: len(one.ids), reverse=True):
        if groups and len(groups[-1][0].ids) * (len(groups[-1]) + 1) <= token_budget:
            groups[-1].append(example)
        else:
            groups.append([example])
    return [collate(group, pad_id) for group in groups]


def train_bpe(rows: Sequence[HasTexts], vocab_size: int, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `rows`; any text round-trips.  Numbers are split into digits.

    The marks of `chat_template`, such as <|user|>, become special tokens.
    """
    marks = dict.fromkeys(["<|pad|>", "<|eos|>", "<|bos|>", *re.findall(r"<[|｜]\w+[|｜]>", chat_template or "")])
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(marks),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator((text for row in rows for text in row.texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=chat_template,
        bos_token="<|bos|>",
        eos_token="<|eos|>",
        pad_token="<|pad|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
