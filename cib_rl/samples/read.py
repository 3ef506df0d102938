"""Files of completions as plain rows: JSON Lines (also gzipped) or a parquet table."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cib_rl.errors import UserError


@dataclass(frozen=True)
class Row:
    """One row of a file; `where` names file and line."""

    where: str
    values: dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a `.jsonl` file (`.jsonl.gz`) or a `.parquet` table.

    Raises UserError for a file that cannot be read, a line that is no JSON object (file and line named), or no rows.
    """
    rows = _read_table(path) if path.suffix == ".parquet" else _read_lines(path)
    if not rows:
        raise UserError(f"{path} holds no rows")
    return rows


def _read_lines(path: Path) -> list[Row]:
    rows = []
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    rows.append(Row(f"{path}, line {number}", _parse(line, f"{path}, line {number}")))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as JSON Lines ({error})") from error
    return rows


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise UserError(f"{where}: a row must be an object, not {type(values).__name__}")
    if "\\ud" in line.lower():  # half a surrogate pair (an answer cut off inside an emoji), which no tokenizer takes
        values = json.loads(json.dumps(values, ensure_ascii=False).encode("utf-8", "replace"))
    return values


def _read_table(path: Path) -> list[Row]:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: not a readable parquet file ({error})") from error
    return [Row(f"{path}, row {number}", values) for number, values in enumerate(table.to_pylist(), 1)]
