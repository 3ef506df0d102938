"""Checkpoints that are whole or absent, and runs that continue exactly where they stopped.

A checkpoint is written beside its place, listed with sizes and hashes in `manifest.json`, and renamed. What
transformers saves (model, optimizer, scheduler, random states) is completed by what a run needs to go on inside a
window: the cursor of the task stream, TRL's step counter and the window that is being trained on, per process.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from cib_rl.errors import UserError

MANIFEST = "manifest.json"
STAGING = ".staging"
RANK_STATE = "window-rank{}.pt"


def checkpoint_name(step: int) -> str:
    return f"step-{step:06d}"


def write_manifest(folder: Path, step: int) -> None:
    """List every file of `folder` with size and SHA-256; the manifest itself is written last."""
    files = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    partial = folder / (MANIFEST + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump({"step": step, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / MANIFEST)


def verify_checkpoint(folder: Path) -> int:
    """Check a checkpoint against its manifest and return its step.

    Raises UserError when the manifest is missing, or a file is missing or changed.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise UserError(f"{folder} is not a whole checkpoint (no {MANIFEST}); resume from another one")
    listed = json.loads(manifest.read_text(encoding="utf-8"))
    for name, facts in listed["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != facts["size"] or _sha256(path) != facts["sha256"]:
            raise UserError(f"checkpoint {folder}: {name} is missing or damaged; resume from another one")
    return int(listed["step"])


def find_checkpoint(path: Path) -> Path:
    """The checkpoint meant by `path`: itself, or the newest whole one of a run folder. UserError if there is none."""
    if (path / MANIFEST).is_file():
        return path
    named = [p for p in (path / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d+", p.name)]
    found = [p for p in named if (p / MANIFEST).is_file()]
    if not found:
        raise UserError(f"{path} holds no whole checkpoint to resume from")
    return max(found, key=lambda p: int(p.name.split("-")[1]))


def check_processes(checkpoint: Path, world: int) -> None:
    """Raises UserError when the checkpoint was written by another number of processes."""
    wrote = len(list(checkpoint.glob(RANK_STATE.format("*"))))
    if wrote != world:
        raise UserError(
            f"checkpoint {checkpoint} was written by {wrote} process(es), not {world}: resume with as many as wrote it"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class CheckpointMixin:
    """Overrides of transformers' saving and loading, for a trainer with `run_folder`, `collector` and TRL's buffers."""

    run_folder: Any
    collector: Any
    budget: Any
    keep_checkpoints: int | None
    _staging: Path | None = None
    _restore_rng_from: str | None = None

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging is not None else super()._get_output_dir(trial)  # type: ignore[misc]

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No model card: the run folder describes itself."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step  # type: ignore[attr-defined]
        main = self.accelerator.is_main_process  # type: ignore[attr-defined]
        final = self.run_folder.checkpoints / checkpoint_name(step)
        staging = self.run_folder.checkpoints / STAGING
        if main:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
        self.accelerator.wait_for_everyone()  # type: ignore[attr-defined]
        self._staging = staging
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            inner = staging / f"{PREFIX_CHECKPOINT_DIR}-{step}"
            rank = self.accelerator.process_index  # type: ignore[attr-defined]
            torch.save(self._own_state(), inner / RANK_STATE.format(rank))
            self._save_more(inner)
            self.accelerator.wait_for_everyone()  # type: ignore[attr-defined]
            if main:
                write_manifest(inner, step)
                shutil.rmtree(final, ignore_errors=True)
                inner.rename(final)
        except (OSError, SafetensorError, RuntimeError) as error:  # torch and safetensors wrap the system's error
            raise UserError(
                f"cannot write checkpoint {final}: {error}; earlier checkpoints are untouched, free some space and "
                "resume"
            ) from error
        finally:
            self._staging = None
            if main:
                shutil.rmtree(staging, ignore_errors=True)
        if main:
            self._rotate(final)
        self.accelerator.wait_for_everyone()  # type: ignore[attr-defined]

    def _save_more(self, folder: Path) -> None:
        """What else a trainer keeps in a checkpoint; every process calls it."""

    def _rotate(self, newest: Path) -> None:
        if self.keep_checkpoints is not None:
            whole = sorted(p for p in newest.parent.glob("step-*") if (p / MANIFEST).is_file())
            for path in whole[: -self.keep_checkpoints]:
                shutil.rmtree(path)

    def _own_state(self) -> dict[str, Any]:
        return {
            "cursor": self.collector.stream.cursor,
            "rewards": self.collector.suite.state_dict(),
            "budget": self.budget.state_dict() if self.budget is not None else None,
            "micro_step": self._step,
            "window": self._buffered_inputs,
            "window_index": self._window_index,
            "waiting": self._waiting,
        }

    def restore(self, checkpoint: Path) -> None:
        """Take up the state of this process from a verified checkpoint, before `train(resume_from_checkpoint=…)`."""
        rank = self.accelerator.process_index  # type: ignore[attr-defined]
        state = torch.load(checkpoint / RANK_STATE.format(rank), weights_only=True)
        self.collector.stream.cursor = state["cursor"]
        self.collector.suite.load_state_dict(state["rewards"])
        if self.budget is not None and state["budget"] is not None:
            self.budget.load_state_dict(state["budget"])
        self._step = state["micro_step"]
        self._buffered_inputs = state["window"]
        self._window_index = state["window_index"]
        self._waiting = state["waiting"]
        self._restore_rng_from = str(checkpoint)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """A name that shares its tensor with a loaded one (a tied head is saved once) is not missing."""
        named = dict(self.model.named_parameters(remove_duplicate=False))  # type: ignore[attr-defined]
        missing = set(load_result.missing_keys)
        loaded = {id(parameter) for name, parameter in named.items() if name not in missing}
        truly = [name for name in load_result.missing_keys if id(named.get(name)) not in loaded]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=truly))  # type: ignore[misc]

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self._restore_rng_from is not None:
            # transformers restores the random states before it starts the data loader, which draws from them; restored
            # here, the first step after resuming sees what it would have seen without the stop.
            self._load_rng_state(self._restore_rng_from)  # type: ignore[attr-defined]
            self._restore_rng_from = None
        loss: torch.Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        return loss
