"""Importing what a recipe names: `package.module:name`, or `path/file.py:name` of a file beside the recipe."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from cib_rl.plugin.contract import PluginError, RewardInfo


def is_elsewhere(spec: str) -> bool:
    """Whether a name says where it is found, as against a shipped one's."""
    return ":" in spec or spec.endswith(".py")


def find_elsewhere(spec: str, base_dir: Path, what: str, *, key: str = "") -> Any:
    """The function or class that `spec` names; relative files start at `base_dir`.

    Args:
        what: "reward", "environment", …: what it is called in errors.
        key: of the recipe, named at the beginning of errors.

    Raises:
        PluginError: nothing has that name, or its file cannot be imported.
    """
    try:
        return _find(spec, base_dir, what)
    except PluginError as error:
        if not key:
            raise
        raise PluginError(f"{key}: {error}") from error


def _find(spec: str, base_dir: Path, what: str) -> Any:
    path, _, attribute = spec.rpartition(":")
    if spec.endswith(".py"):
        path, attribute = spec, ""
    if path.endswith(".py"):
        file = (base_dir / Path(path).expanduser()).resolve()
        return _pick(_load_file(file), attribute, str(file), what)
    return _pick(importing(lambda: importlib.import_module(path), path), attribute, path, what)


def nearest(name: str, known: list[str]) -> str:
    """' (did you mean ...?)', or '' when nothing is near."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


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
            importing(lambda: exec(compile(source, str(file), "exec", dont_inherit=True), vars(module)), str(file))
        except PluginError:
            del sys.modules[name]
            raise
    return sys.modules[name]


def importing(load: Callable[[], Any], what: str) -> Any:
    """Run `load`; any exception becomes a PluginError that says where it came from."""
    try:
        return load()
    except SyntaxError as error:
        raise PluginError(syntax_message(error.filename or what, error)) from error
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
        frames = [f for f in frames if f.filename != __file__]  # where the mistake is, not where it was noticed
        at = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        raise PluginError(f"{what} cannot be imported: {type(error).__name__}: {error}{at}") from error


def syntax_message(file: object, error: SyntaxError) -> str:
    return f"{file}:{error.lineno}: syntax error: {error.msg}"


def _pick(module: ModuleType, name: str, where: str, what: str) -> Any:
    """The attribute `name` of a module, or the reward declared under that name; '' is the only reward in it."""
    own = [v for v in vars(module).values() if callable(v) and getattr(v, "__module__", None) == module.__name__]
    declared = {v.__reward__.name: v for v in own if isinstance(getattr(v, "__reward__", None), RewardInfo)}
    if not name and len(declared) == 1:
        return next(iter(declared.values()))
    found = (declared.get(name) or importing(lambda: getattr(module, name, None), where)) if name else None
    if found is None:
        known = sorted(set(declared) | {v.__name__ for v in own if not v.__name__.startswith("_")})
        wanted = f"no {what} {name!r}{nearest(name, known)}" if name else f"more than one {what} or none: add :name"
        raise PluginError(f"{where} has {wanted}; found there: {', '.join(known) or 'nothing callable'}")
    if not callable(found):
        raise PluginError(f"{where}:{name} is a {type(found).__name__}, not a function or class")
    return found
