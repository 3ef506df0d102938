"""What a recipe is refused for before its first step: rules that training and the dry run share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cib_rl.environments.base import encode_prompt
from cib_rl.errors import UserError
from cib_rl.grading.selfcheck import Report, check_recipe_golds
from cib_rl.plugin import RewardSuite
from cib_rl.recipe import Recipe
from cib_rl.tasks import Row

def check_prompts(recipe: Recipe, rows: Sequence[Row], tokenizer: Any, *, evaluation: bool = False) -> None:
    """Encode one prompt of each kind: enough to see that a chat template is missing.

    Environments of one's own make their prompts themselves. Raises UserError.
    """
    if recipe.environment.name == "single_turn":
        with naming(evaluation):
            for row in {type(row["prompt"]): row for row in reversed(rows)}.values():
                encode_prompt(row["prompt"], recipe.environment, tokenizer)


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
