"""Every completion of a trial as a row of a file, for any table program."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cib_rl.errors import UserError
from cib_rl.tryout.trial import Trial

SUFFIXES = (".parquet", ".jsonl")


def check_suffix(path: Path) -> None:
    """Raise UserError for a file name that says neither format, before an hour of scoring."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"--output {path}: the name must end in {' or '.join(SUFFIXES)}")


def write_rows(trial: Trial, path: Path) -> Path:
    """Write one row per completion: ids, tokens, answer, gold (JSON), right, reward, total, error, text, and the values
    of the other rewards as `other/NAME`. Null: does not apply, failed, or not known. Raises UserError."""
    check_suffix(path)
    messages: dict[int, str] = {}
    for error in trial.judged.errors:
        messages.setdefault(error.index, f"{error.label}: {error.message}")
    others = {f"other/{other.label}": other.values for other in trial.others if other.values is not None}
    rows = []
    for i, t in enumerate(trial.trajectories):
        judged = trial.judged
        rows.append(
            {
                "id": str(t.task.get("id")),
                "group": t.group,
                "member": t.member,
                "tokens": t.num_tokens,
                "stop_reason": t.stop_reason.value if t.stop_reason else None,
                "answer": t.answer,
                "gold": json.dumps(t.task.get("answer"), ensure_ascii=False, default=str),
                "right": bool(judged.correct[i]),
                "reward": _number(judged.values[i]),
                "outcome": _number(judged.outcome[i]),
                "total": _number(judged.earned[i]),
                "error": messages.get(i) or "; ".join(t.errors) or None,
                "text": t.policy_text,
            }
            | {name: _number(values[i]) for name, values in others.items()}
            | {f"diagnostic/{name}": float(value) for name, value in t.diagnostics.items()}
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    if path.suffix == ".jsonl":
        partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        # From all rows' names, not the first one's: a diagnostic may be on some rows only.
        names = list(dict.fromkeys(name for row in rows for name in row))
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), partial, compression="zstd")
    partial.replace(path)
    return path


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
