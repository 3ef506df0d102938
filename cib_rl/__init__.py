"""Reinforcement learning of short reasoning. The public names; importing them loads neither torch nor transformers.

import cib_rl

run_folder = cib_rl.train("quickstart", seed=3, trainer={"steps": 20})
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cib_rl.version import __version__

if TYPE_CHECKING:
    from cib_rl.errors import RecipeError, UserError
    from cib_rl.plugin import TokenRewards, reward
    from cib_rl.recipe import Recipe
    from cib_rl.recipe_io import load_recipe

__all__ = ["Recipe", "RecipeError", "TokenRewards", "UserError", "__version__", "load_recipe", "reward", "train"]

_HOMES = {
    "Recipe": "cib_rl.recipe",
    "RecipeError": "cib_rl.errors",
    "TokenRewards": "cib_rl.plugin",
    "UserError": "cib_rl.errors",
    "load_recipe": "cib_rl.recipe_io",
    "reward": "cib_rl.plugin",
}


def train(
    recipe: str | Path | Recipe,
    *,
    resume: str | Path | None = None,
    sets: Mapping[str, Any] | list[str] | None = None,
    **overrides: Any,
) -> Path:
    """Train by a recipe (a path, a shipped name or a `Recipe`) and return the run folder.

    Args:
        resume: run folder to continue.
        sets: overrides with dotted keys: `{"trainer.steps": 20}` or `["trainer.steps=20"]`.
        overrides: the same for whole sections; dicts change only the keys they hold: `trainer={"steps": 20}`.
    """
    from cib_rl.recipe import Recipe
    from cib_rl.recipe_io import load_recipe, override_recipe
    from cib_rl.trainers.run import train as run

    loaded = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    for changes in (sets, overrides):
        if changes:
            loaded = override_recipe(loaded, changes)
    return run(loaded, resume=Path(resume) if resume is not None else None)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'cib_rl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
