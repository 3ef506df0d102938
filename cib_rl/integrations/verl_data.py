"""The rows of verl's DataProto as trajectories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from cib_rl.integrations.episodes import end_ids_of, make_trajectory, rename, row_name
from cib_rl.integrations.scorer import Settings
from cib_rl.plugin import PluginError
from cib_rl.trajectory import Trajectory

_ONE_ANSWER = 2  # verl's number of turns of an episode with one question and one answer


def trajectories_of(data: Any, settings: Settings) -> list[Trajectory]:
    """One trajectory per row of a DataProto, grouped by `uid`.

    Read from `data.batch`: `prompts` (B, P), `responses` (B, R), `attention_mask` (B, P + R), `response_mask` (B, R; 1
    where the policy sampled the token) where there is one; from `data.non_tensor_batch`: `uid`, `raw_prompt`,
    `reward_model`, `extra_info`, `data_source`. Token ids are used as they are.

    Raises:
        PluginError: no `uid`, or an episode of several turns without a `response_mask`.
    """
    if "uid" not in data.non_tensor_batch:
        raise PluginError("verl gave no `uid`: which completions belong to one prompt is not known")
    numbers: dict[str, int] = {}
    counts: dict[int, int] = {}
    made = []
    for i in range(len(data)):
        group = numbers.setdefault(str(data.non_tensor_batch["uid"][i]), len(numbers))
        counts[group] = counts.get(group, -1) + 1
        made.append(_trajectory(data, i, group, counts[group], settings))
    return made


def positions_of(data: Any, i: int) -> torch.Tensor:
    """Where in `responses[i]` the completion's tokens stand, padding left out. Shape (T,)."""
    if "response_len" in data.non_tensor_batch:
        return torch.arange(int(data.non_tensor_batch["response_len"][i]))
    start = data.batch["prompts"].shape[-1]
    return torch.nonzero(data.batch["attention_mask"][i][start:]).flatten()


def _prompt_ids(data: Any, i: int) -> list[int]:
    prompt = data.batch["prompts"][i]
    if "prompt_len" in data.non_tensor_batch:
        kept = prompt[: int(data.non_tensor_batch["prompt_len"][i])]
    else:
        kept = prompt[data.batch["attention_mask"][i][: len(prompt)].bool()]
    return [int(token) for token in kept]


def _trajectory(data: Any, i: int, group: int, member: int, settings: Settings) -> Trajectory:
    positions = positions_of(data, i)
    prompt_ids = _prompt_ids(data, i)
    raw = data.non_tensor_batch.get("raw_prompt")
    prompt = plain(raw[i]) if raw is not None else settings.tokenizer.decode(prompt_ids, skip_special_tokens=True)
    task = task_row(
        prompt,
        _of_row(data, "reward_model", i).get("ground_truth"),
        data.non_tensor_batch["data_source"][i] if "data_source" in data.non_tensor_batch else None,
        _of_row(data, "extra_info", i),
        settings.columns,
    )
    mask = None
    if "response_mask" in data.batch.keys():  # noqa: SIM118 (a TensorDict does not take `in`)
        mask = [int(m) for m in data.batch["response_mask"][i][positions]]
    elif "__num_turns__" in data.non_tensor_batch:
        require_one_answer(data.non_tensor_batch["__num_turns__"][i], task["id"])
    return make_trajectory(
        task,
        group=group,
        member=member,
        prompt_ids=prompt_ids,
        completion_ids=[int(token) for token in data.batch["responses"][i][positions]],
        policy_mask=mask,
        end_ids=end_ids_of(settings.tokenizer),
        tokenizer=settings.tokenizer,
        answer=settings.answer,
    )


def task_row(
    prompt: Any, ground_truth: Any, data_source: Any, extra_info: Mapping[str, Any], columns: Mapping[str, str] | None
) -> dict[str, Any]:
    """The task row: what is in `extra_info`, `answer` and `ground_truth` (the gold), `data_source`, `prompt`.

    `columns` renames as in a recipe: `{"numbers": "ground_truth.numbers"}`. The id is `extra_info["index"]`, else how
    the prompt begins.
    """
    extra = {str(key): plain(value) for key, value in extra_info.items()}
    gold = plain(ground_truth)
    row = extra | {"ground_truth": gold, "data_source": plain(data_source), "prompt": prompt}
    row |= {} if gold is None else {"answer": gold}
    row = rename(row, columns)
    name = row_name({"id": row.get("id", row.get("index"))}, row["prompt"])
    return row | {"id": name}


def require_one_answer(turns: Any, row: str) -> None:
    """Raises PluginError for an episode in which others than the policy have written."""
    if turns is not None and int(turns) > _ONE_ANSWER:
        raise PluginError(
            f"row {row!r}: an episode of {int(turns)} turns, and verl does not say which of its tokens the policy has "
            "sampled (no response_mask)"
        )


def plain(value: Any) -> Any:
    """A value as verl reads it from parquet, without numpy in it."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


def _of_row(data: Any, name: str, i: int) -> Mapping[str, Any]:
    column = data.non_tensor_batch.get(name)
    value = column[i] if column is not None else None
    return value if isinstance(value, Mapping) else {}
