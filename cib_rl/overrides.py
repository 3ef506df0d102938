"""Dotted overrides: `trainer.steps=20`, `rewards.surprisal.weight=0.01`, `credit.0.scale=none`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from cib_rl.errors import RecipeError
from cib_rl.yaml_lines import Path_, parse_scalar

_EXAMPLES = {"--set": ", for example trainer.steps=20", "--columns": ", for example completion=response"}


def parse_assignment(text: str, option: str = "--set") -> tuple[str, Any]:
    """Split `a.b=value`; the value is YAML. Raises RecipeError, which names the command line's `option`."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"{option} {text}: expected KEY=VALUE{_EXAMPLES.get(option, '')}")
    try:
        return key.strip(), parse_scalar(value)
    except ValueError as error:
        raise RecipeError(f"{option} {text}: the value is not valid YAML: {error}") from None


def as_pairs(overrides: Iterable[str] | Mapping[str, Any], option: str = "--set") -> list[tuple[str, Any, str]]:
    """(dotted key, value, its name in errors) for strings `a.b=c` or a mapping, whose nested dicts are merged."""
    if isinstance(overrides, str):  # a lone string would be read letter by letter
        overrides = [overrides]
    if isinstance(overrides, Mapping):
        return [(key, value, f"override {key}={value!r}") for key, value in _flatten(overrides)]
    return [(*parse_assignment(text, option), f"{option} {text}") for text in overrides]


def apply_override(data: dict[str, Any], key: str, value: Any, origin: str) -> Path_:
    """Set `key` in `data` in place, making sections on the way; returns the path that was set. Raises RecipeError."""
    here: Any = data
    path: Path_ = ()
    parts = key.split(".")
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(here, list):
            step: str | int = _index(here, part, ".".join(map(str, path)), origin)
        elif isinstance(here, dict):
            step = part
            if not last and here.get(part) is None:
                here[part] = {}
        else:
            raise RecipeError(f"{origin}: `{'.'.join(map(str, path))}` is the value {here!r} and has no keys below it")
        path = (*path, step)
        if last:
            here[step] = value
        else:
            here = here[step]
    return path


def differences(before: Any, after: Any, key: str = "") -> list[str]:
    """`a.b: 1 → 2` for every dotted key in which two recipes, as plain data, differ."""
    if before == after:
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        pairs = [(name, before.get(name), after.get(name)) for name in {**before, **after}]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = [(str(index), *pair) for index, pair in enumerate(zip(before, after, strict=True))]
    else:
        return [f"{key}: {json.dumps(before, ensure_ascii=False)} → {json.dumps(after, ensure_ascii=False)}"]
    return [line for name, old, new in pairs for line in differences(old, new, f"{key}.{name}" if key else name)]


def _index(items: list[Any], part: str, where: str, origin: str) -> int:
    """The index of a list item given by number or by its `label` or `name`."""
    if part.lstrip("-").isdigit():
        index = int(part)
        if 0 <= index < len(items):
            return index
        raise RecipeError(f"{origin}: `{where}` has {len(items)} items, counted from 0; there is no item {index}")
    names = [str(item.get("label") or item.get("name")) if isinstance(item, dict) else "" for item in items]
    matches = [index for index, name in enumerate(names) if name == part]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise RecipeError(f"{origin}: `{where}` has several items named {part!r}; use a number: {matches}")
    near = get_close_matches(part, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise RecipeError(f"{origin}: `{where}` has no item named {part!r}{hint} (items: {', '.join(filter(None, names))})")


def _flatten(overrides: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in overrides.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
