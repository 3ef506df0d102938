"""Task rows, where they come from, and the stream that training draws them from.

A row is a plain dict with at least `id`, `prompt` (a string or a list of chat messages) and `answer` (the gold answer,
any JSON value); further columns travel with it to the rewards. Rows never pass through an Arrow table: that would add
None keys to nested dicts and refuse mixed types.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cib_rl.errors import UserError
from cib_rl.recipe import TaskSection
from cib_rl.recipe_problems import validated

Row = dict[str, Any]


def load_rows(section: TaskSection, base_dir: Path) -> list[Row]:
    """Load the rows a recipe asks for, renamed to `prompt` and `answer` and checked.

    Raises UserError naming the file and line (or the data set and row) of the first bad row, or when there is no row.
    """
    loader = SOURCES.get(section.name)
    if loader is None:
        raise UserError(f"task.name: unknown source {section.name!r}; known: {', '.join(sorted(SOURCES))}")
    known = _KEYS.get(section.name)
    unknown = sorted(set(section.kwargs) - set(known)) if known is not None else []
    if unknown:
        raise UserError(f"task: unknown key `{unknown[0]}` of {section.name}; known: {', '.join(_known(known))}")
    require_read(section)
    rows = loader(section, base_dir)
    if section.limit is not None:
        rows = rows[: section.limit]
    if not rows:
        raise UserError(f"task: {section.path or section.name} holds no rows")
    return rows


def _from_jsonl(section: TaskSection, base_dir: Path) -> list[Row]:
    if section.path is None:
        raise UserError("task.path is missing: name the JSON Lines file")
    path = base_dir / Path(section.path).expanduser()
    if not path.is_file():
        raise UserError(f"task.path: no file {path}")
    rows = []
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    source = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(f"{path}, line {number}: not JSON ({error})") from error
                rows.append(_to_row(source, section, f"{path}, line {number}", number - 1))
    return rows


def _from_hub(section: TaskSection, base_dir: Path) -> list[Row]:
    if section.path is None:
        raise UserError("task.path is missing: name the data set, e.g. openai/gsm8k")
    from datasets import load_dataset

    path = section.path
    if (base_dir / path).exists():
        path = str(base_dir / path)
    config = section.kwargs.get("config")
    try:
        dataset = load_dataset(path, config, split=section.split)
    except Exception as error:
        raise UserError(
            f"task.path: cannot load data set {section.path!r}, split {section.split!r}: {error}"
        ) from error
    return [_to_row(dict(source), section, f"{section.path}, row {i}", i) for i, source in enumerate(dataset)]


def _from_countdown(section: TaskSection, base_dir: Path) -> list[Row]:
    from cib_rl.countdown.problems import task_rows

    return task_rows(split=section.split, **section.kwargs)


def _from_fiction(section: TaskSection, base_dir: Path) -> list[Row]:
    from cib_rl.fiction.questions import task_rows

    return task_rows(split=section.split, **section.kwargs)


def mixed_sections(section: TaskSection) -> list[TaskSection]:
    """The sections that a `mix` is made of, or the section itself. Raises UserError where they are wrong."""
    if section.name != "mix":
        return [section]
    sources = section.kwargs.get("sources")
    if not isinstance(sources, list) or not sources:
        raise UserError("task.sources is missing: a mix is a list of task sections")
    return [validated(TaskSection, source, f"task.sources.{number}") for number, source in enumerate(sources)]


def _from_mix(section: TaskSection, base_dir: Path) -> list[Row]:
    """All rows of all sources, one source after the other; the stream mixes them. Ids get their source's number."""
    return [
        {**row, "id": f"{number}:{row['id']}"}
        for number, source in enumerate(mixed_sections(section))
        for row in load_rows(source, base_dir)
    ]


SOURCES: dict[str, Callable[[TaskSection, Path], list[Row]]] = {
    "jsonl": _from_jsonl,
    "hub": _from_hub,
    "countdown": _from_countdown,
    "fiction": _from_fiction,
    "mix": _from_mix,
}
# The keys of a source that are no fields of the section; a source that is not listed checks its own.
_KEYS: dict[str, tuple[str, ...]] = {"jsonl": ("answer_after",), "hub": ("answer_after", "config"), "mix": ("sources",)}


