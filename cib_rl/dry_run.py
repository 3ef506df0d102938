"""`cib-rl train RECIPE --dry-run`: the resolved recipe, what would run, what it may need, and every check."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cib_rl.checks import Findings, check_recipe
from cib_rl.memory import Item, estimate
from cib_rl.recipe import Recipe
from cib_rl.recipe_io import dump_recipe

_COLOURS = {"ok": "green", "failed": "red", "unchecked": "yellow"}


def dry_run(
    recipe: Recipe,
    *,
    devices: int = 1,
    base_dir: Path | None = None,
    resume: Path | None = None,
    console: Console | None = None,
) -> bool:
    """Print what training by `recipe` would mean; nothing is trained, downloaded or written.

    Returns True when no check failed.
    """
    console = console or new_console()
    console.print(dump_recipe(recipe), markup=False, highlight=False)
    found = check_recipe(recipe, devices=devices, base_dir=base_dir, resuming=resume is not None)
    console.print(_plan(recipe, devices), markup=False)
    _print_memory(console, recipe, found, devices)
    return print_checks(console, found)


def new_console() -> Console:
    """A console whose lines are not cut, and that takes no text for an emoji."""
    return Console(soft_wrap=True, emoji=False)


def print_checks(console: Console, found: Findings) -> bool:
    """Print all checks, failures once more in full; True when none failed."""
    table = Table("check", "result", "detail", title="Checks")
    for check in found.checks:
        table.add_row(escape(check.name), f"[{_COLOURS[check.status]}]{check.status}[/]", escape(check.detail))
    console.print(table)
    failed = [check for check in found.checks if check.status == "failed"]
    for check in failed:  # again in full: a table cell wraps
        console.print(f"error: {check.name}: {check.detail}", markup=False, highlight=False)
    if not failed:
        console.print("dry run: no check failed; nothing was trained")
    return found.passed


def print_memory(console: Console, items: Sequence[Item], title: str) -> None:
    """Print an estimate and its sum."""
    table = Table("part", "GiB", "from", title=title)
    for item in items:
        table.add_row(escape(item.name), f"{item.size / 2**30:,.3f}", escape(item.note))
    table.add_row("sum", f"{sum(item.size for item in items) / 2**30:,.3f}", "")
    console.print(table)


def _plan(recipe: Recipe, devices: int) -> str:
    trainer, group = recipe.trainer, recipe.sampling.group_size
    completions = trainer.prompts_per_step * group
    window = completions * trainer.steps_per_window
    # Each window is trained on num_iterations times, so only every num_iterations-th step needs new completions.
    total = -(-trainer.steps // trainer.num_iterations) * completions
    limit = recipe.environment.max_completion_length
    lines = [
        f"steps: {trainer.steps:,}, each {trainer.prompts_per_step:,} prompts x {group} = {completions:,} completions,"
        f" {completions // devices:,} on each of {devices} device(s)",
        f"completions sampled: {total:,} in windows of {window:,}; at most {total * limit:,} tokens",
    ]
    evaluation = recipe.evaluation
    if evaluation:
        between = (trainer.steps - 1) // evaluation.every if evaluation.every else 0
        times = evaluation.before + evaluation.after + between
        lines.append(f"evaluations: {times}, each of {evaluation.problems * evaluation.samples:,} completions")
    return "\n".join(lines)


def _print_memory(console: Console, recipe: Recipe, found: Findings, devices: int) -> None:
    if found.policy is None:
        console.print("memory: no estimate, the policy's size is not known")
        return
    items = estimate(recipe, found.policy, found.priors, critic=found.critic, devices=devices, prompt=found.prompt)
    print_memory(console, items, "Memory per device: an estimate, not a measurement")
    if not found.policy.layers:
        left_out = ["activations"] if recipe.engine.name == "vllm" else ["activations", "KV cache"]
        if recipe.lora:
            left_out.append("gradients and Adam states of the adapters")
        console.print(f"(sizes read off the model's name; not counted: {', '.join(left_out)})")
