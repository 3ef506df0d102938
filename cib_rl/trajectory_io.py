"""Trajectories on disk: one parquet file per window and process, with a schema version."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cib_rl.errors import UserError
from cib_rl.trajectory import Segment, StopReason, Trajectory, Turn

SCHEMA_VERSION = 2  # 1 had no column `extras`

_SEGMENT = pa.struct(
    [
        ("prompt_ids", pa.list_(pa.int32())),
        ("completion_ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("policy_mask", pa.list_(pa.int8())),
    ]
)
_TRACK = pa.struct([("name", pa.string()), ("values", pa.list_(pa.float32()))])
_SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("group", pa.int64()),
        ("member", pa.int32()),
        ("task_id", pa.string()),
        ("task", pa.string()),  # the whole row as JSON
        ("text", pa.string()),
        ("policy_text", pa.string()),
        ("answer", pa.string()),
        ("num_tokens", pa.int32()),
        ("stop_reason", pa.string()),
        ("rewards", pa.string()),  # JSON: name -> unweighted value
        ("diagnostics", pa.string()),  # JSON
        ("extras", pa.string()),  # JSON: column -> what a reward logged
        ("turns", pa.string()),  # JSON
        ("errors", pa.list_(pa.string())),
        ("segments", pa.list_(_SEGMENT)),
        ("tracks", pa.list_(_TRACK)),
    ],
    metadata={"cib_rl.schema_version": str(SCHEMA_VERSION)},
)


def _to_record(t: Trajectory, step: int) -> dict[str, Any]:
    return {
        "step": step,
        "group": t.group,
        "member": t.member,
        "task_id": str(t.task.get("id", "")),
        "task": json.dumps(dict(t.task), ensure_ascii=False, default=str),
        "text": t.text,
        "policy_text": t.policy_text,
        "answer": t.answer,
        "num_tokens": t.num_tokens,
        "stop_reason": t.stop_reason.value if t.stop_reason else None,
        "rewards": json.dumps(t.rewards),
        "diagnostics": json.dumps(t.diagnostics),
        "extras": json.dumps(t.extras, ensure_ascii=False, default=str),
        "turns": json.dumps([vars(turn) for turn in t.turns]),
        "errors": t.errors,
        "segments": [vars(segment) for segment in t.segments],  # asdict would copy every token
        "tracks": [{"name": name, "values": values} for name, values in t.tracks.items()],
    }


def _from_record(record: dict[str, Any]) -> Trajectory:
    return Trajectory(
        task=json.loads(record["task"]),
        group=record["group"],
        member=record["member"],
        segments=[Segment(**segment) for segment in record["segments"]],
        turns=[
            Turn(**{**turn, "stop_reason": StopReason(turn["stop_reason"])}) for turn in json.loads(record["turns"])
        ],
        stop_reason=StopReason(record["stop_reason"]) if record["stop_reason"] else None,
        text=record["text"],
        policy_text=record["policy_text"],
        answer=record["answer"],
        tracks={track["name"]: track["values"] for track in record["tracks"]},
        rewards=json.loads(record["rewards"]),
        diagnostics=json.loads(record["diagnostics"]),
        extras=json.loads(record.get("extras") or "{}"),
        errors=record["errors"],
    )


def write_trajectories(path: Path, trajectories: Sequence[Trajectory], step: int) -> None:
    """Write `trajectories` to `path` (parquet). The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([_to_record(t, step) for t in trajectories], schema=_SCHEMA)
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)


def read_trajectories(path: Path) -> list[Trajectory]:
    """Read a file of trajectories. Raises UserError for a file that is none, or of a newer schema."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: not a readable parquet file ({error})") from error
    version = int((table.schema.metadata or {}).get(b"cib_rl.schema_version", b"0"))
    if not 1 <= version <= SCHEMA_VERSION:
        raise UserError(f"{path}: trajectory schema version {version}; this version reads 1 to {SCHEMA_VERSION}")
    return [_from_record(record) for record in table.to_pylist()]
