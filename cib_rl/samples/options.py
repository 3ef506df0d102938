"""Options of the command line that stand for sections of a recipe."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cib_rl.errors import UserError
from cib_rl.overrides import apply_override, as_pairs
from cib_rl.yaml_lines import parse_scalar


def as_mapping(assignments: Iterable[str] | None, option: str) -> dict[str, Any]:
    """`key=value` and `key.below=value`, with values in YAML, as one mapping. Raises UserError naming `option`."""
    made: dict[str, Any] = {}
    for key, value, origin in as_pairs(list(assignments or []), option):
        apply_override(made, key, value, origin)
    return made


def as_spec(text: str) -> str | dict[str, Any]:
    """A reward by name, or by a section in YAML: `{name: l1_max, target: 300}`. Raises UserError."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        section = parse_scalar(text)
    except ValueError as error:
        raise UserError(f"{text}: not valid YAML: {error}") from None
    if not isinstance(section, dict) or "name" not in section:
        raise UserError(f"{text}: a reward's section needs a name, e.g. {{name: l1_max, target: 300}}")
    return section


def as_prior(text: str) -> dict[str, Any]:
    """A prior in YAML, the name of a built-in one, or the language model that is one. Raises UserError."""
    from cib_rl.priors import BUILT_IN

    if text.lstrip().startswith("{"):
        spec = as_spec(text)
        assert isinstance(spec, dict)
        return spec
    own = ":" in text and not text.startswith("shipped:")  # package.module:Class or path/file.py:Class
    return {"name": text} if own or text in BUILT_IN else {"name": "language_model", "model": text}
