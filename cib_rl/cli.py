"""The command line: one verb per command. Heavy imports stay inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cib_rl.audit.command import audit
from cib_rl.errors import UserError
from cib_rl.tryout.commands import rewards_app
from cib_rl.version import __version__

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
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(EXIT_INTERRUPTED) from None


_SETTINGS: dict[str, Any] = {
    "no_args_is_help": True,
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
app = typer.Typer(
    cls=_Verbs, name="cib-rl", help="Reinforcement learning of short reasoning.", add_completion=False, **_SETTINGS
)
recipes_app = typer.Typer(help="List, show or copy the shipped recipes.", **_SETTINGS)
app.add_typer(recipes_app, name="recipes")
app.add_typer(rewards_app, name="rewards")
app.command()(audit)

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped recipe.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one key, e.g. trainer.steps=20; may be repeated."),
]


def main() -> None:
    """Entry point of the `cib-rl` command."""
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
    sets: SetOption = None,
    output: Annotated[Path, typer.Option(help="Folder for the run folder.")] = Path("runs"),
) -> None:
    """Train the embedded CPU default, evaluate before and after, and plot: about ten minutes on two cores."""
    from cib_rl.quickstart import quickstart as run
    from cib_rl.recipe_io import load_recipe

    run(load_recipe("quickstart", [f"output={str(output)!r}", *(sets or [])]))


@app.command()
def train(
    recipe: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="A file or shipped name; not needed with --resume.")
    ] = None,
    sets: SetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and show what would run.")] = False,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Run folder to continue.")] = None,
    devices: Annotated[int, typer.Option(min=1, help="Devices the dry run counts with.")] = 1,
) -> None:
    """Train by a recipe; writes a run folder and prints its path."""
    from cib_rl.recipe_io import load_recipe

    if resume is not None and not (resume / "recipe.yaml").is_file():
        raise UserError(f"--resume {resume}: not a run folder (it has no recipe.yaml)")
    if recipe is None and resume is None:
        raise UserError("train needs a RECIPE (a file or a shipped name, see `cib-rl recipes list`) or --resume RUN")
    loaded = load_recipe(recipe if recipe is not None else str(Path(str(resume)) / "recipe.yaml"), sets or [])
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
        list[str] | None, typer.Option("--grid", metavar="KEY=A,B,…", help="Values to try; repeat for a grid.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, e.g. 0,1,2.")] = "0",
    sets: SetOption = None,
    output: Annotated[Path, typer.Option(help="Sweep folder; running again continues it.")] = Path("runs/sweep"),
) -> None:
    """Train a recipe for each point of a grid and each seed, then print one table and draw one plot. Resumable."""
    from cib_rl.sweep import sweep as run

    run(recipe, grid or [], seeds, sets or [], output)


@app.command()
def sft(recipe: RecipeArgument, sets: SetOption = None) -> None:
    """Train on demonstrations by a recipe, for instance the warm start of the embedded default."""
    from cib_rl.recipe_io import load_recipe
    from cib_rl.trainers.sft import SFTSettings, run_sft

    print(run_sft(load_recipe(recipe, sets or [], schema=SFTSettings)))


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Hub id, folder, run, checkpoint, or shipped:NAME.")],
    benchmark: Annotated[str, typer.Option(help="countdown, gsm8k, math500, or package.module:NAME.")],
    samples: Annotated[int, typer.Option(help="Answers per problem.")] = 1,
    problems: Annotated[int | None, typer.Option(help="Use the first N problems.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Default: the benchmark's.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Default: the benchmark's.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Limit of an answer; default: the benchmark's.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 1234,
    engine: Annotated[str, typer.Option(help="transformers or vllm.")] = "transformers",
    data: Annotated[Path | None, typer.Option(help="A local file instead of the benchmark's source.")] = None,
    environment: Annotated[
        list[str] | None, typer.Option("--environment", metavar="KEY=VALUE", help="Change a key of the environment.")
    ] = None,
    engine_options: Annotated[
        list[str] | None, typer.Option("--engine-option", metavar="KEY=VALUE", help="Change a key of the engine.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="Default: bfloat16 on a GPU, float32 without.")] = None,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="Fixed batches: runs repeat exactly.")] = False,
    output: Annotated[Path | None, typer.Option(help="New folder for the result; default: runs/eval-….")] = None,
    compare: Annotated[Path | None, typer.Option(metavar="RESULT", help="Earlier result to compare with.")] = None,
) -> None:
    """Evaluate a model on a benchmark; saves every sample and prints the numbers with 95% intervals."""
    from cib_rl.eval_command import run_evaluation
    from cib_rl.overrides import parse_assignment

    run_evaluation(
        model,
        benchmark,
        output=output,
        compare=compare,
        samples=samples,
        problems=problems,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        seed=seed,
        engine=engine,
        data=data,
        environment=dict(parse_assignment(text) for text in environment or []),
        engine_options=dict(parse_assignment(text) for text in engine_options or []),
        dtype=dtype,
        deterministic=deterministic,
    )


@app.command()
def doctor(
    require: Annotated[
        list[str] | None, typer.Option("--require", metavar="NAME", help="Optional part that must work, e.g. vllm.")
    ] = None,
) -> None:
    """Check the machine and the installed versions against the tested ones."""
    from cib_rl.doctor import doctor as check

    if not check(require or []):
        raise typer.Exit(1)


@recipes_app.command("list")
def recipes_list() -> None:
    """Names of the shipped recipes."""
    from cib_rl.recipe_io import list_recipes, recipe_summary

    for name in list_recipes():
        print(f"{name:32} {recipe_summary(name)}")


@recipes_app.command("show")
def recipes_show(recipe: RecipeArgument) -> None:
    """Print a recipe as it is written, comments included (`train --dry-run` shows it resolved)."""
    from cib_rl.recipe_io import find_recipe

    print(find_recipe(recipe).read_text(encoding="utf-8"), end="")


@recipes_app.command("copy")
def recipes_copy(
    recipe: RecipeArgument,
    destination: Annotated[Path, typer.Argument(help="New file, or a folder that exists.")] = Path("."),
) -> None:
    """Copy a shipped recipe, to edit it. Never overwrites."""
    from cib_rl.recipe_io import copy_recipe

    print(copy_recipe(recipe, destination))


if __name__ == "__main__":
    main()
