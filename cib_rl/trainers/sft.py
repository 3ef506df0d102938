"""Supervised training on texts, conversations and trajectories: warm starts of policies and blind priors.

    cib-rl sft warmstart          or          run_sft(SFTSettings(output="runs/warm", models={"policy": {}}))

A plain loop: draw a batch, cut it into micro-batches of like length, average the loss over the step's learned tokens,
step.  The model comes from a folder or is made new as a small Qwen3; every `save_every` steps it is written beside the
output, so that a half-trained model can be tried and a stopped training can go on.

TRL's `SFTTrainer` is not used: for the embedded model it took 1.7 times the CPU time per token, mostly padding, and 1.3
times with rows grouped by length, which also makes each step's gradient that of one length alone.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cib_rl.errors import UserError
from cib_rl.models import load_policy, load_tokenizer
from cib_rl.trainers.sft_checkpoint import (
    Progress,
    check_settings,
    copies,
    drop_states,
    find_copy,
    fingerprint,
    restore,
    save,
    save_copy,
)
from cib_rl.trainers.sft_data import Example, micro_batches
from cib_rl.trainers.sft_encode import Encoder
from cib_rl.trainers.sft_generators import GENERATORS
from cib_rl.trainers.sft_model import make_model, make_optimizers, make_tokenizer, rate
from cib_rl.trainers.sft_rows import Data, read_data
from cib_rl.trainers.sft_settings import SFTModel, SFTSettings

CHUNK = 512  # demonstrations tokenized at a time
Report = Callable[[dict[str, Any]], None]


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


def demonstrations(settings: SFTModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[Example]:
    """A generator's, fresh without end."""
    encoder, stream = Encoder(tokenizer, settings), GENERATORS[settings.data].rows(settings)
    while True:
        yield from encoder.examples(islice(stream, CHUNK))[0]


def _in_epochs(examples: Sequence[Example], seed: int) -> Iterator[Example]:
    """The examples without end, in a new order in each epoch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for index in torch.randperm(len(examples), generator=generator).tolist():
            yield examples[index]


def train_one(settings: SFTModel, folder: Path, report: Report, copy: Path | None = None) -> None:
    """Train one model into `folder` (new); `sft_log.jsonl` beside the weights holds what was reported.

    Args:
        copy: a half-trained copy to go on from: the model becomes the one that it would have been without a stop.

    Raises:
        UserError: data, model or tokenizer that cannot be used, other data than the copy's, a loss that is not finite.
    """
    torch.manual_seed(settings.seed)
    data = read(settings)
    tokenizer = load_tokenizer(str(copy)) if copy else make_tokenizer(settings, data)
    model = load_policy(str(copy)) if copy else make_model(settings, tokenizer)
    examples, notes = encode(data, settings, tokenizer) if data else (None, [])
    for note in notes:
        print(f"sft: {note}")
    model.train().to("cuda" if torch.cuda.is_available() else "cpu")
    optimizers = make_optimizers(model, settings)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    rows = fingerprint(examples)
    done = restore(copy, optimizers, rows) if copy else Progress()
    stream = demonstrations(settings, tokenizer) if examples is None else _in_epochs(examples, settings.seed)
    stream = islice(stream, done.step * settings.batch_size, None)
    started = time.perf_counter() - done.seconds
    for step in range(done.step, settings.steps):
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate(step, settings)
        norm = _step(model, optimizers, list(islice(stream, settings.batch_size)), settings, tokenizer, done)
        done.step, done.seconds = step + 1, time.perf_counter() - started
        if done.step % settings.log_every == 0 or done.step == settings.steps:
            _report(done, norm, settings, report)
        if done.step % settings.save_every == 0 and done.step < settings.steps:
            save_copy(model, tokenizer, folder, settings, optimizers, done, rows)
    save(model, tokenizer, folder, settings, done.log)
    drop_states(folder)


def _step(
    model: PreTrainedModel,
    optimizers: Sequence[torch.optim.Optimizer],
    examples: Sequence[Example],
    settings: SFTModel,
    tokenizer: PreTrainedTokenizerBase,
    done: Progress,
) -> float:
    """One optimizer step on the mean loss over all learned tokens; returns the gradient's norm before clipping."""
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    learned = sum(example.learned for example in examples)
    for batch in micro_batches(list(examples), settings.micro_batch_tokens, pad_id):
        input_ids, labels = batch.input_ids.to(model.device), batch.labels.to(model.device)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=settings.autocast_bf16):
            logits_BTV = model(input_ids=input_ids, use_cache=False).logits
        loss = functional.cross_entropy(logits_BTV.flatten(0, 1).float(), labels.flatten(), reduction="sum")
        (loss / learned).backward()
        done.loss += float(loss.detach())
        done.padded += labels.numel()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    done.learned += learned
    done.real += sum(len(example.ids) - 1 for example in examples)
    return float(norm)


def _report(done: Progress, norm: float, settings: SFTModel, report: Report) -> None:
    """Log and report a line about the steps since the last one. Raises UserError for a loss that is not finite."""
    done.seen += done.real
    line = {
        "step": done.step,
        "steps": settings.steps,
        "loss": round(done.loss / done.learned, 4),  # nats per learned token
        "grad_norm": round(norm, 3),
        "padding_share": round(1 - done.real / done.padded, 3),
        "tokens_per_second": round(done.seen / done.seconds),
        "seconds": round(done.seconds, 1),
    }
    if not math.isfinite(line["loss"]):
        raise UserError(f"sft: the loss is not finite at step {done.step}; lower the learning rates")
    done.log.append(line)
    report(line)
    done.loss, done.learned, done.real, done.padded = 0.0, 0, 0, 0


def _print(line: dict[str, Any]) -> None:
    print("sft", json.dumps(line), flush=True)


def _named(report: Report, name: str, line: dict[str, Any]) -> None:
    report({"model": name, **line})


def starts(settings: SFTSettings, resume: bool) -> dict[str, Path | None]:
    """The models that are to be trained, each with the copy that it goes on from; finished ones are not among them.

    Raises:
        UserError: without `resume`, a folder in use; with it, nothing to go on from, or what other settings made.
    """
    folders = {name: settings.output / name for name in settings.models}
    if not resume:
        used = [path for folder in folders.values() for path in (folder, *copies(folder)) if path.exists()]
        if used:
            raise UserError(
                f"sft: {used[0]} exists already; choose another output, move it away, or go on with --resume"
            )
        return dict.fromkeys(settings.models)
    if not any(folder.exists() or copies(folder) for folder in folders.values()):
        raise UserError(f"sft: {settings.output} holds nothing to resume; leave out --resume")
    found: dict[str, Path | None] = {}
    for name, folder in folders.items():
        if folder.exists():
            check_settings(folder, settings.models[name])
        else:
            found[name] = find_copy(folder, settings.models[name])
    return found


def run_sft(settings: SFTSettings, report: Report = _print, *, resume: bool = False) -> Path:
    """Train every model of `settings` in turn, each into `output/<name>`, and return `output`.

    Args:
        resume: leave the finished ones and go on with the one that was stopped.

    Raises:
        UserError: see `train_one` and `starts`; a folder in use is found before anything is trained.
    """
    to_train = starts(settings, resume)
    settings.output.mkdir(parents=True, exist_ok=True)
    for name, copy in to_train.items():
        train_one(settings.models[name], settings.output / name, partial(_named, report, name), copy)
    return settings.output