# Fields of the section that a source does not look at: what stands there would change nothing.
_UNREAD: dict[str, tuple[str, ...]] = {
    "countdown": ("path", "columns", "constants"),
    "fiction": ("path", "columns", "constants"),
    "mix": ("path", "split", "columns", "constants"),
}


def require_read(section: TaskSection) -> None:
    """Raises UserError for a field that the section's source would not look at, such as the path of a generator."""
    for key in _UNREAD.get(section.name, ()):
        if getattr(section, key) != getattr(TaskSection(name=section.name), key):
            where = "give it to each of its sources" if section.name == "mix" else "leave it out"
            raise UserError(
                f"task.{key}: {section.name} does not read it; {where}, or replace the whole section, e.g. "
                "task: {name: jsonl, path: rows.jsonl}"
            )


def _known(keys: Sequence[str] | None) -> list[str]:
    return sorted([*(field for field in TaskSection.model_fields if field != "name"), *(keys or ())])


def _to_row(source: Any, section: TaskSection, where: str, index: int) -> Row:
    """Rename columns, cut the gold answer (key `answer_after`, e.g. '####') and check what every row must have."""
    if not isinstance(source, dict):
        raise UserError(f"{where}: a row must be an object, not {type(source).__name__}")
    row = dict(source)
    for target, column in section.columns.items():
        row[target] = _column(source, column, f"{where}: no column {column!r} (task.columns.{target})")
    row |= section.constants
    for column in ("prompt", "answer"):
        if row.get(column) is None:
            raise UserError(
                f"{where}: no {column!r}; it has {', '.join(source)}. Map one with task.columns, e.g. "
                f"{{{column}: NAME}}"
            )
    if not isinstance(row["prompt"], (str, list)) or not row["prompt"]:
        raise UserError(f"{where}: `prompt` must be a text or a list of messages that is not empty")
    marker = section.kwargs.get("answer_after")
    if marker is not None:
        if marker not in str(row["answer"]):
            raise UserError(f"{where}: no {marker!r} in the answer (task.answer_after)")
        row["answer"] = str(row["answer"]).rsplit(marker, 1)[1].strip().replace(",", "")
    row["id"] = str(row.get("id", index))
    return row


def _column(source: dict[str, Any], name: str, complaint: str) -> Any:
    """The value of a column, or, where the name has dots, of a key within one."""
    if name in source:
        return source[name]
    found: Any = source
    for part in name.split("."):
        if not isinstance(found, dict) or part not in found:
            raise UserError(f"{complaint}; it has {', '.join(found if isinstance(found, dict) else source)}")
        found = found[part]
    return found


class TaskStream:
    """An endless stream of rows: a stateless permutation for each (seed, epoch) and one cursor, which is all its state.

    Draw number n is the same row whatever was drawn before, so groups can be replaced and a run resumes mid-window.
    """

    def __init__(self, rows: Sequence[Row], seed: int) -> None:
        if not rows:
            raise UserError("the task has no rows")
        self.rows = rows
        self.seed = seed
        self.cursor = 0
        self._epoch = -1
        self._order: np.ndarray = np.empty(0, dtype=np.int64)

    @property
    def epoch(self) -> int:
        """Number of whole passes over the rows made so far."""
        return self.cursor // len(self.rows)

    def row_at(self, draw: int) -> Row:
        """The row of draw number `draw` (0-based, without end)."""
        epoch, position = divmod(draw, len(self.rows))
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.seed, epoch)).permutation(len(self.rows))
            self._epoch = epoch
        return self.rows[int(self._order[position])]

    def draw(self, count: int) -> list[tuple[int, Row]]:
        """Take the next `count` draws as (draw number, row) and move the cursor past them."""
        start = self.cursor
        self.cursor += count
        return [(n, self.row_at(n)) for n in range(start, start + count)]
