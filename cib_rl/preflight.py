"""What a recipe is refused for before its first step: rules that training and the dry run share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cib_rl.errors import UserError
from cib_rl.evals.scoring import require_outcome
from cib_rl.grading.selfcheck import Report, check_recipe_golds
from cib_rl.plugin import RewardSuite
from cib_rl.plugin.roles import Role, check_roles, roles_of
from cib_rl.recipe import Recipe
from cib_rl.tasks import Row
from cib_rl.trainers.budget import steered

# What is nothing without an outcome reward -> whether a recipe asks for it. (What a reward asks for: `check_roles`.)
_NEED_AN_OUTCOME: dict[str, Callable[[Recipe], bool]] = {
    "an evaluation": lambda recipe: recipe.evaluation is not None,
    "trainer.filter.zero_variance: outcome": lambda recipe: recipe.trainer.filter.zero_variance == "outcome",
    "budget.count: right": lambda recipe: recipe.budget is not None and recipe.budget.count == "right",
    "credit stage 'difficulty'": lambda recipe: any(stage.name == "difficulty" for stage in recipe.credit),
}


def check_outcomes(recipe: Recipe, base_dir: Path) -> list[Role]:
    """What the recipe's rewards are; none is built.

    Raises UserError when a reward is not found, or one of them or the recipe needs an outcome and there is none.
    """
    roles = roles_of(recipe.rewards, base_dir)
    check_roles(roles, recipe.success)
    for what, asked in _NEED_AN_OUTCOME.items():
        if asked(recipe):
            require_outcome(roles, what)
    return roles


def lost_to_rounding(recipe: Recipe) -> str | None:
    """What is wrong with bfloat16 weights that nobody keeps a float32 copy of, as DeepSpeed does; None if all is well.

    A bfloat16 has 8 bits: a weight of 0.02 knows no change below 6e-5, and AdamW changes it by about the learning rate.
    """
    trainer = recipe.trainer
    if trainer.dtype != "bfloat16" or trainer.deepspeed or trainer.learning_rate >= 1e-4:
        return None
    return (
        f"trainer.dtype: in bfloat16 weights most updates of a learning rate of {trainer.learning_rate:g} round away "
        "(DeepSpeed would keep a float32 copy); use dtype: float32 with autocast_bf16: true"
    )


def check_budget(recipe: Recipe, roles: Sequence[Role]) -> str | None:
    """The label of the reward that the recipe's budget moves. Raises UserError when none or several can be meant."""
    return steered(recipe.budget, roles).label if recipe.budget else None


def check_prompts(environment: Any, rows: Sequence[Row], *, evaluation: bool = False) -> None:
    """Let the environment look at the rows, and make one prompt of each kind, texts and messages: enough to see that a
    chat template is missing.

    An environment of one's own need not be able to. Raises UserError.
    """
    with naming(evaluation):
        if look := getattr(environment, "check_rows", None):
            look(rows)
        if make := getattr(environment, "prompt", None):
            for row in {type(row["prompt"]): row for row in reversed(rows)}.values():
                make(row)


def check_rows(recipe: Recipe, rows: Sequence[Row], suite: RewardSuite, *, evaluation: bool = False) -> list[Report]:
    """Let the rewards look at the task's rows, and grade gold answers against themselves (see `check_recipe_golds`).

    Args:
        evaluation: the rows are the held-out ones.

    Raises UserError for a row that lacks what a reward reads, and for golds that do not grade as right.
    """
    if not rows:
        return []
    with naming(evaluation):
        suite.check_rows(rows)
        return check_recipe_golds(recipe, rows, suite, evaluation=evaluation)


@contextmanager
def naming(evaluation: bool) -> Iterator[None]:
    """Says of a UserError that it is about the held-out rows, when they are what is checked."""
    try:
        yield
    except UserError as error:
        if not evaluation:
            raise
        raise UserError(f"evaluation: {error}") from error
