"""Rows for supervised training: where they come from, how they become ids, how they are batched.

Rows are `{prompt, completion}` texts, from a JSON Lines file or from the embedded Countdown solver.  Only completion
tokens (and the closing eos) are learned.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from cib_rl.countdown.problems import CountdownSettings, problem_stream
from cib_rl.countdown.solver import demonstrate
from cib_rl.environments.base import encode_prompt
from cib_rl.errors import UserError
from cib_rl.recipe import EnvironmentSection


@dataclass(frozen=True)
class Row:
    """One training text; `prompt` may be empty."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Example:
    """A tokenized row: `ids` = prompt then completion then eos; loss is taken on `ids[start:]`."""

    ids: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class Batch:
    """Right-padded ids (B, S) with the labels (B, S) that each position must predict next; -100 = not learned."""

    input_ids: torch.Tensor
    labels: torch.Tensor


def read_jsonl(path: Path) -> list[Row]:
    """Rows of a `.jsonl` or `.jsonl.gz` file of objects with the texts `prompt` and `completion`.

    Raises:
        UserError: no such file, no rows, or a line that is no JSON object with these two texts (file and line named).
    """
    if not path.is_file():
        raise UserError(f"sft data: no file {path}")
    opener = gzip.open if path.suffix == ".gz" else open
    rows = []
    with opener(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"sft data: {path}:{number} is not JSON ({error.msg})") from error
            fields = record if isinstance(record, dict) else {}
            for name in ("prompt", "completion"):
                if not isinstance(fields.get(name), str):
                    raise UserError(f"sft data: {path}:{number} needs the text {name!r}; it has {sorted(fields)}")
            rows.append(Row(fields["prompt"], fields["completion"]))
    if not rows:
        raise UserError(f"sft data: {path} holds no rows")
    return rows


def countdown_rows(settings: CountdownSettings, seed: int) -> Iterator[Row]:
    """An endless stream of demonstrations for training problems (never for held-out ones)."""
    rng = random.Random(f"demonstrations-{seed}")
    for problem in problem_stream(settings, "train", seed):
        yield Row(problem.prompt, demonstrate(problem, rng).completion)


def tokenize(
    rows: list[Row], tokenizer: PreTrainedTokenizerBase, blind: bool, max_length: int, suffix: str = ""
) -> tuple[list[Example], int]:
    """Examples no longer than `max_length` tokens, and the number of rows left out because they were longer.

    Prompts (each with `suffix` after it) are encoded as the environments do it: through the chat template where there
    is one.  With `blind` the prompt is left out and its place taken by one token, bos (eos where the tokenizer has no
    bos): a prior that never sees a prompt predicts the completion's first token from that token alone.

    Raises:
        UserError: the tokenizer has no eos token.
    """
    eos = tokenizer.eos_token_id
    if eos is None:
        raise UserError("sft: the tokenizer has no eos token, so completions could never end; set one in its folder")
    opening = [tokenizer.bos_token_id if tokenizer.bos_token_id is not None else eos]
    # The two texts are tokenized apart, as at sampling time: the prompt's last token never merges with the completion.
    completions = tokenizer([row.completion for row in rows], add_special_tokens=False)["input_ids"]
    prompts = [opening] * len(rows)
    if not blind:
        section = EnvironmentSection(max_completion_length=max_length, suffix=suffix)
        prompts = [encode_prompt(row.prompt, section, tokenizer) for row in rows]
    examples = [
        Example((*(prompt or opening), *completion, eos), len(prompt or opening))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    kept = [example for example in examples if len(example.ids) <= max_length]
    return kept, len(examples) - len(kept)


def collate(examples: list[Example], pad_id: int) -> Batch:
    """Pad on the right; with causal attention no mask is needed, since padding comes after everything learned."""
    width = max(len(example.ids) for example in examples) - 1
    input_ids = torch.full((len(examples), width), pad_id, dtype=torch.long)
    labels = torch.full((len(examples), width), -100, dtype=torch.long)
    for row, example in enumerate(examples):
        ids = torch.tensor(example.ids, dtype=torch.long)
        input_ids[row, : len(ids) - 1] = ids[:-1]
        labels[row, example.start - 1 : len(ids) - 1] = ids[example.start :]
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


def train_bpe(rows: list[Row], vocab_size: int, chat_template: str | None = None) -> PreTrainedTokenizerFast:
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
    backend.train_from_iterator((text for row in rows for text in (row.prompt, row.completion)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=chat_template,
        bos_token="<|bos|>",
        eos_token="<|eos|>",
        pad_token="<|pad|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
