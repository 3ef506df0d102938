"""Samples of any origin as trajectories: a run, an evaluation, one of their files, or a file of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cib_rl.errors import UserError
from cib_rl.grading.answers import finder
from cib_rl.rollout import finish
from cib_rl.samples.choose import spread_evenly
from cib_rl.samples.origin import Origin, find_origin
from cib_rl.samples.texts import trajectories_of_texts
from cib_rl.samples.tokens import model_tokenizer
from cib_rl.trajectory import Trajectory
from cib_rl.trajectory_io import read_trajectories


@dataclass(frozen=True)
class Samples:
    """Completions of several problems.

    Attributes:
        source: the file or folder.
        trajectories: one per completion; members of one problem have the same `group`. As a reward would see them in
            training: no values, tracks or diagnostics of an earlier scoring.
        places: what messages call each of them.
        tokenizer: the one their tokens are of.
        answer_style: where answers are read (see `extract_answer`).
        labels: what the file itself says about each being right; None where it says nothing.
        origin: what the run or evaluation that made them says.
        notes: what was chosen, in words, to be shown.
    """

    source: Path
    trajectories: list[Trajectory]
    places: list[str]
    tokenizer: Any
    answer_style: str
    labels: list[bool | None]
    origin: Origin
    notes: list[str] = field(default_factory=list)

    @property
    def problems(self) -> int:
        """Number of groups."""
        return len({t.group for t in self.trajectories})


def load_samples(
    source: str | Path,
    *,
    model: str | None = None,
    answer: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> Samples:
    """Read completions.

    Args:
        source: a run folder (all its windows), an evaluation's folder, one parquet file of them, or JSON Lines or a
            parquet table with a prompt, one or more completions and a gold answer per row (see `read_completions`).
        model: whose tokenizer counts tokens; default: that of the run or evaluation; for texts one learned from them.
        answer: where answers stand; default: as the run says; for texts the style that finds most of them.
        columns: see `read_completions`; for texts only.
        limit: use this many problems, spread evenly over the file.

    Raises:
        UserError: nothing there, or a row is wrong (file and line named).
    """
    path = Path(source).expanduser()
    if answer is not None:  # an unknown style is refused before anything is read
        try:
            finder(answer)
        except UserError as error:
            raise UserError(str(error).replace("environment.answer", "--answer-style")) from None
    files = sample_files(path)
    if not all(holds_trajectories(file) for file in files):
        if len(files) > 1:
            raise UserError(f"{path}: not all of its {len(files)} parquet files hold trajectories; name one file")
        return Samples(
            path, *trajectories_of_texts(path, model=model, answer=answer, columns=columns or {}, limit=limit)
        )
    if columns:
        raise UserError(f"--columns: {path} holds trajectories, whose columns are known")
    return _saved(path, files, model, answer, limit)


def sample_files(path: Path) -> list[Path]:
    """The files that hold the samples of `path`. Raises UserError where there are none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"no file or folder {path}")
    if (path / "trajectories.parquet").is_file():
        return [path / "trajectories.parquet"]
    found = sorted((path / "trajectories").glob("*.parquet")) or sorted(path.glob("step-*.parquet"))
    if not found:
        raise UserError(f"{path}: no trajectories there; name a run or evaluation folder, or a file")
    return found


def holds_trajectories(file: Path) -> bool:
    """Whether it is a parquet file that `write_trajectories` made. Raises UserError where it cannot be read."""
    if file.suffix != ".parquet":
        return False
    try:
        metadata = pq.read_schema(file).metadata or {}
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{file}: not a readable parquet file ({error})") from error
    return b"cib_rl.schema_version" in metadata


def _saved(path: Path, files: Sequence[Path], model: str | None, answer: str | None, limit: int | None) -> Samples:
    """Trajectories of a run or an evaluation."""
    origin = find_origin(files[0])
    wanted = model or origin.model
    if wanted is None:
        raise UserError(f"{path}: it is not known which model's tokens these are; name it with --model")
    tokenizer = model_tokenizer(wanted, Path.cwd())
    read = [(t, file) for file in files for t in read_trajectories(file)]
    if not read:
        raise UserError(f"{path} holds no trajectories")
    _require_equal_tasks(read)
    kept = set(spread_evenly([t.group for t, _ in read], limit))
    pairs = [(as_sampled(t), file) for t, file in read if t.group in kept]
    if answer is not None:
        for t, _ in pairs:
            finish(t, tokenizer, answer)
    style = answer or origin.answer or "tag"
    return Samples(
        path,
        [t for t, _ in pairs],
        [f"{file}, row {t.task.get('id')!r}, member {t.member}" for t, file in pairs],
        tokenizer,
        style,
        [None] * len(pairs),
        origin,
        [f"tokens are those of {wanted}", f"answers are read as {style}"],
    )


def as_sampled(trajectory: Trajectory) -> Trajectory:
    """A copy as it was before any reward saw it; the tokens are shared."""
    errors = [error for error in trajectory.errors if not error.startswith("reward ")]
    return replace(trajectory, rewards={}, success=None, tracks={}, diagnostics={}, extras={}, errors=errors)


def _require_equal_tasks(read: Sequence[tuple[Trajectory, Path]]) -> None:
    first: dict[int, tuple[Trajectory, Path]] = {}
    for t, file in read:
        other, there = first.setdefault(t.group, (t, file))
        if t.task != other.task:
            raise UserError(
                f"{file}: group {t.group} has the rows {t.task.get('id')!r} and {other.task.get('id')!r} ({there}); "
                "files of different runs do not go together"
            )
