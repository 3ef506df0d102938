"""Recipes that begin with another one: `extends: search/tiny`, and below it only what differs."""

from __future__ import annotations

import copy
from typing import Any

from cib_rl.yaml_lines import Path_

_ONE_SECTION = ("trainer",)  # the same keys, whatever its `name`


def merged(
    base: dict[str, Any], base_places: dict[Path_, str], own: dict[str, Any], own_places: dict[Path_, str]
) -> tuple[dict[str, Any], dict[Path_, str]]:
    """A recipe over the one it extends: the data, and for every path the place in a file that gave its value.

    Sections are merged key by key. Everything else replaces what the base has: values, lists as a whole (`rewards`),
    and a section of another `name`, whose keys are another plugin's (`trainer` is always merged). Neither argument is
    changed.
    """
    data, places = copy.deepcopy(base), dict(base_places)
    _merge(data, places, own, own_places, ())
    return data, places


def _merge(
    data: dict[str, Any], places: dict[Path_, str], own: dict[str, Any], own_places: dict[Path_, str], at: Path_
) -> None:
    for key, value in own.items():
        path, before = (*at, key), data.get(key)
        if isinstance(before, dict) and isinstance(value, dict) and _same_plugin(before, value, path):
            places[path] = own_places[path]
            _merge(before, places, value, own_places, path)
            continue
        data[key] = copy.deepcopy(value)
        for known in [p for p in places if p[: len(path)] == path]:
            del places[known]
        places |= {p: place for p, place in own_places.items() if p[: len(path)] == path}


def _same_plugin(before: dict[str, Any], value: dict[str, Any], path: Path_) -> bool:
    return path in {(name,) for name in _ONE_SECTION} or value.get("name", before.get("name")) == before.get("name")
