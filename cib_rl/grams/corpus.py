"""Right solutions to mine grams from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from cib_rl.errors import UserError
from cib_rl.integrations.scorer import RewardSpec, Scorer, Settings
from cib_rl.samples.load import load_samples
from cib_rl.samples.outcome import choose_outcome
from cib_rl.samples.read import read_rows


def right_solutions(
    sources: Sequence[Path],
    *,
    column: str | None = None,
    outcome: RewardSpec | None = None,
    model: str | None = None,
    answer: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> list[str]:
    """What the policy wrote where it was right.

    Args:
        sources: runs, evaluations, parquet or JSON Lines of completions (graded; see `load_samples`), or text files,
            taken as right, with an empty line between solutions.
        column: take this column of every row as a right solution, ungraded.
        outcome, model, answer, columns, limit: see `load_samples` and `choose_outcome`.

    Raises:
        UserError: a file cannot be read, a row has no such column, or nothing is right.
    """
    found: list[str] = []
    for source in sources:
        path = Path(source).expanduser()
        if path.suffix == ".txt":
            found += _paragraphs(path)
        elif column is not None:
            found += _column(path, column, limit)
        else:
            found += _graded(path, outcome, model, answer, columns, limit)
    if not found:
        raise UserError(f"grams: no right solution in {', '.join(map(str, sources))}")
    return found


def _paragraphs(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from error
    return [part.strip() for part in text.split("\n\n") if part.strip()]


def _column(path: Path, column: str, limit: int | None) -> list[str]:
    texts = []
    for row in read_rows(path)[:limit]:
        value = row.values.get(column)
        if not isinstance(value, str):
            there = ", ".join(row.values)
            raise UserError(f"{row.where}: column {column!r} holds no text; the row has {there}")
        texts.append(value)
    return texts


def _graded(
    path: Path,
    outcome: RewardSpec | None,
    model: str | None,
    answer: str | None,
    columns: Mapping[str, str] | None,
    limit: int | None,
) -> list[str]:
    samples = load_samples(path, model=model, answer=answer, columns=columns, limit=limit)
    chosen = choose_outcome(samples, outcome)
    settings = Settings(samples.tokenizer, answer=samples.answer_style, success=chosen.success)
    with closing(Scorer([s.model_dump(exclude_none=True) for s in chosen.sections], settings)) as scorer:
        scores = scorer.suite.score(samples.trajectories, stop=False)
    return [t.policy_text for t, right in zip(samples.trajectories, scores.correct, strict=True) if right]
