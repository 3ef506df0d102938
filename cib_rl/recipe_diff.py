"""What two recipes would do differently: their keys with every default written out, side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cib_rl.recipe_io import load_recipe, read_recipe

_EMPTY: tuple[Any, ...] = (None, {}, [])  # a key that is not there does as much


def resolved(ref: str) -> dict[str, Any]:
    """A recipe's keys, defaults included. `ref`: a file, a shipped name or a run folder. Raises RecipeError."""
    path = Path(ref)
    recipe_file = path / "recipe.yaml" if (path / "recipe.yaml").is_file() else ref
    if "models" in read_recipe(recipe_file)[0]:
        from cib_rl.trainers.sft_settings import SFTSettings

        return load_recipe(recipe_file, schema=SFTSettings).model_dump(mode="json")
    return load_recipe(recipe_file).model_dump(mode="json")


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(dotted key, its value in `first`, in `second`) for every key that differs, section by section.

    Values are JSON; a key that one has not, or leaves empty, is "-" there.
    """
    one, other = dict(_leaves(first, ())), dict(_leaves(second, ()))
    sections = list(dict.fromkeys([*first, *second]))
    keys = sorted(dict.fromkeys([*one, *other]), key=lambda key: sections.index(key.partition(".")[0]))
    return [(key, one.get(key, "-"), other.get(key, "-")) for key in keys if one.get(key) != other.get(key)]


def _leaves(value: Any, at: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        value = {str(i): item for i, item in enumerate(value)}
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from _leaves(below, (*at, str(key)))
    elif value not in _EMPTY:
        yield ".".join(at), json.dumps(value, ensure_ascii=False)
