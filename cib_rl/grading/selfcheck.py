"""Before a run: does every gold answer grade as right against itself? If not, no completion can be right."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cib_rl.errors import UserError
from cib_rl.grading.pool import Grade

if TYPE_CHECKING:
    from cib_rl.plugin import RewardSuite
    from cib_rl.recipe import Recipe

logger = logging.getLogger(__name__)

SHOWN = 10  # rows listed in a message


@dataclass(frozen=True)
class Ungradable:
    """A row whose gold answer does not grade as right. `index` counts from 0."""

    index: int
    id: str
    gold: str
    cause: str


@dataclass(frozen=True)
class Report:
    """Result of the check of `rows` rows; `cached` when it was read from an earlier run."""

    rows: int
    ungradable: list[Ungradable]
    cached: bool = False

    @property
    def share(self) -> float:
        """Share of the rows that cannot be graded."""
        return len(self.ungradable) / self.rows if self.rows else 0.0

    def __str__(self) -> str:
        lines = [f"{len(self.ungradable)} of {self.rows} gold answers do not grade as right against themselves"]
        lines += [f"  row {u.index} (id {u.id}): {u.gold!r}: {u.cause}" for u in self.ungradable[:SHOWN]]
        if len(self.ungradable) > SHOWN:
            lines.append(f"  ... and {len(self.ungradable) - SHOWN} more")
        return "\n".join(lines)


def check_recipe_golds(
    recipe: Recipe,
    rows: Sequence[Mapping[str, Any]],
    suite: RewardSuite,
    cache_dir: Path | None = None,
    *,
    evaluation: bool = False,
) -> list[Report]:
    """`check_golds` with every reward of the suite that can judge gold answers: it has `grade_golds(rows)`.

    The share that may fail is that of `task`, or with `evaluation` that of `evaluation.task`. Results of a reward that
    states its `grader_version` are kept in `cache_dir` (default: the user's cache folder).
    Returns one report per such reward; a caller that allows a share may drop the rows they name.
    """
    task, key = recipe.task, "task.max_ungradable"
    if evaluation and recipe.evaluation and recipe.evaluation.task:
        task, key = recipe.evaluation.task, "evaluation.task.max_ungradable"
    folder = cache_dir if cache_dir is not None else Path.home() / ".cache" / "cib-rl" / "golds"
    reports = []
    for reward in suite.rewards:
        grade = getattr(reward.target, "grade_golds", None)
        if grade is not None:
            version = getattr(reward.target, "grader_version", None)
            keep = folder if version is not None else None
            allowed = task.max_ungradable
            reports.append(
                check_golds(rows, grade, allowed_share=allowed, cache_dir=keep, version=str(version), key=key)
            )
    return reports


def check_golds(
    rows: Sequence[Mapping[str, Any]],
    grade: Callable[[Sequence[Mapping[str, Any]]], list[Grade]],
    *,
    allowed_share: float,
    cache_dir: Path | None,
    version: str = "",
    key: str = "task.max_ungradable",
) -> Report:
    """Grade the gold answer of every row against itself.

    Args:
        rows: the task rows.
        grade: grades the gold answers of the rows it is given, each against itself.
        allowed_share: share of the rows (0 to 1) that may fail.
        cache_dir: where results are kept, by hash of rows and `version`; None keeps nothing.
        version: what grades, and in which version.
        key: where the share is set, for the message.

    Raises:
        UserError: more rows than allowed do not grade as right; lists the first ones.
    """
    digest = hashlib.sha256(f"{version}\n".encode())
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    file = cache_dir / f"golds-{digest.hexdigest()[:32]}.json" if cache_dir is not None else None
    report = _read(file) or _check(rows, grade)
    # A time-out may have been the machine's fault: it is tried again next time.
    if file is not None and not report.cached and not any(u.cause.startswith("timeout") for u in report.ungradable):
        _write(file, report)
    if report.share > allowed_share:
        raise UserError(
            f"{report}\nRepair these rows, choose another reward, or allow this share with "
            f"{key}: {_round_up(report.share)}"
        )
    return report


def _check(rows: Sequence[Mapping[str, Any]], grade: Callable[[Sequence[Mapping[str, Any]]], list[Grade]]) -> Report:
    found = []
    for i, (row, verdict) in enumerate(zip(rows, grade(rows), strict=True)):
        if verdict.outcome != "right":
            gold = str(row.get("answer"))
            shown = gold if len(gold) <= 80 else gold[:77] + "..."
            found.append(Ungradable(i, str(row.get("id", i)), shown, verdict.cause or "graded as wrong"))
    return Report(len(rows), found)


def _round_up(share: float) -> float:
    return min(1.0, (int(share * 1000) + 1) / 1000)


def _read(file: Path | None) -> Report | None:
    if file is None or not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Report(int(content["rows"]), [Ungradable(**u) for u in content["ungradable"]], cached=True)
    except (ValueError, TypeError, KeyError):
        return None  # damaged: graded again and written anew


def _write(file: Path, report: Report) -> None:
    content = json.dumps({"rows": report.rows, "ungradable": [asdict(u) for u in report.ungradable]})
    beside = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(content, encoding="utf-8")
        os.replace(beside, file)
    except OSError as error:  # a cache that cannot be written costs time, nothing else
        logger.warning("the check of the gold answers could not be kept in %s: %s", file, error)
