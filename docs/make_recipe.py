"""Writes the tables of docs/recipe.md from the recipe's schema.

python docs/make_recipe.py          # rewrites what stands between the marks
python docs/make_recipe.py --check  # exit code 1 when it is out of date
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cib_rl.recipe import Recipe

PAGE = Path(__file__).with_name("recipe.md")
BEGIN, END = "<!-- tables: made by docs/make_recipe.py -->\n", "<!-- end of tables -->\n"
_WORDS = {int: "whole number", float: "number", str: "text", bool: "true, false", Any: "anything"}


def sections(schema: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """(dotted path, model) of the recipe and everything below it, in the order of the file; each model once."""
    yield path, schema
    for name, info in schema.model_fields.items():
        if (path, name) not in {("evaluation", "task"), ("critic", "lora")}:  # the same keys as in `task` and `lora`
            for model in models_in(info.annotation):
                yield from sections(model, f"{path}.{name}" if path else name)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def words(annotation: Any) -> str:
    """A type in the words of a recipe."""
    if annotation in _WORDS:
        return _WORDS[annotation]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(words(part) for part in parts if part is not type(None))
    if origin is list:
        return f"list of {'sections' if models_in(annotation) else words(parts[0])}"
    return "section"


def default(info: FieldInfo) -> str:
    if info.is_required():
        return "**required**"
    value = info.get_default(call_default_factory=True)
    if isinstance(value, BaseModel) or value in ({}, None, ""):
        return ""
    if isinstance(value, list) and value and isinstance(value[0], BaseModel):
        value = [item.model_dump(mode="json") for item in value]
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def table(path: str, schema: type[BaseModel]) -> str:
    """One section: what it is, and its keys."""
    about = " ".join((schema.__doc__ or "").split())
    lines = [
        f"### {f'`{path}`' if path else 'The whole recipe'}\n\n{about}\n",
        "| key | | default | |",
        "|---|---|---|---|",
    ]
    for name, info in schema.model_fields.items():
        text = (info.description or "").replace("|", "\\|").replace("<", "&lt;")
        if not text and models_in(info.annotation):
            text = f"[below](#{name})"
        lines.append(f"| `{name}` | {words(info.annotation)} | {default(info)} | {text} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The page with the tables of today."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    tables = "\n".join(table(path, schema) for path, schema in sections(Recipe))
    return f"{before}{BEGIN}\n{tables}\n{END}{after}"


if __name__ == "__main__":
    made = page()
    if "--check" in sys.argv:
        sys.exit(made != PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(made, encoding="utf-8")
