"""Finding rewards: built-in names, entry points, `package.module:name` and `path/file.py:name`.

Every module of `cib_rl.rewards` is a plugin file; its rewards are found by reading its source, so that listing them
imports nothing. Nothing is registered anywhere: each process finds what it needs.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from cib_rl.plugin.contract import Kind, PluginError
from cib_rl.plugin.importing import find_elsewhere, importing, is_elsewhere, nearest, syntax_message
from cib_rl.plugin.signature import signature_from_ast

GROUP = "cib_rl.rewards"


@dataclass(frozen=True)
class RewardDescription:
    """What `cib-rl rewards` shows.

    Attributes:
        kind: of a reward; `prior of surprisal`; None where it is not known before the import.
        summary: the first line of `doc`, or why the source cannot be read.
        origin: module or entry point.
    """

    name: str
    kind: str | None
    summary: str
    signature: str
    doc: str
    origin: str


def find_reward(spec: str, base_dir: Path) -> Any:
    """The function or class that `spec` names (see the module's docstring).

    Raises:
        PluginError: nothing has that name, or its file cannot be imported.
    """
    return find_elsewhere(spec, base_dir, "reward") if is_elsewhere(spec) else _find_by_name(spec)


def describe_rewards() -> list[RewardDescription]:
    """All built-in rewards and entry points, by name, without importing what they need."""
    found = [description for _, description in _builtins()]
    found += [_describe_point(point) for point in entry_points(group=GROUP)]
    return sorted(found, key=lambda description: description.name)


def _describe_point(point: EntryPoint) -> RewardDescription:
    origin = _origin(point)
    try:
        described = _describe_file(_source_of(point), origin)
    except Exception as error:  # another package's: the list goes on, and says why this one has no more to show
        reason = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
        unreadable = f"(unreadable: {origin}: {reason})"
        return RewardDescription(point.name, None, unreadable, point.name, unreadable, origin)
    own = next((d for d in described if d.signature.partition("(")[0] == point.attr), None)
    if own is None:
        return RewardDescription(point.name, None, "(source not found)", point.name, "", origin)
    return replace(own, name=point.name, origin=origin)


def _find_by_name(name: str) -> Any:
    builtins = [(module, d) for module, d in _builtins() if d.name == name]
    points = list(entry_points(group=GROUP, name=name))
    origins = [module for module, _ in builtins] + [_origin(point) for point in points]
    if len(origins) > 1:
        raise PluginError(f"several rewards are named {name!r}: {', '.join(origins)}; write package.module:name")
    if builtins:
        module, description = builtins[0]
        return find_elsewhere(f"{module}:{description.name}", Path(), "reward")
    if points:
        return importing(points[0].load, _origin(points[0]))
    known = sorted({d.name for _, d in _builtins()} | {point.name for point in entry_points(group=GROUP)})
    raise PluginError(
        f"no reward is named {name!r}{nearest(name, known)}. Known: {', '.join(known) or 'none'}. "
        "A reward of your own is named package.module:name or path/file.py:name"
    )


# --- reading without importing ---------------------------------------------------------------------------------------


def _builtins() -> list[tuple[str, RewardDescription]]:
    spec = importlib.util.find_spec("cib_rl.rewards")
    found: list[tuple[str, RewardDescription]] = []
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).glob("*.py")):
            module = f"cib_rl.rewards.{file.stem}"
            found += [(module, description) for description in _describe_file(file, module)]
    return found


def _describe_file(file: Path | None, origin: str) -> list[RewardDescription]:
    """The decorated rewards of one source file, by its syntax tree alone."""
    if file is None:
        return []
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except SyntaxError as error:
        raise PluginError(syntax_message(file, error)) from error
    found = []
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        for name, kind in _declarations(node):
            doc = ast.get_docstring(node) or ""
            summary = doc.strip().split("\n", 1)[0]
            found.append(RewardDescription(name, kind, summary, signature_from_ast(node), doc, origin))
    return found


def _declarations(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> Iterator[tuple[str, Kind]]:
    for decorator in node.decorator_list:
        if not isinstance(decorator, ast.Call) or ast.unparse(decorator.func).rpartition(".")[2] != "reward":
            continue
        given = {keyword.arg: keyword.value for keyword in decorator.keywords}
        name = decorator.args[0] if decorator.args else given.get("name")
        kind = given.get("kind")
        if isinstance(name, ast.Constant) and isinstance(kind, ast.Constant):
            yield str(name.value), "outcome" if kind.value == "outcome" else "shaping"


def _source_of(point: EntryPoint) -> Path | None:
    spec = importlib.util.find_spec(point.module)  # imports parent packages, not the module itself
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _origin(point: EntryPoint) -> str:
    package = point.dist.name if point.dist else "unknown package"
    return f"entry point {point.name} = {point.value} of {package}"
