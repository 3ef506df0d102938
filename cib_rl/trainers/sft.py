"""Supervised training on texts, conversations and trajectories: warm starts of policies and blind priors.

    cib-rl sft warmstart          or          run_sft(SFTSettings(output="runs/warm", models={"policy": {}}))

A plain loop: draw a batch, cut it into micro-batches of like length, average the loss over the step's learned tokens,
step.  The model comes from a folder or is made new as a small Qwen3; every `save_every` steps it is written beside the
output, so that a half-trained model can be tried.

TRL's `SFTTrainer` is not used: for the embedded model it took 1.7 times the CPU time per token, mostly padding, and 1.3
times with rows grouped by length, which also makes each step's gradient that of one length alone.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, Qwen3Config

from cib_rl.errors import UserError
from cib_rl.trainers.sft_data import Example, micro_batches, train_bpe
from cib_rl.trainers.sft_encode import Encoder
from cib_rl.trainers.sft_generators import GENERATORS
from cib_rl.trainers.sft_rows import Data, read_data
from cib_rl.trainers.sft_settings import ModelShape, SFTModel, SFTSettings

CHUNK = 512  # demonstrations tokenized at a time
Report = Callable[[dict[str, Any]], None]


def new_model(shape: ModelShape, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A freshly initialised Qwen3 with tied embeddings for this tokenizer."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=shape.hidden_size // shape.heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=shape.max_positions,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model


def _load(settings: SFTModel, data: Data | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model to train and its tokenizer, by the settings' order of preference."""
    source = settings.tokenizer or settings.model
    try:
        tokenizer = AutoTokenizer.from_pretrained(source) if source else _new_tokenizer(settings, data)
        tokenizer.chat_template = settings.chat_template or tokenizer.chat_template
        if settings.model:
            return AutoModelForCausalLM.from_pretrained(settings.model, dtype=torch.float32), tokenizer
    except (OSError, ValueError) as error:
        raise UserError(f"sft: cannot load a model or tokenizer from {source!r}: {error}") from error
    return new_model(settings.shape, tokenizer), tokenizer


def _new_tokenizer(settings: SFTModel, data: Data | None) -> PreTrainedTokenizerBase:
    """The generator's tokenizer, or a BPE of the file's rows with the chat template of the settings."""
    if data is None:
        return GENERATORS[settings.data].tokenizer(settings)
    return train_bpe(data.rows, settings.vocab_size, settings.chat_template)


def _optimizers(model: PreTrainedModel, settings: SFTModel) -> list[torch.optim.Optimizer]:
    """AdamW for all, or Muon for the layers' matrices and AdamW for embeddings and norms."""
    matrices: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, weight in model.named_parameters():
        is_matrix = settings.optimizer == "muon" and weight.ndim == 2 and ".layers." in name
        (matrices if is_matrix else rest).append(weight)
    decay = settings.weight_decay
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=decay)
    ]
    if matrices:
        found.append(torch.optim.Muon(matrices, lr=settings.muon_learning_rate, weight_decay=decay))
    return found


def rate(step: int, settings: SFTModel) -> float:
    """Share of the full learning rate at `step` (from 0): linear warm-up, flat, linear fall to 0."""
    falling = (settings.steps - step) / (settings.decay_share * settings.steps)
    return min(1.0, (step + 1) / max(1, settings.warmup_steps), falling)


def read(settings: SFTModel) -> Data | None:
    """The rows to train on; None for a generator, whose demonstrations never end. Raises UserError (`read_data`)."""
    return None if settings.data in GENERATORS else read_data(Path(settings.data), settings.columns, settings.where)


def encode(data: Data, settings: SFTModel, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Example], list[str]]:
    """All examples, and what was left out, in words. Raises UserError (see `Encoder`), or when none is left."""
    if data.kind == "trajectories" and (settings.environment or settings.suffix):
        raise UserError("sft data: environment and suffix: trajectories hold their prompts' tokens; leave them out")
    examples, left_out = Encoder(tokenizer, settings).examples(data.rows)
    notes = list(data.notes)
    if left_out:
        notes.append(f"{left_out} of {len(data.rows)} rows are longer than max_length {settings.max_length}: left out")
    if not examples:
        raise UserError(f"sft: no row of {settings.data} fits in max_length {settings.max_length} tokens; raise it")
    return examples, notes


