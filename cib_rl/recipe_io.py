"""Recipes on disk: finding, reading, overriding, writing. Every error names file, line, key and the way out.

A recipe is named by a path or by the name of a shipped one (`quickstart`, `math/cib_grpo_gsm8k`). Relative paths
inside a recipe start at the working directory, like those on the command line.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from cib_rl.errors import RecipeError
from cib_rl.overrides import apply_override, as_pairs
from cib_rl.recipe import Recipe, defaults_of_trainer
from cib_rl.recipe_extends import merged
from cib_rl.recipe_problems import describe
from cib_rl.yaml_lines import Path_, parse_document

Overrides = Iterable[str] | Mapping[str, Any]


def recipes_dir() -> Path:
    """The folder of shipped recipes."""
    return Path(str(resources.files("cib_rl"))) / "recipes"


def list_recipes() -> list[str]:
    """Names of the shipped recipes (launch configurations are not recipes)."""
    root = recipes_dir()
    names = (path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))
    return sorted(name for name in names if not name.startswith("launch/"))


def list_launch_files() -> list[str]:
    """Names of the shipped launch configurations: YAML for accelerate, JSON for DeepSpeed."""
    root = recipes_dir()
    return sorted(path.relative_to(root).as_posix() for path in (root / "launch").iterdir())


def recipe_summary(name: str) -> str:
    """The first comment line of a shipped recipe or launch configuration."""
    if name.endswith(".json"):  # JSON has no comments
        return "DeepSpeed configuration, for trainer.deepspeed."
    first = find_recipe(name).read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""


def find_recipe(ref: str | Path) -> Path:
    """The file of a recipe given as a path or as a shipped name; `launch/zero2.yaml` names a launch configuration.

    Raises RecipeError with the nearest name.
    """
    path = Path(ref)
    if path.is_file():
        return path
    if path.is_dir() and str(ref) not in list_recipes():
        raise RecipeError(f"{path} is a folder; give a recipe file or the name of a shipped recipe")
    name = str(ref).removesuffix(".yaml").removesuffix(".yml")
    if name in list_recipes():
        return recipes_dir() / f"{name}.yaml"
    if str(ref) in list_launch_files():
        return recipes_dir() / str(ref)
    names = [*list_recipes(), *(list_launch_files() if str(ref).startswith("launch/") else [])]
    near = [n for n in names if n.startswith(name)] or [n for n in names if n.rsplit("/", 1)[-1] == name]
    near = near or get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise RecipeError(f"no recipe {str(ref)!r}: no such file, and the shipped ones are {', '.join(names)}.{hint}")


def read_recipe(ref: str | Path, _above: tuple[str, ...] = ()) -> tuple[dict[str, Any], dict[Path_, str], str]:
    """The recipe's keys over those of the recipe it extends, the place (`file:line`) of each, and the file's name.

    Raises RecipeError.
    """
    path = find_recipe(ref)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from None
    document, name = parse_document(text, str(path)), str(path)
    own, places = document.data, {at: f"{name}:{line}" for at, line in document.lines.items()}
    if "extends" not in own:
        return own, places, name
    base, place, above = own.pop("extends"), places.pop(("extends",)), (*_above, str(path.resolve()))
    if not isinstance(base, str):
        raise RecipeError(f"{place}: extends: expected the name or the file of one recipe, got {base!r}")
    try:
        if str(find_recipe(base).resolve()) in above:
            raise RecipeError(f"{base!r} extends this one in turn")
    except RecipeError as error:
        raise RecipeError(f"{place}: extends: {error}") from None
    inherited, inherited_places, _ = read_recipe(base, above)
    return *merged(inherited, inherited_places, own, places), name


def load_recipe(ref: str | Path, overrides: Overrides = (), *, schema: type[BaseModel] = Recipe) -> Any:
    """Read, override and check a recipe.

    Args:
        ref: path or shipped name.
        overrides: strings `a.b=c` (the value is YAML; list items by index, label or name) or a mapping, whose keys
            may be dotted or nested.
        schema: the pydantic model the file must fit (`Recipe` unless the verb has another one).

    Raises RecipeError, one message for all problems found.
    """
    data, places, name = read_recipe(ref)
    if schema is Recipe and "models" in data and "trainer" not in data:
        raise RecipeError(f"{name} is a recipe of supervised training; run it with `cib-rl sft {ref}`")
    if schema is not Recipe and "trainer" in data and "models" not in data:
        raise RecipeError(f"{name} is a recipe of reinforcement learning; run it with `cib-rl train {ref}`")
    if "distributed_type" in data:
        raise RecipeError(
            f"{name} is no recipe but a configuration of accelerate: accelerate launch --config_file FILE -m cib_rl "
            "train RECIPE"
        )
    recipe = validate(data, schema, overrides, places=places, name=name)
    if isinstance(recipe, Recipe):
        recipe.source_name = Path(name).stem
    return recipe


def override_recipe(recipe: Recipe, overrides: Overrides) -> Recipe:
    """A copy of `recipe` with `overrides` applied and checked."""
    changed = validate(recipe.model_dump(mode="json"), Recipe, overrides, name="recipe")
    changed.source_name = recipe.source_name
    return changed


def validate(
    data: dict[str, Any],
    schema: type[BaseModel],
    overrides: Overrides = (),
    *,
    places: dict[Path_, str] | None = None,
    name: str = "recipe",
) -> Any:
    """Apply `overrides` to a copy of `data` and check it against `schema`. Raises RecipeError."""
    data = copy.deepcopy(data)
    places = dict(places or {})
    for key, value, origin in as_pairs(overrides):
        _write_out_default_list(data, schema, key)
        path = apply_override(data, key, value, origin)
        for known in [p for p in places if p[: len(path)] == path]:
            del places[known]  # what stood below is replaced
        places[path] = origin
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise RecipeError(describe(error, schema, data, places, name)) from None


def _write_out_default_list(data: dict[str, Any], schema: type[BaseModel], key: str) -> None:
    """Make a list that the recipe leaves to its default addressable: `credit.group.scale=none`."""
    section, _, rest = key.partition(".")
    if rest and data.get(section) is None and section in schema.model_fields:
        default = schema.model_fields[section].get_default(call_default_factory=True)
        if isinstance(default, list):
            data[section] = [item.model_dump(mode="json") for item in default]
            data |= {key: value for key, value in defaults_of_trainer(data).items() if key == section}


def dump_recipe(recipe: BaseModel) -> str:
    """The fully resolved recipe as YAML, defaults included; `load_recipe` reads it back to an equal recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def copy_recipe(name: str, destination: str | Path) -> Path:
    """Copy a shipped recipe to a file, or into a folder that exists. Never overwrites. Returns the new path."""
    source = find_recipe(name)
    target = Path(destination)
    if target.is_dir():
        target = target / source.name
    try:
        with open(target, "x", encoding="utf-8") as file:
            file.write(source.read_text(encoding="utf-8"))
    except FileExistsError:
        raise RecipeError(f"{target} exists already; it was left as it is. Choose another name.") from None
    except OSError as error:
        raise RecipeError(f"{target} cannot be written: {error.strerror}") from None
    return target
