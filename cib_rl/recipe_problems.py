"""Turns pydantic's findings into messages: file and line, key, what was expected, the nearest valid key."""

from __future__ import annotations

import dataclasses
import re
import types
from difflib import get_close_matches
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

from cib_rl.errors import UserError
from cib_rl.yaml_lines import Path_

S = TypeVar("S", bound=BaseModel)

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "list": "a list (lines that start with `- `)",
    "dict": "a section (`key: value` lines)",
    "dataclass": "a section (`key: value` lines)",
    "model": "a section (`key: value` lines)",
    "finite": "a finite number",
}


def validated(schema: type[S], data: Any, name: str, *, known: type[BaseModel] | None = None) -> S:
    """`data` by `schema`. Raises UserError that names each wrong key, after `name`.

    Args:
        known: has more keys that an unknown one may be meant to be.
    """
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise UserError(describe(error, known or schema, data, {}, name)) from None


def describe(
    error: ValidationError, schema: type[BaseModel], data: dict[str, Any], places: dict[Path_, str], name: str
) -> str:
    """One line per problem, in the order of the schema. `places` maps known paths to `file:line` or `--set …`."""
    lines: list[str] = []
    for problem in error.errors(include_url=False):
        path = _clean(problem["loc"], data)
        text = _message(problem, path, schema, data)
        if problem["type"] == "value_error" and not path:
            path = _path_in(text, places)  # a rule between sections names its key in the message
        if problem["type"] == "missing" and (near := _misspelt(path, data)):
            path = (*path[:-1], near)
        line = f"{_place(path, places, name)}: {text}"
        if line not in lines:
            lines.append(line)
    return "\n".join(lines)


def _message(problem: Any, path: Path_, schema: type[BaseModel], data: dict[str, Any]) -> str:
    kind, dotted = problem["type"], ".".join(map(str, path))
    if kind == "missing":
        near = _misspelt(path, data)
        hint = f" Is `{near}` a misspelling of it?" if near else ""
        return f"`{dotted}` is missing and has no default{_doc(schema, path)}.{hint}"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        fields = _fields_at(schema, path[:-1])
        matches = get_close_matches(str(path[-1]), fields, n=1, cutoff=0.5)
        hint = f"did you mean `{matches[0]}`?" if matches else f"valid keys: {', '.join(fields)}"
        return f"unknown key `{dotted}`; {hint}"
    if kind == "value_error":
        text = str(problem["ctx"]["error"])
        return f"`{dotted}`: {text}" if dotted else text
    return f"`{dotted}` must be {_expected(problem)}, not {_shown(problem['input'])}"


def _expected(problem: Any) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "literal_error":
        return f"one of {context['expected']}"
    for suffix, words in (
        ("greater_than_equal", "at least"),
        ("greater_than", "greater than"),
        ("less_than_equal", "at most"),
        ("less_than", "less than"),
    ):
        if kind == suffix:
            return f"{words} {next(iter(context.values()))}"
    if kind == "too_short":
        return f"a list of at least {context['min_length']} item(s)"
    return _EXPECTED.get(kind.split("_")[0], problem["msg"].removeprefix("Input should be ").lower())


def _shown(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, dict | list):
        return "a section" if isinstance(value, dict) else "a list"
    return f"{value!r}" if not isinstance(value, bool) else str(value).lower()


def _place(path: Path_, places: dict[Path_, str], name: str) -> str:
    """The nearest known place at or above `path`."""
    for end in range(len(path), 0, -1):
        if path[:end] in places:
            return places[path[:end]]
    return name


def _clean(location: tuple[str | int, ...], data: Any) -> Path_:
    """pydantic's location without the names of union members, which are no keys of the file."""
    path: Path_ = ()
    here = data
    for index, step in enumerate(location):
        last = index == len(location) - 1
        if isinstance(here, dict):
            if step in here or last:
                path, here = (*path, step), here.get(step)
        elif isinstance(here, list) and isinstance(step, int) and step < len(here):
            path, here = (*path, step), here[step]
    return path


def _path_in(text: str, places: dict[Path_, str]) -> Path_:
    """The first known key that a message mentions, e.g. `sampling.top_p`."""
    for dotted in re.findall(r"[a-z_0-9]+(?:\.[a-z_0-9]+)+", text):
        path = tuple(int(part) if part.isdigit() else part for part in dotted.split("."))
        if path in places:
            return path
    return ()


def _misspelt(path: Path_, data: Any) -> str | None:
    """The key beside the missing `path` that looks most like it."""
    for step in path[:-1]:
        data = data[step]
    matches = get_close_matches(str(path[-1]), list(data) if isinstance(data, dict) else [], n=1, cutoff=0.7)
    return matches[0] if matches else None


def _model_at(schema: type[BaseModel], path: Path_) -> Any:
    """The model or dataclass that describes the section at `path`; None when it is a free mapping."""
    annotation: Any = schema
    for step in path:
        members = [a for a in _members(annotation) if get_origin(a) in (list, dict) or _is_section(a)]
        annotation = None
        for member in members:
            if get_origin(member) is list and isinstance(step, int):
                annotation = get_args(member)[0]
            elif get_origin(member) is dict and isinstance(step, str):
                annotation = get_args(member)[1]
            elif _is_section(member) and step in _annotations(member):
                annotation = _annotations(member)[str(step)]
    return next(filter(_is_section, _members(annotation)), None)


def _members(annotation: Any) -> list[Any]:
    """The parts of a union, or the annotation itself."""
    return list(get_args(annotation)) if get_origin(annotation) in (Union, types.UnionType) else [annotation]


def _is_section(annotation: Any) -> bool:
    if not isinstance(annotation, type) or get_origin(annotation) is not None:
        return False
    return issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)


def _annotations(section: Any) -> dict[str, Any]:
    if issubclass(section, BaseModel):
        return {name: info.annotation for name, info in section.model_fields.items()}
    return get_type_hints(section)


def _fields_at(schema: type[BaseModel], path: Path_) -> list[str]:
    section = _model_at(schema, path)
    return list(_annotations(section)) if section else []


def _doc(schema: type[BaseModel], path: Path_) -> str:
    section = _model_at(schema, path[:-1])
    info = section.model_fields.get(str(path[-1])) if section and issubclass(section, BaseModel) else None
    return f" ({info.description})" if info and info.description else ""
