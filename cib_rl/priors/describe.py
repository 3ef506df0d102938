"""What the command line and the catalogue show of the built-in priors, read from their source without importing it."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

from cib_rl.plugin import RewardDescription
from cib_rl.plugin.signature import signature_from_ast
from cib_rl.priors import BUILT_IN


def describe_priors() -> list[RewardDescription]:
    """Name, keys and documentation of every built-in prior, in the order of `BUILT_IN`."""
    return [_describe(name, *target.split(":")) for name, target in BUILT_IN.items()]


def _describe(name: str, module: str, attribute: str) -> RewardDescription:
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == attribute)
    doc = ast.get_docstring(node) or ""
    signature = name + signature_from_ast(node).removeprefix(attribute)
    return RewardDescription(name, "prior of surprisal", doc.partition("\n")[0], signature, doc, module)
