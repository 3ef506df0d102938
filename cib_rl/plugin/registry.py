"""Finding rewards: built-in names, entry points, `package.module:name` and `path/file.py:name`.

Every module of `cib_rl.rewards` is a plugin file; its rewards are found by reading its source, so that listing them
imports nothing. Nothing is registered anywhere: each process finds what it needs.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from cib_rl.plugin.contract import Kind, PluginError, RewardInfo
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
    path, _, attribute = spec.rpartition(":")
    if spec.endswith(".py"):
        path, attribute = spec, ""
    if path.endswith(".py"):
        file = (base_dir / Path(path).expanduser()).resolve()
        return _pick(_load_file(file), attribute, str(file))
    if path:
        return _pick(_load_module(path), attribute, path)
    return _find_by_name(spec)


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
        return _pick(_load_module(module), description.name, module)
    if points:
        return _load_entry_point(points[0])
    known = sorted({d.name for _, d in _builtins()} | {point.name for point in entry_points(group=GROUP)})
    raise PluginError(
        f"no reward is named {name!r}{nearest(name, known)}. Known: {', '.join(known) or 'none'}. "
        "A reward of your own is named package.module:name or path/file.py:name"
    )


def nearest(name: str, known: list[str]) -> str:
    """' (did you mean ...?)', or '' when nothing is near."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


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
        raise PluginError(_syntax_message(file, error)) from error
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


# --- importing -------------------------------------------------------------------------------------------------------


def _load_file(file: Path) -> ModuleType:
    """The module of a plugin file: one module, and so one state, for all its rewards; a new one when it has changed."""
    if not file.is_file():
        raise PluginError(f"no plugin file {file}")
    source = file.read_bytes()
    digest = hashlib.sha256(str(file).encode() + b"\0" + source).hexdigest()[:16]
    name = f"cib_rl_plugin_{file.stem}_{digest}"
    if name not in sys.modules:
        module = ModuleType(name)
        module.__file__ = str(file)
        sys.modules[name] = module  # before it runs: dataclasses look their module up
        try:
            # dont_inherit: this file's own `from __future__` must not change how the plugin is compiled.
            _importing(lambda: exec(compile(source, str(file), "exec", dont_inherit=True), vars(module)), str(file))
        except PluginError:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _load_module(name: str) -> ModuleType:
    return _importing(lambda: importlib.import_module(name), name)


def _load_entry_point(point: EntryPoint) -> Any:
    return _importing(point.load, _origin(point))


def _importing(load: Callable[[], Any], what: str) -> Any:
    """Run `load`; any exception becomes a PluginError that says where it came from."""
    try:
        return load()
    except SyntaxError as error:
        raise PluginError(_syntax_message(error.filename or what, error)) from error
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
        frames = [f for f in frames if f.filename != __file__]  # where the mistake is, not where it was noticed
        at = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        raise PluginError(f"{what} cannot be imported: {type(error).__name__}: {error}{at}") from error


def _syntax_message(file: object, error: SyntaxError) -> str:
    return f"{file}:{error.lineno}: syntax error: {error.msg}"


def _origin(point: EntryPoint) -> str:
    package = point.dist.name if point.dist else "unknown package"
    return f"entry point {point.name} = {point.value} of {package}"


def _pick(module: ModuleType, name: str, where: str) -> Any:
    """The attribute `name` of a module, or the reward declared under that name; '' is the only reward in it."""
    own = [v for v in vars(module).values() if callable(v) and getattr(v, "__module__", None) == module.__name__]
    declared = {v.__reward__.name: v for v in own if isinstance(getattr(v, "__reward__", None), RewardInfo)}
    if not name and len(declared) == 1:
        return next(iter(declared.values()))
    found = (declared.get(name) or _importing(lambda: getattr(module, name, None), where)) if name else None
    if found is None:
        known = sorted(set(declared) | {v.__name__ for v in own if not v.__name__.startswith("_")})
        wanted = f"no reward {name!r}{nearest(name, known)}" if name else "more than one reward or none: add :name"
        raise PluginError(f"{where} has {wanted}; found there: {', '.join(known) or 'nothing callable'}")
    if not callable(found):
        raise PluginError(f"{where}:{name} is a {type(found).__name__}, not a function or class")
    return found
