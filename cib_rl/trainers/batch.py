"""From a window of trajectories to the padded tensors that TRL's loss reads, and their split into micro-batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cib_rl.trajectory import Trajectory

Batch = dict[str, torch.Tensor]


def pad_window(
    trajectories: Sequence[Trajectory],
    in_loss_N: np.ndarray,
    *,
    pad_id: int,
    multiple_of: int = 1,
    device: torch.device | str = "cpu",
) -> Batch:
    """Tensors for TRL's `_compute_loss`: one row per segment (so N rows for single-context episodes).

    Prompts are padded on the left and completions on the right. `tool_mask` (B, T) is 1 on policy tokens of rows that
    train; it is what the loss is masked by. `engine_logps` (B, T) holds the engine's log-probabilities, NaN where
    missing. Rows with nothing in the loss are appended until the count is a multiple of `multiple_of`.
    """
    rows = [
        (segment, bool(keep))
        for trajectory, keep in zip(trajectories, in_loss_N, strict=True)
        for segment in trajectory.segments
    ]
    count = -(-max(len(rows), 1) // multiple_of) * multiple_of
    width_prompt = max([1] + [len(segment.prompt_ids) for segment, _ in rows])
    width = max([1] + [len(segment) for segment, _ in rows])
    batch = {
        "prompt_ids": torch.full((count, width_prompt), pad_id, dtype=torch.long),
        "prompt_mask": torch.zeros((count, width_prompt), dtype=torch.long),
        "completion_ids": torch.full((count, width), pad_id, dtype=torch.long),
        "completion_mask": torch.zeros((count, width), dtype=torch.long),
        "tool_mask": torch.zeros((count, width), dtype=torch.long),
        "engine_logps": torch.full((count, width), float("nan"), dtype=torch.float32),
    }
    # A model must attend to something in every row, fillers and empty prompts included.
    batch["prompt_mask"][:, -1] = 1
    for i, (segment, keep) in enumerate(rows):
        prompt, length = len(segment.prompt_ids), len(segment)
        if prompt:
            batch["prompt_ids"][i, -prompt:] = torch.tensor(segment.prompt_ids)
            batch["prompt_mask"][i, -prompt:] = 1
        if length:
            batch["completion_ids"][i, :length] = torch.tensor(segment.completion_ids)
            batch["completion_mask"][i, :length] = 1
            batch["tool_mask"][i, :length] = torch.tensor(segment.policy_mask) * int(keep)
            batch["engine_logps"][i, :length] = torch.tensor(segment.logprobs)
    return {name: tensor.to(device) for name, tensor in batch.items()}


def pad_tokens(values: Sequence[np.ndarray], trajectories: Sequence[Trajectory], batch: Batch) -> torch.Tensor:
    """One array (T,) per trajectory, over all its completion tokens, as (B, T) float32 in the rows of `batch`."""
    padded_BT = torch.zeros(batch["tool_mask"].shape, dtype=torch.float32)
    row = 0
    for whole, trajectory in zip(values, trajectories, strict=True):
        start = 0
        for segment in trajectory.segments:
            end = start + len(segment)
            padded_BT[row, : end - start] = torch.from_numpy(np.asarray(whole[start:end], dtype=np.float32))
            row, start = row + 1, end
    return padded_BT.to(batch["tool_mask"].device)


def unpad_tokens(values_BT: torch.Tensor, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
    """The way back: (B, T) in a window's rows as one array (T,) per trajectory."""
    rows = iter(values_BT.detach().float().cpu().numpy())
    return [
        np.concatenate([np.zeros(0), *(next(rows)[: len(segment)] for segment in t.segments)]) for t in trajectories
    ]


def split_window(batch: Batch, *, optimizer_steps: int, micro_batches: int, seed: Sequence[int]) -> list[np.ndarray]:
    """The rows of each of `optimizer_steps` × `micro_batches` micro-batches, equally many.

    Rows go to optimizer steps at random (by `seed`, not by the global random state). Within one optimizer step they are
    sorted by length, so that the rows of a micro-batch are alike and it can be trimmed; every batch has the same number
    of rows, so losses that average per row stay exact.
    """
    order = np.random.default_rng(list(seed)).permutation(batch["completion_ids"].size(0))
    lengths = (batch["completion_mask"].sum(1) + batch["prompt_mask"].sum(1)).tolist()
    micro = []
    for step in np.split(order, optimizer_steps):
        ranked = sorted(step.tolist(), key=lambda i: (lengths[i], i))
        micro += np.split(np.array(ranked), micro_batches)
    return micro


def take(batch: Batch, rows: np.ndarray) -> Batch:
    """Some rows of a batch, without the columns that are padding for all of them."""
    return trim({name: tensor[rows] for name, tensor in batch.items()})


def trim(batch: Batch) -> Batch:
    """Cut the padding columns that no row of the batch needs (left of the prompts, right of the completions)."""
    prompt = max(int(batch["prompt_mask"].sum(1).max()), 1)
    width = max(int(batch["completion_mask"].sum(1).max()), 1)
    return {
        name: tensor[:, -prompt:] if name.startswith("prompt_") else tensor[:, :width] for name, tensor in batch.items()
    }
