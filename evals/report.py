"""Tables: one result, and two or more results of the same questions side by side with paired 95% intervals."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cib_rl.errors import UserError
from cib_rl.evals.paired import Change, Paired, Samples, compare_samples
from cib_rl.evals.result import EvalResult
from cib_rl.evals.result_io import load_result
from cib_rl.evals.statistics import Estimate

# Settings in which two results may differ: what is compared, not how it was measured.
_MAY_DIFFER = {"model", "weights_version", "engine", "deterministic", "seed", "regraded", "rewards", "by"}


@dataclass(frozen=True)
class Row:
    """One line of a comparison. `unit` is % (shares, shown times 100), tokens, or turns."""

    name: str
    unit: str
    change: Change


@dataclass(frozen=True)
class Comparison:
    """Two results of the same questions. `warnings` names settings that differ and errors left out."""

    before: str
    after: str
    questions: int
    questions_both_right: int
    samples: tuple[int, int]
    rows: tuple[Row, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, for files."""
        return asdict(self)

    def to_markdown(self) -> str:
        """A Markdown table with the same cells as on the screen."""
        lines = ["| | " + " | ".join(_HEADER) + " |", "|---|" + "---:|" * len(_HEADER)]
        lines += [f"| {row.name} | " + " | ".join(_cells(row)) + " |" for row in self.rows]
        return "\n".join([*lines, "", self.caption(), *(f"Warning: {w}." for w in self.warnings)]) + "\n"

    def caption(self) -> str:
        """What the numbers are of."""
        each = " and ".join(str(n) for n in dict.fromkeys(self.samples))
        return (
            f"{self.questions:,} questions × {each} sample{'s' * (max(self.samples) > 1)}; tokens: of all answers, of "
            f"right answers, on the {self.questions_both_right:,} questions right in both. "
            "Brackets: 95% intervals, paired and clustered by question."
        )

    def table(self) -> Table:
        """For a terminal."""
        table = _table(f"{self.before} → {self.after}", self.caption())
        for name in _HEADER:  # where the terminal is narrow, an interval goes under its number
            table.add_column(name, justify="right", no_wrap="[" not in name)
        for row in self.rows:
            table.add_row(row.name, *_cells(row))
        return table

    def print(self, console: Console | None = None) -> None:
        """Show table and warnings."""
        console = console or Console(emoji=False)
        console.print(self.table())
        for warning in self.warnings:
            console.print(f"[yellow]warning:[/] {warning}")


_HEADER = ("before", "after", "change [95%]", "relative [95%]")


def compare(
    before: EvalResult | str | Path, after: EvalResult | str | Path, *, names: tuple[str, str] | None = None
) -> Comparison:
    """Compare two results (or their folders) question by question.

    Raises UserError when they hold different questions, other prompts or golds under the same ids, or too many errors.
    """
    first, second = (side if isinstance(side, EvalResult) else load_result(side) for side in (before, after))
    for side in (first, second):
        side.require_graded()
    require_same_questions(first.questions, second.questions, (first.versions.get("rows"), second.versions.get("rows")))
    # A question whose samples are all errors on one side can be paired with nothing.
    both = {s.question for s in first.graded} & {s.question for s in second.graded}
    paired = compare_samples(_samples(first, "right", both), _samples(second, "right", both))
    labels = names or _labels(first, second)
    return Comparison(
        before=labels[0],
        after=labels[1],
        questions=paired.questions,
        questions_both_right=paired.questions_both_right,
        samples=(first.samples_per_question, second.samples_per_question),
        rows=tuple(_rows(first, second, paired, both)),
        warnings=tuple(_warnings(first, second)),
    )


