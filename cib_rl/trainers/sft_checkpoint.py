"""Folders of supervised training: models that are whole or absent, and what a stopped training needs to go on.

Every half-trained copy beside the output, `NAME-stepN`, is a model folder. The newest one also holds the state of the
optimizers, random numbers and sums, from which training goes on to the last bit.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cib_rl.errors import UserError
from cib_rl.run_folder import differences
from cib_rl.trainers.sft_data import Example
from cib_rl.trainers.sft_settings import SFTModel

SETTINGS, LOG, STATE = "sft_settings.json", "sft_log.jsonl", "sft_state.pt"
_MAY_CHANGE = ("log_every", "save_every")


@dataclass
class Progress:
    """How far a training is: steps done, the lines reported, and sums since the last of them."""

    step: int = 0
    seconds: float = 0.0
    seen: int = 0  # tokens up to the last line
    loss: float = 0.0
    learned: int = 0
    real: int = 0
    padded: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    settings: SFTModel,
    log: Sequence[dict[str, Any]],
    state: dict[str, Any] | None = None,
) -> None:
    """Write the model folder beside its place, then rename it: a reader never sees half of it.

    Args:
        log: what was reported, as `sft_log.jsonl`.
        state: what training goes on from; None: nothing.
    """
    beside = folder.with_name(folder.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    model.save_pretrained(beside)
    tokenizer.save_pretrained(beside)
    (beside / SETTINGS).write_text(json.dumps(settings.model_dump(mode="json"), indent=1), encoding="utf-8")
    (beside / LOG).write_text("".join(json.dumps(line) + "\n" for line in log), encoding="utf-8")
    if state is not None:
        torch.save(state, beside / STATE)
    beside.rename(folder)


def save_copy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    settings: SFTModel,
    optimizers: Sequence[torch.optim.Optimizer],
    progress: Progress,
    data: str,
) -> None:
    """Write a half-trained copy of the model that `folder` will hold, and take the state out of the copy before it.

    Args:
        data: see `fingerprint`.
    """
    state = {
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "progress": vars(progress),
        "data": data,
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    before = _states(folder)
    copy = folder.with_name(f"{folder.name}-step{progress.step}")
    save(model, tokenizer, copy, settings, progress.log, state)
    for path in before:
        path.unlink()


def copies(folder: Path) -> list[Path]:
    """The half-trained copies beside `folder`, oldest first."""
    pattern = re.compile(rf"{re.escape(folder.name)}-step(\d+)")
    found = [(int(m[1]), path) for path in folder.parent.glob("*") if (m := pattern.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def _states(folder: Path) -> list[Path]:
    return [path / STATE for path in copies(folder) if (path / STATE).is_file()]


def drop_states(folder: Path) -> None:
    """Remove the state that a finished model no longer needs."""
    for path in _states(folder):
        path.unlink()


def find_copy(folder: Path, settings: SFTModel) -> Path | None:
    """The copy from which the training of `folder` goes on; None: it starts anew.

    Raises UserError when a copy is there that does not hold the state, or that other settings made.
    """
    if not copies(folder):
        return None
    states = _states(folder)
    if not states:
        raise UserError(
            f"sft: {copies(folder)[-1]} has no {STATE}, so training cannot go on from it; choose another output"
        )
    check_settings(states[-1].parent, settings)
    return states[-1].parent


def check_settings(folder: Path, settings: SFTModel) -> None:
    """Raises UserError unless the model of `folder` was made by these settings."""
    try:
        before = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"sft: {folder} does not say what made it ({error}); choose another output") from None
    now = settings.model_dump(mode="json")
    for key in _MAY_CHANGE:
        before.pop(key, None)
        now.pop(key)
    if changed := differences(before, now):
        raise UserError(f"sft: {folder} was made by other settings: {'; '.join(changed)}; choose another output")


def restore(folder: Path, optimizers: Sequence[torch.optim.Optimizer], data: str) -> Progress:
    """Put back the optimizers' and the random numbers' state of a copy. Raises UserError when the rows are others."""
    state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    if state["data"] != data:
        raise UserError(f"sft: the rows are not those that {folder} was trained on; choose another output")
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    torch.set_rng_state(state["random"])
    if state["random_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["random_cuda"])
    return Progress(**state["progress"])


def fingerprint(examples: Sequence[Example] | None) -> str:
    """A hash of all tokens and of what is learned of them; empty for demonstrations, which follow from the settings."""
    if examples is None:
        return ""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr((example.ids, example.spans)).encode())
    return digest.hexdigest()
