"""YAML that remembers the line of every key. Scalars follow YAML 1.2: `off` is text and 5e-5 is a number."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import yaml

from cib_rl.errors import RecipeError

Path_ = tuple[str | int, ...]  # where a value stands: keys of mappings and indices of lists, from the top


class _CoreLoader(yaml.SafeLoader):
    """SafeLoader with the scalar rules of the YAML 1.2 core schema.

    YAML 1.1 reads `off` as False and `5e-5` as text; both would be silent traps in a recipe.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (declared so by the base)

    def construct_decimal(self, node: yaml.ScalarNode) -> int:
        return int(self.construct_scalar(node))


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
_CoreLoader.add_constructor("tag:yaml.org,2002:int", _CoreLoader.construct_decimal)


@dataclass
class Document:
    """A parsed YAML mapping. `lines` maps the path of every key and list item to its line, counted from 1."""

    data: dict[str, Any]
    lines: dict[Path_, int] = field(default_factory=dict)


def parse_scalar(text: str) -> Any:
    """The value of one YAML expression, e.g. `3`, `off`, `[1, 2]`, `{a: b}`. Raises ValueError with the reason."""
    try:
        return yaml.load(text, _CoreLoader)
    except yaml.YAMLError as error:
        raise ValueError(_reason(error)) from None


def parse_document(text: str, name: str) -> Document:
    """Parse a YAML mapping. Raises RecipeError naming `name` and the line for bad syntax and repeated keys."""
    loader = _CoreLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise RecipeError(f"{name}: the file is empty")
        if not isinstance(node, yaml.MappingNode):
            raise RecipeError(f"{name}:{node.start_mark.line + 1}: expected `key: value` lines at the top level")
        lines: dict[Path_, int] = {}
        _collect_lines(node, (), lines, name, loader)
        return Document(loader.construct_document(node), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise RecipeError(f"{name}:{mark.line + 1 if mark else '?'}: not valid YAML: {_reason(error)}") from None
    except yaml.YAMLError as error:  # for instance a character that YAML does not allow
        raise RecipeError(f"{name}: not valid YAML: {_reason(error)}") from None
    finally:
        loader.dispose()


def _collect_lines(node: yaml.Node, path: Path_, lines: dict[Path_, int], name: str, loader: yaml.SafeLoader) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: dict[Hashable, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = loader.construct_object(key_node)
            if not isinstance(key, str):
                raise RecipeError(f"{name}:{line}: the key `{key}` must be text; write it in quotes")
            if key in seen:
                dotted = ".".join(map(str, (*path, key)))
                raise RecipeError(f"{name}:{line}: `{dotted}` is given twice (first in line {seen[key]}); keep one")
            seen[key] = line
            lines[(*path, key)] = line
            _collect_lines(value_node, (*path, key), lines, name, loader)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
            _collect_lines(item, (*path, index), lines, name, loader)


def _reason(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        return ", ".join(part for part in (error.context, error.problem) if part)
    return str(error).splitlines()[0]