def require_same_questions(
    before: Sequence[str], after: Sequence[str], rows: tuple[str | None, str | None] = (None, None)
) -> None:
    """Raise UserError unless both are the same questions, with the same fingerprints of `rows` where both are known."""
    asked = set(before), set(after)
    if asked[0] != asked[1]:
        only = [sorted(asked[0] - asked[1]), sorted(asked[1] - asked[0])]
        raise UserError(
            f"the two results hold different questions ({len(only[0])} only before, {len(only[1])} only after, for "
            f"example {(only[0] or only[1])[0]!r}): compare results of the same benchmark, data and number of problems"
        )
    if None not in rows and rows[0] != rows[1]:
        raise UserError("the two results asked other prompts or golds under the same question ids; evaluate again")


def _samples(result: EvalResult, hit: str, questions: set[str], amount: str = "tokens") -> Samples:
    columns = result.columns()
    kept = np.isin(columns["question"], sorted(questions))
    return Samples(columns["question"][kept], columns[hit][kept], columns[amount][kept])


def _rows(first: EvalResult, second: EvalResult, paired: Paired, questions: set[str]) -> Iterator[Row]:
    def pair(among: set[str], hit: str = "right", amount: str = "tokens") -> Paired:
        return compare_samples(*(_samples(side, hit, among, amount) for side in (first, second)))

    yield Row("accuracy", "%", paired.accuracy)
    yield Row("tokens (all)", "tokens", paired.tokens)
    yield Row("tokens (right)", "tokens", paired.tokens_right)
    yield Row("tokens (both)", "tokens", paired.tokens_both_right)
    yield Row("truncated", "%", pair(questions, hit="truncated").accuracy)
    turns = first.has_turns or second.has_turns
    if turns:
        yield Row("turns", "turns", pair(questions, amount="turns").tokens)
    for kind in sorted(set(first.kinds) & set(second.kinds)):
        of_kind = {s.question for s in first.graded if s.kind == kind} & questions
        if not of_kind:
            continue
        of = pair(of_kind)
        yield Row(f"{kind}: accuracy", "%", of.accuracy)
        yield Row(f"{kind}: tokens", "tokens", of.tokens)
        if turns:
            yield Row(f"{kind}: turns", "turns", pair(of_kind, amount="turns").tokens)


def _labels(first: EvalResult, second: EvalResult) -> tuple[str, str]:
    models = [str(side.settings.get("model", "?")) for side in (first, second)]
    versions = [side.settings.get("weights_version") for side in (first, second)]
    if models[0] == models[1] and None not in versions:
        return f"{models[0]} at step {versions[0]}", f"step {versions[1]}"
    return models[0], models[1]


def _warnings(first: EvalResult, second: EvalResult) -> list[str]:
    """Differences in how the two were measured, and samples left out."""
    found = []
    flat = [
        _flatten({**side.settings, "chat_template": side.versions.get("chat_template")}) for side in (first, second)
    ]
    may_differ = _MAY_DIFFER | ({"benchmark", "data"} if _same_rows_and_grades(first, second) else set())
    for key in sorted(flat[0].keys() | flat[1].keys()):
        one, two = (side.get(key) for side in flat)
        if one != two and key.split(".")[0] not in may_differ:
            found.append(f"measured differently: {key} is {one!r} before and {two!r} after")
    for name, side in (("before", first), ("after", second)):
        if side.errors:
            found.append(f"{len(side.errors)} of {len(side.samples)} samples {name} were errors and are left out")
        if hit := side.with_failed_searches:
            found.append(f"in {hit} of {len(side.samples)} samples {name} a search failed; they count as they ended")
    return found


