"""Trajectories of completions that another trainer has sampled."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from cib_rl.plugin import PluginError
from cib_rl.rollout import finish
from cib_rl.trajectory import Segment, StopReason, Trajectory, Turn

_ID_LENGTH = 60


def make_trajectory(
    task: Mapping[str, Any],
    *,
    group: int,
    member: int,
    prompt_ids: Sequence[int],
    completion_ids: Sequence[int],
    policy_mask: Sequence[int] | None,
    end_ids: Collection[int],
    tokenizer: Any,
    answer: str,
) -> Trajectory:
    """One episode of one segment, its text and answer filled in as after a rollout of ours.

    Other trainers do not report why a completion ended. So it is told by its last token: by itself when that is one of
    `end_ids`, else cut off by the length limit. An empty completion was not cut off.

    Args:
        task: the row; `prompt` is in it.
        completion_ids: what follows the prompt, without padding. Shape (T,).
        policy_mask: 1 where the policy sampled the token; None: everywhere. Shape (T,).
        answer: where the answer stands (see `extract_answer`).

    Raises PluginError when mask and ids differ in length.
    """
    mask = [1] * len(completion_ids) if policy_mask is None else [int(m) for m in policy_mask]
    if len(mask) != len(completion_ids):
        raise PluginError(
            f"row {task.get('id')!r}: policy_mask has {len(mask)} entries for {len(completion_ids)} completion tokens"
        )
    segment = Segment([int(i) for i in prompt_ids])
    for token, sampled in zip(completion_ids, mask, strict=True):
        if sampled:
            segment.append_policy([token], [float("nan")])
        else:
            segment.append_environment([token])
    ended = not completion_ids or int(completion_ids[-1]) in end_ids
    stop = StopReason.EOS if ended else StopReason.LENGTH
    turns = [Turn(segment=0, start=0, end=len(segment), stop_reason=stop)]
    trajectory = Trajectory(task=task, group=group, member=member, segments=[segment], turns=turns, stop_reason=stop)
    finish(trajectory, tokenizer, answer)
    return trajectory


def end_ids_of(tokenizer: Any) -> set[int]:
    """The ids that end a completion, as far as a tokenizer knows: end of sequence, and padding, which chat models have
    for the end of a document."""
    return {i for i in (tokenizer.eos_token_id, tokenizer.pad_token_id) if i is not None}


def rename(row: Mapping[str, Any], columns: Mapping[str, str] | None) -> dict[str, Any]:
    """`row` with the task columns that `columns` takes from others; `a.b` is the key b of the column a.

    Raises PluginError for a column that the row does not have.
    """
    renamed = dict(row)
    for target, source in (columns or {}).items():
        value: Any = row
        for part in [source] if source in row else source.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise PluginError(
                    f"columns: no column {source!r} for {target!r}; the rows have {', '.join(map(str, row)) or 'none'}"
                )
            value = value[part]
        renamed[target] = value
    return renamed


def row_name(row: Mapping[str, Any], prompt: Any) -> str:
    """What messages call a row: its `id`, else how its prompt begins (of messages: the last one's text)."""
    if row.get("id") is not None:
        return str(row["id"])
    text = prompt if isinstance(prompt, str) else str(prompt[-1].get("content")) if len(prompt) else ""
    return text if len(text) <= _ID_LENGTH else text[: _ID_LENGTH - 1] + "…"