def _examples(settings: SFTModel, data: Data | None, tokenizer: PreTrainedTokenizerBase) -> Iterator[Example]:
    """An endless stream of examples: fresh demonstrations, or the file's rows in a new order in each epoch."""
    if data is None:
        encoder, stream = Encoder(tokenizer, settings), GENERATORS[settings.data].rows(settings)
        while True:
            yield from encoder.examples(islice(stream, CHUNK))[0]
    examples, notes = encode(data, settings, tokenizer)
    for note in notes:
        print(f"sft: {note}")
    generator = torch.Generator().manual_seed(settings.seed)
    while True:
        for index in torch.randperm(len(examples), generator=generator).tolist():
            yield examples[index]


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the model folder beside its place, then rename it: a reader never sees half of it."""
    beside = folder.with_name(folder.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    model.save_pretrained(beside)
    tokenizer.save_pretrained(beside)
    beside.rename(folder)


def _free(folder: Path) -> Path:
    if folder.exists():
        raise UserError(f"sft: {folder} exists already; choose another output or move it away")
    return folder


def train_one(settings: SFTModel, folder: Path, report: Report) -> None:
    """Train one model into `folder` (new); `sft_log.jsonl` beside the weights holds what was reported.

    Raises:
        UserError: data, model or tokenizer that cannot be used, a folder in use, a loss that is not finite.
    """
    torch.manual_seed(settings.seed)
    data = read(settings)
    model, tokenizer = _load(settings, data)
    model.train()
    optimizers = _optimizers(model, settings)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    stream = _examples(settings, data, tokenizer)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    log: list[dict[str, Any]] = []
    started, seen = time.perf_counter(), 0
    loss_sum, learned_sum, real_sum, padded_sum = 0.0, 0, 0, 0  # since the last report
    for step in range(settings.steps):
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate(step, settings)
        examples = list(islice(stream, settings.batch_size))
        learned = sum(example.learned for example in examples)
        for batch in micro_batches(examples, settings.micro_batch_tokens, pad_id):
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.autocast_bf16):
                logits_BTV = model(input_ids=batch.input_ids, use_cache=False).logits
            loss = functional.cross_entropy(logits_BTV.flatten(0, 1).float(), batch.labels.flatten(), reduction="sum")
            (loss / learned).backward()
            loss_sum += float(loss.detach())
            padded_sum += batch.labels.numel()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        learned_sum += learned
        real_sum += sum(len(example.ids) - 1 for example in examples)
        if (step + 1) % settings.log_every == 0 or step + 1 == settings.steps:
            seen += real_sum
            seconds = time.perf_counter() - started
            line = {
                "step": step + 1,
                "steps": settings.steps,
                "loss": round(loss_sum / learned_sum, 4),  # nats per learned token
                "grad_norm": round(float(norm), 3),
                "padding_share": round(1 - real_sum / padded_sum, 3),
                "tokens_per_second": round(seen / seconds),
                "seconds": round(seconds, 1),
            }
            if not math.isfinite(line["loss"]):
                raise UserError(f"sft: the loss is not finite at step {step + 1}; lower the learning rates")
            log.append(line)
            report(line)
            loss_sum, learned_sum, real_sum, padded_sum = 0.0, 0, 0, 0
        if (step + 1) % settings.save_every == 0 and step + 1 < settings.steps:
            save(model, tokenizer, _free(folder.with_name(f"{folder.name}-step{step + 1}")))
    save(model, tokenizer, folder)
    (folder / "sft_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log), encoding="utf-8")


def _print(line: dict[str, Any]) -> None:
    print("sft", json.dumps(line), flush=True)


def _named(report: Report, name: str, line: dict[str, Any]) -> None:
    report({"model": name, **line})


def run_sft(settings: SFTSettings, report: Report = _print) -> Path:
    """Train every model of `settings` in turn, each into `output/<name>`, and return `output`.

    Raises:
        UserError: see `train_one`; a folder in use is found before anything is trained.
    """
    folders = {name: _free(settings.output / name) for name in settings.models}
    settings.output.mkdir(parents=True, exist_ok=True)
    for name, model in settings.models.items():
        train_one(model, folders[name], partial(_named, report, name))
    return settings.output
