"""The process group of a run with several processes: what must come before it, and its end."""

from __future__ import annotations

import gc
import importlib
import importlib.util

import torch


def import_before_joining() -> None:
    """Import DeepSpeed, where it is installed, before there is a process group.

    Functions of DeepSpeed have the group as a default argument, the one there is when they are defined. TRL's trainer
    imports DeepSpeed in any case; later, that argument would keep the group alive beyond `leave_processes`.
    """
    if importlib.util.find_spec("deepspeed") is not None:
        importlib.import_module("deepspeed.comm")


def leave_processes() -> None:
    """Destroy the process group: the last thing a process does after a training that went well. Nothing without one.

    Neither transformers nor accelerate does it, and an interpreter that ends with a group alive may abort: gloo's
    threads let go of tensors only after they have reported the result, for which they need the interpreter's lock, and
    one that waits for the lock when the interpreter ends is torn out of a destructor (SIGABRT; pytorch#179291).

    First the wrapped model must be gone, and as the trainer is part of reference cycles it takes a collection. DDP's
    reducer holds the group, too; were it the last to do so, it would join gloo's threads with the lock in its hands
    that they wait for. (DeepSpeed's engine survives the collection, but holds its groups in a way that gives the lock
    up.)

    Not for a training that failed: the others may be waiting in a collective, and this would wait with them.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()
