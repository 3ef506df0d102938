"""Evaluation results on disk.

RESULT/result.json          settings, versions, summary, schema version
RESULT/samples.parquet      one flat row per sample, for any table program
RESULT/trajectories.parquet tokens, log-probabilities and turns, to regrade without generating again
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cib_rl.errors import UserError
from cib_rl.evals.result import EvalResult, Sample
from cib_rl.trajectory_io import read_trajectories, write_trajectories

SCHEMA_VERSION = 1

_SCHEMA = pa.schema(
    [
        ("question", pa.string()),
        ("sample", pa.int32()),
        ("outcome", pa.string()),
        ("tokens", pa.int32()),
        ("truncated", pa.bool_()),
        ("stop_reason", pa.string()),
        ("text", pa.string()),
        ("answer", pa.string()),
        ("gold", pa.string()),  # JSON
        ("turns", pa.int32()),
        ("seed", pa.int64()),
        ("error", pa.string()),
        ("kind", pa.string()),
        ("numbers", pa.map_(pa.string(), pa.float64())),
    ],
    metadata={"cib_rl.evals.schema_version": str(SCHEMA_VERSION)},
)


def save_result(result: EvalResult, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write the result; the folder appears whole or not at all. Raises UserError if it exists (or `overwrite`).

    The summary in result.json is null when too many samples are errors; the samples are saved all the same.
    """
    target = Path(folder)
    if target.exists() and not overwrite:
        raise UserError(f"{target} exists; give another output folder")
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    rows = [{**vars(s), "gold": json.dumps(s.gold), "numbers": list(s.numbers.items())} for s in result.samples]
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), partial / "samples.parquet", compression="zstd")
    if result.trajectories is not None:
        write_trajectories(partial / "trajectories.parquet", result.trajectories, step=0)
    try:
        summary: dict[str, Any] | None = result.summary()
    except UserError:
        summary = None
    record = {
        "schema_version": SCHEMA_VERSION,
        "settings": result.settings,
        "versions": result.versions,
        "samples_per_question": result.samples_per_question,
        "questions": result.questions,
        "summary": summary,
    }
    (partial / "result.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    return target


def load_result(folder: str | Path, *, trajectories: bool = False) -> EvalResult:
    """Read a saved result (with its trajectories when asked). Raises UserError for a folder that holds none."""
    folder = Path(folder)
    if not (folder / "result.json").is_file():
        raise UserError(f"{folder} holds no evaluation result (no result.json)")
    try:
        record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        rows = pq.read_table(folder / "samples.parquet").to_pylist()
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise UserError(f"{folder}: not a readable evaluation result ({error})") from error
    if record.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{folder}: result schema {record.get('schema_version')}; this version reads {SCHEMA_VERSION}")
    samples = [Sample(**{**row, "gold": json.loads(row["gold"]), "numbers": dict(row["numbers"])}) for row in rows]
    episodes = None
    if trajectories:
        if not (folder / "trajectories.parquet").is_file():
            raise UserError(f"{folder} holds no trajectories.parquet: this result was saved without its episodes")
        episodes = read_trajectories(folder / "trajectories.parquet")
    return EvalResult(
        samples, record["questions"], record["samples_per_question"], record["settings"], record["versions"], episodes
    )
