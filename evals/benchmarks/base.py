"""What a benchmark is: rows, how they are asked, how they are graded."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from cib_rl.errors import UserError
from cib_rl.overrides import apply_override
from cib_rl.recipe import EnvironmentSection, RewardSection, SuccessSection, TaskSection
from cib_rl.recipe_problems import validated
from cib_rl.tasks import Row, load_rows
from cib_rl.trajectory import Trajectory

# Further numbers of one finished episode, for example its tokens by kind of waste.
Measure = Callable[[Trajectory, PreTrainedTokenizerBase], dict[str, float]]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark. Lengths and sampling are defaults; what a run used stands in its result.

    Attributes:
        name: as on the command line.
        task: (local file or None, number of problems or None) -> where the rows come from.
        environment: how a row is asked, and where the answer is.
        rewards: the outcome rewards that grade it.
        temperature, top_p: sampling, unless asked otherwise.
        max_ungradable: share of rows allowed whose gold answer does not grade as right; their samples are errors.
        samples: answers per problem, unless asked otherwise.
        measure: further numbers of each episode.
        by: column of the rows that names the kinds of question to tell apart.
        success: which of the rewards says what is right, where that needs saying.
        about: one line: what it is and where it is from.
    """

    name: str
    task: Callable[[Path | None, int | None], TaskSection]
    environment: Mapping[str, Any]
    rewards: tuple[RewardSection, ...]
    about: str
    temperature: float = 1.0
    top_p: float = 1.0
    max_ungradable: float = 0.0
    samples: int = 1
    by: str | None = None
    success: SuccessSection | None = None
    measure: Measure | None = field(default=None, compare=False)

    def rows(self, data: Path | None, problems: int | None) -> list[Row]:
        """The first `problems` rows (all by default) of the benchmark's own source or of the file `data`.

        Raises UserError when there are fewer, or two rows have the same id.
        """
        if problems is not None and problems < 1:
            raise UserError(f"problems must be at least 1, got {problems}")
        rows = load_rows(self.task(data, problems), Path.cwd())
        if problems is not None and len(rows) < problems:
            raise UserError(
                f"asked for {problems} problems of {self.name}, but {data or 'its source'} holds {len(rows)}"
            )
        seen: set[str] = set()
        for row in rows[:problems]:
            if row["id"] in seen:
                raise UserError(f"{data or self.name}: two rows have the id {row['id']!r}; ids must differ")
            seen.add(row["id"])
        return rows[:problems]

    def environment_section(self, changes: Mapping[str, Any] | None = None) -> EnvironmentSection:
        """The environment, with some (dotted) keys changed. Raises UserError for a key or value that does not fit."""
        data = copy.deepcopy(dict(self.environment))
        for key, value in (changes or {}).items():
            apply_override(data, key, value, f"environment {key}={value!r}")
        return validated(EnvironmentSection, data, f"environment of benchmark {self.name}")


def local_math_file(path: Path) -> TaskSection:
    """A JSON Lines file (.gz too) with columns `problem` or `question`, and `answer` (after '####' where that stands).

    Which of the two forms it is, the first row says. Raises UserError for a file with neither.
    """
    if not path.is_file():
        raise UserError(f"data: no file {path}")
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
            first = json.loads(next(line for line in lines if line.strip()))
    except StopIteration:
        raise UserError(f"data: {path} holds no rows") from None
    except (OSError, ValueError) as error:
        raise UserError(f"data: {path}: the first row is not JSON ({error})") from error
    column = next((name for name in ("problem", "question") if isinstance(first, dict) and name in first), None)
    if column is None or "answer" not in first:
        found = ", ".join(first) if isinstance(first, dict) else type(first).__name__
        raise UserError(f"data: {path}: needs columns problem (or question) and answer; the first row has {found}")
    marked = {"answer_after": "####"} if "####" in str(first["answer"]) else {}
    return TaskSection(name="jsonl", path=str(path.resolve()), columns={"prompt": column}, **marked)
