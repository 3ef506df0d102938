"""From a window of trajectories to the padded tensors that TRL's loss reads, and their split into micro-batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cib_rl.trajectory import Trajectory

Batch = dict[str, torch.Tensor]


def pad_window(
    trajectories: Sequence[Trajectory],
    advantages: Sequence[np.ndarray],
    in_loss_N: np.ndarray,
    *,
    pad_id: int,
    multiple_of: int = 1,
    device: torch.device | str = "cpu",
) -> Batch:
    """Tensors for TRL's `_compute_loss`: one row per segment (so N rows for single-context episodes).

    Prompts are padded on the left and completions on the right. `tool_mask` (B, T) is 1 on policy tokens of rows that
    train; it is what the loss is masked by. `advantages` (B, T) come from per-trajectory arrays over all completion
    tokens. `engine_logps` (B, T) holds the engine's log-probabilities, NaN where missing. Rows with nothing in the loss
    are appended until the count is a multiple of `multiple_of`.
    """
    rows = [
        (segment, advantage, bool(keep))
        for trajectory, whole, keep in zip(trajectories, advantages, in_loss_N, strict=True)
        for segment, advantage in zip(trajectory.segments, _split(whole, trajectory), strict=True)
    ]
    count = -(-max(len(rows), 1) // multiple_of) * multiple_of
    width_prompt = max([1] + [len(segment.prompt_ids) for segment, _, _ in rows])
    width = max([1] + [len(segment) for segment, _, _ in rows])
    batch = {
        "prompt_ids": torch.full((count, width_prompt), pad_id, dtype=torch.long),
        "prompt_mask": torch.zeros((count, width_prompt), dtype=torch.long),
        "completion_ids": torch.full((count, width), pad_id, dtype=torch.long),
        "completion_mask": torch.zeros((count, width), dtype=torch.long),
        "tool_mask": torch.zeros((count, width), dtype=torch.long),
        "advantages": torch.zeros((count, width), dtype=torch.float32),
        "engine_logps": torch.full((count, width), float("nan"), dtype=torch.float32),
    }
    # A model must attend to something in every row, fillers and empty prompts included.
    batch["prompt_mask"][:, -1] = 1
    for i, (segment, advantage, keep) in enumerate(rows):
        prompt, length = len(segment.prompt_ids), len(segment)
        if prompt:
            batch["prompt_ids"][i, -prompt:] = torch.tensor(segment.prompt_ids)
            batch["prompt_mask"][i, -prompt:] = 1
        if length:
            batch["completion_ids"][i, :length] = torch.tensor(segment.completion_ids)
            batch["completion_mask"][i, :length] = 1
            batch["tool_mask"][i, :length] = torch.tensor(segment.policy_mask) * int(keep)
            batch["advantages"][i, :length] = torch.from_numpy(np.asarray(advantage, dtype=np.float32))
            batch["engine_logps"][i, :length] = torch.tensor(segment.logprobs)
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _split(values_T: np.ndarray, trajectory: Trajectory) -> list[np.ndarray]:
    """Cut an array over all completion tokens into one per segment."""
    ends = np.cumsum([len(segment) for segment in trajectory.segments])
    return np.split(values_T, ends[:-1]) if len(ends) else []


def set_tracks(trajectories: Sequence[Trajectory], name: str, values_BT: torch.Tensor) -> None:
    """Attach one row per segment, as `pad_window` laid them out, to the trajectories as the track `name`."""
    rows = iter(values_BT.float().cpu().tolist())
    for trajectory in trajectories:
        parts = [next(rows)[: len(segment)] for segment in trajectory.segments]
        trajectory.set_track(name, [value for part in parts for value in part])


def split_window(batch: Batch, *, optimizer_steps: int, micro_batches: int, seed: Sequence[int]) -> list[Batch]:
    """Split a window into `optimizer_steps` × `micro_batches` batches of equal row count.

    Rows go to optimizer steps at random (by `seed`, not by the global random state). Within one optimizer step they are
    sorted by length, so that the rows of a micro-batch are alike and it can be trimmed; every batch has the same number
    of rows, so losses that average per row stay exact. Columns that are padding for all rows of a batch are cut off.
    """
    count = batch["completion_ids"].size(0)
    order = np.random.default_rng(list(seed)).permutation(count)
    lengths = (batch["completion_mask"].sum(1) + batch["prompt_mask"].sum(1)).tolist()
    batches = []
    for step in np.split(order, optimizer_steps):
        ranked = sorted(step.tolist(), key=lambda i: (lengths[i], i))
        for rows in np.split(np.array(ranked), micro_batches):
            batches.append(trim({name: tensor[rows] for name, tensor in batch.items()}))
    return batches


def trim(batch: Batch) -> Batch:
    """Cut the padding columns that no row of the batch needs (left of the prompts, right of the completions)."""
    prompt = max(int(batch["prompt_mask"].sum(1).max()), 1)
    width = max(int(batch["completion_mask"].sum(1).max()), 1)
    return {
        name: tensor[:, -prompt:] if name.startswith("prompt_") else tensor[:, :width] for name, tensor in batch.items()
    }