def _same_rows_and_grades(first: EvalResult, second: EvalResult) -> bool:
    """Whether a recipe and a run by it, say, are one benchmark by two names: the same rows, and no reward exchanged."""
    rows = [side.versions.get("rows") for side in (first, second)]
    names = [set(side.settings.get("rewards") or ()) for side in (first, second)]
    graded_alike = bool(names[0] & names[1]) and (names[0] <= names[1] or names[1] <= names[0])
    return graded_alike and rows[0] is not None and rows[0] == rows[1]


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _cells(row: Row) -> list[str]:
    percent = row.unit == "%"
    digits = 2 if row.unit == "turns" else 1
    change, relative = row.change, row.change.relative
    # Points for shares; a relative change of a share would only confuse.
    unit = " pp" if percent else ""
    shown = format_estimate(change.difference, scale=100 if percent else 1, sign=True, unit=unit, digits=digits)
    return [
        _number(change.before, percent, digits),
        _number(change.after, percent, digits),
        shown,
        "" if percent else format_estimate(relative, scale=100, sign=True, unit="%"),
    ]


def _number(value: float | None, percent: bool, digits: int) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.{digits}f}%" if percent else f"{value:,.{digits}f}"


def format_estimate(
    estimate: Estimate | None, *, scale: float = 1, sign: bool = False, unit: str = "", digits: int = 1
) -> str:
    """`-36.2% [-38.0, -34.3]`; an en dash where undefined, no brackets where there is no interval."""
    if estimate is None or estimate.value is None:
        return "–"
    form = f"{{:{'+' if sign else ''},.{digits}f}}"
    text = form.format(scale * estimate.value) + unit
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{form.format(scale * estimate.low)}, {form.format(scale * estimate.high)}]"


def _table(title: str, caption: str) -> Table:
    """An empty table with its first column; narrow enough for 80 characters."""
    table = Table(title=title, caption=caption, caption_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    return table


def summary_table(result: EvalResult) -> Table:
    """Everything `EvalResult.estimates` gives, with its intervals."""
    title = f"{result.settings.get('model', '?')} on {result.settings.get('benchmark', '?')}"
    plural = "s" * (result.samples_per_question > 1)
    caption = (
        f"{len(result.questions):,} questions × {result.samples_per_question} sample{plural}; "
        f"{len(result.errors)} errors left out. Brackets: 95% intervals clustered by question."
    )
    if hit := result.with_failed_searches:
        caption += f" In {hit:,} samples a search failed; they count as they ended."
    table = _table(title, caption)
    table.add_column("value [95%]", justify="right", no_wrap=True)
    for name, estimate in result.estimates().items():
        share = name.endswith("accuracy") or name == "truncated_share" or name.startswith("pass@")
        label = f"accuracy (avg@{result.samples_per_question})" if name == "accuracy" else _LABELS.get(name, name)
        small = name.startswith("numbers/") and abs(estimate.value or 0.0) < 10  # shares and rewards, mostly
        digits = 2 if "turns" in name or small else 1
        table.add_row(
            label, format_estimate(estimate, scale=100 if share else 1, unit="%" if share else "", digits=digits)
        )
    return table


_LABELS = {
    "tokens/mean": "tokens, all answers: mean",
    "tokens/median": "tokens, all answers: median",
    "tokens/right": "tokens, right answers: mean",
    "tokens/right_median": "tokens, right answers: median",
    "tokens/wrong": "tokens, wrong answers: mean",
    "truncated_share": "truncated",
    "turns/mean": "turns: mean",
}


def print_summary(result: EvalResult, console: Console | None = None) -> None:
    """Show one result in a terminal. Raises UserError when too many samples are errors."""
    (console or Console(emoji=False)).print(summary_table(result))


def save_comparison(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Write comparison.md and comparison.json into `folder`; returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    markdown, numbers = folder / "comparison.md", folder / "comparison.json"
    markdown.write_text(comparison.to_markdown(), encoding="utf-8")
    numbers.write_text(json.dumps(comparison.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return [markdown, numbers]


def comparisons(arms: Mapping[str, EvalResult], base: str) -> Sequence[Comparison]:
    """Every other arm against `base`, in order. Raises UserError when `base` is none of them."""
    if base not in arms:
        raise UserError(f"no arm {base!r} among {', '.join(arms)}")
    return [compare(arms[base], arm, names=(base, name)) for name, arm in arms.items() if name != base]
