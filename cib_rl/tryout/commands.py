"""`cib-rl rewards`: list and show the rewards, try one on saved completions. Heavy imports stay inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cib_rl.errors import UserError

EXIT_HACKED = 1


class _NameOrVerb(TyperGroup):
    """What is no verb is a reward's name: `cib-rl rewards surprisal` is `cib-rl rewards show surprisal`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["show", *args]
        return super().resolve_command(ctx, args)


rewards_app = typer.Typer(
    cls=_NameOrVerb,
    invoke_without_command=True,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@rewards_app.callback()
def _top(
    context: typer.Context,
    full: Annotated[bool, typer.Option("--full", help="Show all of them in full, as docs/rewards.md does.")] = False,
) -> None:
    """List, show or try the rewards that a recipe can name.

    Without a command they are listed; `cib-rl rewards NAME` shows one.
    """
    if context.invoked_subcommand is None and full:
        from cib_rl.plugin.catalogue import catalogue, entries

        print(catalogue(entries()), end="")
    elif context.invoked_subcommand is None:
        list_rewards()


@rewards_app.command("list")
def list_rewards() -> None:
    """List rewards, built in and of installed packages, and priors."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from cib_rl.plugin.catalogue import entries

    table = Table("name", "kind", "what it rewards")
    for reward in entries():
        table.add_row(escape(reward.name), str(reward.kind or "?"), escape(reward.summary))
    Console(emoji=False).print(table)


@rewards_app.command("show")
def show_reward(name: Annotated[str, typer.Argument(help="Name of a reward, or of a prior of `surprisal`.")]) -> None:
    """Show one reward in full, or a prior of `surprisal`."""
    from cib_rl.plugin.catalogue import entries
    from cib_rl.plugin.importing import nearest

    found = entries()
    chosen = [entry for entry in found if entry.name == name]
    if not chosen:
        known = [entry.name for entry in found]
        raise UserError(f"no reward or prior {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    print(f"{name} ({chosen[0].kind or '?'}, from {chosen[0].origin})\n{chosen[0].signature}\n\n{chosen[0].doc}")


OnOption = Annotated[
    Path,
    typer.Option(
        "--on",
        metavar="ROLLOUTS",
        help="Run or evaluation folder, parquet, or JSON Lines of prompt, completion, answer.",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", help="Whose tokenizer counts tokens; default: the run's, for texts one learned from them."
    ),
]
ColumnsOption = Annotated[
    list[str] | None,
    typer.Option("--columns", metavar="FIELD=NAME", help="Where prompt, completion, answer, group or id stand."),
]
OutcomeOption = Annotated[
    str | None,
    typer.Option(
        metavar="REWARD", help="Reward that says what is right: a name, or a YAML mapping; default: what fits the rows."
    ),
]
AnswerOption = Annotated[
    str | None,
    typer.Option(
        "--answer-style",
        metavar="STYLE",
        help="tag, boxed, hash, last_line or regex:PATTERN; default: the run's, or found.",
    ),
]
LimitOption = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Use so many problems, spread evenly over the file; default: all."),
]


@rewards_app.command("try")
def try_command(
    spec: Annotated[
        str, typer.Argument(metavar="SPEC", help="Built-in name, package.module:name or path/file.py:name.")
    ],
    on: OnOption,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A keyword of the reward, as in a recipe.")
    ] = None,
    weight: Annotated[
        float | None, typer.Option(help="Its weight beside the outcome; default: that of the run's recipe, else 1.")
    ] = None,
    outcome: OutcomeOption = None,
    model: ModelOption = None,
    answer_style: AnswerOption = None,
    columns: ColumnsOption = None,
    limit: LimitOption = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REWARD",
            help="Other reward to compare with: a name or a YAML mapping; none: no other. Default: built-in ones.",
        ),
    ] = None,
    max_completion_length: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="For rewards that ask for the token limit; default: the run's."),
    ] = None,
    probes: Annotated[
        int, typer.Option(metavar="N", min=0, help="Honest completions that probes are made of; 0: no probes.")
    ] = 64,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="PROBE", help="A probe that may earn more where it is right, e.g. answer_only."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(metavar="SHARE", min=0.0, max=1.0, help="Share of problems in which a probe may earn more.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of probes and rewards.")] = 0,
    rows: Annotated[int, typer.Option(metavar="N", min=0, help="Completions to show of each kind.")] = 5,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all completions with their values (.parquet or .jsonl).")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="The picture; default: runs/try-LABEL.png.")] = None,
) -> None:
    """Try a reward on saved completions, and what would cheat it.

    Exit code 1 if a hacking probe earns more than the honest completion it is made of; 2 if none could be made.
    """
    from cib_rl.samples.load import load_samples
    from cib_rl.samples.options import as_mapping, as_spec
    from cib_rl.tryout.hacks import Rules
    from cib_rl.tryout.plot import plot_trial
    from cib_rl.tryout.report import print_trial
    from cib_rl.tryout.rows_file import check_suffix, write_rows
    from cib_rl.tryout.trial import try_reward

    rules = Rules(tolerance, frozenset(allow or []))
    if output is not None:
        check_suffix(output)
    samples = load_samples(on, model=model, answer=answer_style, columns=as_mapping(columns, "--columns"), limit=limit)
    trial = try_reward(
        spec,
        samples,
        keywords=as_mapping(sets, "--set"),
        weight=weight,
        outcome=as_spec(outcome) if outcome is not None else None,
        against=None if not against else [as_spec(one) for one in against if one != "none"],
        max_completion_length=max_completion_length,
        probes=probes,
        rules=rules,
        seed=seed,
    )
    print_trial(trial, rows=rows)
    if output is not None:
        print(f"  rows: {write_rows(trial, output)}")
    print(f"  plot: {plot_trial(trial, plot or Path('runs') / f'try-{trial.label}.png')}")
    if probes and not any(probe.made for probe in trial.probes):
        raise UserError(
            f"{on}: no probe could be made, so nothing was tested: there is no right completion of one turn with "
            "reasoning that can be taken apart (--probes 0, if none are wanted)"
        )
    if trial.hacks:
        raise typer.Exit(EXIT_HACKED)
