"""`cib-rl audit`. Heavy imports stay inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cib_rl.tryout.commands import AnswerOption, ColumnsOption, LimitOption, ModelOption, OutcomeOption


def audit(
    samples: Annotated[
        Path,
        typer.Argument(
            metavar="SAMPLES", help="Run or evaluation folder, parquet, or JSON Lines of prompt, completion, answer."
        ),
    ],
    prior: Annotated[
        str | None,
        typer.Option(help="For the surprisal cost: a model, or a prior in YAML, e.g. '{name: laplace, target: 300}'."),
    ] = None,
    outcome: OutcomeOption = None,
    model: ModelOption = None,
    answer_style: AnswerOption = None,
    columns: ColumnsOption = None,
    limit: LimitOption = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the numbers as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="The picture; default: runs/audit.png.")] = None,
) -> None:
    """Before any training: is there anything to shorten?

    How much shorter right answers could be, how many problems are mixed, and what a length cost would see.
    """
    from cib_rl.audit.audit import audit_samples
    from cib_rl.audit.plot import plot_audit
    from cib_rl.audit.report import print_audit, write_json
    from cib_rl.samples.load import load_samples
    from cib_rl.samples.options import as_mapping, as_prior, as_spec

    spec = as_prior(prior) if prior is not None else None
    wanted = as_spec(outcome) if outcome is not None else None
    loaded = load_samples(
        samples, model=model, answer=answer_style, columns=as_mapping(columns, "--columns"), limit=limit
    )
    found = audit_samples(loaded, outcome=wanted, prior=spec)
    print_audit(found)
    if output is not None:
        print(f"  numbers: {write_json(found, output)}")
    print(f"  plot: {plot_audit(found, plot or Path('runs') / 'audit.png')}")
