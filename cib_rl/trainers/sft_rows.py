"""What supervised training reads: texts, conversations, or trajectories of our own; the rows that are wanted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cib_rl.errors import UserError
from cib_rl.samples.load import holds_trajectories, sample_files
from cib_rl.samples.read import Row as FileRow
from cib_rl.samples.read import read_rows
from cib_rl.trainers.sft_data import Row
from cib_rl.trainers.sft_messages import check_messages
from cib_rl.trajectory import Segment, Trajectory
from cib_rl.trajectory_io import read_trajectories


@dataclass(frozen=True)
class Conversation:
    """Messages of a row; `tools`: what its chat template is told of tools. `where` names file and line."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None
    where: str

    @property
    def texts(self) -> tuple[str, ...]:
        """Contents, and as JSON, which is how most templates write them, calls and descriptions of tools."""
        calls = (call.get("function", call) for m in self.messages for call in m.get("tool_calls") or [])
        others = (json.dumps(value, ensure_ascii=False) for value in (*calls, *(self.tools or [])))
        return (*(message["content"] for message in self.messages), *others)


@dataclass(frozen=True)
class Episode:
    """A trajectory of our own: `text` is the decode of all its completion tokens at the time of its rollout."""

    segments: list[Segment]
    text: str
    where: str

    @property
    def texts(self) -> tuple[str, ...]:
        raise UserError(f"sft data: {self.where}: trajectories hold tokens; name the model or tokenizer they are of")


SFTRow = Row | Conversation | Episode


@dataclass(frozen=True)
class Data:
    """`kind`: texts, messages or trajectories; `notes`: what was left out, in words."""

    kind: str
    rows: list[SFTRow]
    notes: list[str]


def read_data(path: Path, columns: Mapping[str, str], where: Mapping[str, Any]) -> Data:
    """The rows of a file, a run folder or an evaluation folder.

    * `.jsonl`, `.jsonl.gz` or a `.parquet` table with `messages`, or with the texts `prompt` and `completion`; a row
      whose messages do not begin with a question gets the text of `columns.prompt` as its first message;
    * parquet files of trajectories. Failed episodes are left out.

    Args:
        columns: prompt, completion or messages -> the column that holds it.
        where: column -> the value that a row must have in it; `a.b` is the key b of the column a. Of a trajectory:
            rewards, diagnostics, task, stop_reason, truncated, answer.

    Raises:
        UserError: no such file, no rows, a row that is wrong (file and line named), or `where` that no row meets.
    """
    files = sample_files(path)
    if all(holds_trajectories(file) for file in files):
        if columns:
            raise UserError(f"sft data: columns: {path} holds trajectories, whose columns are known")
        return _episodes(path, files, where)
    if len(files) > 1:
        raise UserError(f"sft data: {path}: not all of its {len(files)} parquet files hold trajectories; name one file")
    found = read_rows(files[0])
    kept = [row for row in found if _meets(row.values, where)]
    _require_rows(path, len(found), len(kept), where, found[0].values)
    notes = [f"{len(found) - len(kept):,} of {len(found):,} rows left out by where"] if where else []
    names = {name: columns.get(name, name) for name in ("prompt", "completion", "messages")}
    if unknown := set(columns) - set(names):
        raise UserError(f"sft data: columns: unknown {min(unknown)!r}; known: {', '.join(names)}")
    if names["completion"] in kept[0].values or names["messages"] not in kept[0].values:
        return Data("texts", [_texts(row, names) for row in kept], notes)
    return Data("messages", [_conversation(row, names, "prompt" in columns) for row in kept], notes)


def _texts(row: FileRow, names: Mapping[str, str]) -> Row:
    for name in ("prompt", "completion"):
        if not isinstance(row.values.get(names[name]), str):
            raise UserError(f"sft data: {row.where} needs the text {names[name]!r}; it has {sorted(row.values)}")
    return Row(row.values[names["prompt"]], row.values[names["completion"]], row.where)


def _conversation(row: FileRow, names: Mapping[str, str], has_question: bool) -> Conversation:
    messages = check_messages(row.values.get(names["messages"]), f"sft data: {row.where}")
    last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=None)
    if last is None:
        raise UserError(f"sft data: {row.where}: nothing to learn: no message is the assistant's")
    if messages[0]["role"] in ("assistant", "tool"):
        question = row.values.get(names["prompt"])
        if not has_question or not isinstance(question, str):
            raise UserError(
                f"sft data: {row.where}: the first message is the {messages[0]['role']}'s; say which column holds the "
                f"question as text, for example columns: {{prompt: question}}; it has {sorted(row.values)}"
            )
        messages, last = [{"role": "user", "content": question}, *messages], last + 1
    tools = row.values.get("tools")
    return Conversation(messages[: last + 1], tools if isinstance(tools, list) else None, row.where)


def _episodes(path: Path, files: list[Path], where: Mapping[str, Any]) -> Data:
    read = [(t, f"{file}, row {n}") for file in files for n, t in enumerate(read_trajectories(file), 1)]
    if not read:
        raise UserError(f"sft data: {path} holds no trajectories")
    kept = [(t, place) for t, place in read if _meets(_facts(t), where)]
    _require_rows(path, len(read), len(kept), where, _facts(read[0][0]))
    whole = [(t, place) for t, place in kept if not t.failed and t.num_tokens]
    if not whole:
        raise UserError(f"sft data: {path}: nothing to learn: all episodes failed or have no token of the policy's")
    notes = [f"{len(read) - len(kept):,} of {len(read):,} episodes left out by where"] if where else []
    if len(whole) < len(kept):
        notes.append(f"{len(kept) - len(whole):,} of {len(kept):,} episodes failed or are empty: left out")
    return Data("trajectories", [Episode(t.segments, t.text, place) for t, place in whole], notes)


def _facts(t: Trajectory) -> dict[str, Any]:
    stop = t.stop_reason.value if t.stop_reason else None
    return {
        "rewards": t.rewards,
        "diagnostics": t.diagnostics,
        "task": dict(t.task),
        "stop_reason": stop,
        "truncated": t.truncated,
        "answer": t.answer,
    }


_MISSING = object()


def _value(values: Mapping[str, Any], name: str) -> Any:
    found: Any = values
    for part in [name] if name in values else name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return _MISSING
        found = found[part]
    return found


def _meets(values: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    return all(_value(values, name) == wanted for name, wanted in where.items())


def _require_rows(path: Path, found: int, kept: int, where: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    if kept:
        return
    values = ", ".join(
        f"{name} is {'not there' if (v := _value(first, name)) is _MISSING else repr(v)}" for name in where
    )
    raise UserError(f"sft data: {path}: none of {found:,} rows meets where; in the first one {values}")
