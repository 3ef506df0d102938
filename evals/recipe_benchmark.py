"""A recipe's held-out evaluation as a benchmark, for models that were not evaluated by it while they trained."""

from __future__ import annotations

from pathlib import Path

from cib_rl.errors import UserError
from cib_rl.evals.benchmarks import benchmark_names
from cib_rl.evals.benchmarks.base import Benchmark
from cib_rl.plugin.roles import roles_of
from cib_rl.recipe import Recipe, TaskSection
from cib_rl.recipe_io import list_recipes, load_recipe


def recipe_of(name: str) -> Recipe | None:
    """The recipe that a benchmark's name stands for: a shipped one, a YAML file, or a run folder's; None: none does.

    A folder that has a shipped benchmark's name does not take its place.
    """
    path = Path(name)
    if name in benchmark_names():
        return None
    if name in list_recipes() or path.suffix in (".yaml", ".yml"):
        recipe: Recipe = load_recipe(name)
        return recipe
    return load_recipe(path / "recipe.yaml") if (path / "recipe.yaml").is_file() else None


def from_recipe(recipe: Recipe, name: str) -> Benchmark:
    """What `evaluation`, `environment` and the outcome rewards of a recipe ask and how they grade it.

    Raises UserError where the recipe has no held-out rows.
    """
    section = recipe.evaluation
    if section is None or section.task is None:
        raise UserError(f"benchmark {name!r}: the recipe has no evaluation.task: nothing says what to ask")
    held_out, count = section.task, section.problems

    def task(data: Path | None, problems: int | None) -> TaskSection:
        rows = held_out if data is None else TaskSection(name="jsonl", path=str(data), columns=held_out.columns)
        return rows.model_copy(update={"limit": problems or count})

    outcomes = [role.kind == "outcome" for role in roles_of(recipe.rewards, Path.cwd())]
    return Benchmark(
        name=name,
        task=task,
        environment=recipe.environment.model_dump(),
        rewards=tuple(reward for reward, grades in zip(recipe.rewards, outcomes, strict=True) if grades),
        about=f"the evaluation of recipe {name}",
        samples=section.samples,
        temperature=section.temperature,
        top_p=section.top_p,
        max_ungradable=held_out.max_ungradable,
        by=section.by,
        success=recipe.success,
    )
