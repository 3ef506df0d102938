"""What the run or evaluation that made a file says about it: model, answer style, rewards, token limit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cib_rl.errors import UserError
from cib_rl.recipe import RewardSection, SuccessSection

_LEVELS = 3  # folders up from a file of a run to its recipe


@dataclass(frozen=True)
class Origin:
    """Settings that samples were made with; empty where nothing is known.

    Attributes:
        file: the run's recipe.yaml or the evaluation's result.json.
        model: whose tokenizer it is.
        answer: where answers stand.
        rewards: the recipe's rewards.
        success: its `success` section.
        max_completion_length: policy tokens per episode; 0 where it is not known.
    """

    file: Path | None = None
    model: str | None = None
    answer: str | None = None
    rewards: tuple[RewardSection, ...] = ()
    success: SuccessSection | None = None
    max_completion_length: int = 0


def find_origin(file: Path) -> Origin:
    """The origin of a file of trajectories, from the folders around it: the run's recipe, else the evaluation."""
    for folder in list(file.resolve().parents)[:_LEVELS]:
        if (folder / "recipe.yaml").is_file():
            return _of_run(folder / "recipe.yaml")
    result = file.parent / "result.json"
    return _of_evaluation(result) if result.is_file() else Origin()


def _of_run(file: Path) -> Origin:
    from cib_rl.recipe_io import load_recipe

    recipe = load_recipe(str(file))
    return Origin(
        file=file,
        model=recipe.tokenizer or recipe.model,
        answer=recipe.environment.answer,
        rewards=tuple(recipe.rewards),
        success=recipe.success,
        max_completion_length=recipe.environment.max_completion_length,
    )


def _of_evaluation(file: Path) -> Origin:
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file}: not a readable evaluation result ({error})") from error
    return Origin(
        file=file,
        model=settings.get("model"),
        answer=settings.get("answer"),
        max_completion_length=int((settings.get("environment") or {}).get("max_completion_length") or 0),
    )
