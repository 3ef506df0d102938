"""Reading a list of strategic grams: from a file, or as it stands in a recipe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cib_rl.errors import UserError
from cib_rl.grams.match import words

VERSION = 1
SHIPPED = "shipped"
_SHIPPED_FILE = Path(__file__).parents[1] / "data" / "grams" / "general.json"


class Gram(BaseModel):
    """One phrase; what else a file says about it is kept."""

    model_config = ConfigDict(extra="allow")
    gram: str


class GramFile(BaseModel):
    """A JSON file of grams, and how they were found."""

    model_config = ConfigDict(extra="forbid")
    version: Literal[1]
    settings: dict[str, Any] = Field(default_factory=dict)
    grams: list[Gram]


def load_grams(grams: str | Path | Sequence[str], base_dir: Path = Path()) -> list[str]:
    """The phrases, each once, in order.

    Args:
        grams: the phrases themselves, or a file: JSON (`{"version": 1, "grams": [{"gram": "let's try"}, …]}`), or text
            with one phrase per line, where lines that start with # are comments; `shipped`: the package's own list of
            general planning phrases.
        base_dir: relative paths start here.

    Raises:
        UserError: the file is missing or cannot be read as grams, its version is another, a phrase holds no word, or
            there is no phrase at all; names file, line or entry.
    """
    if not isinstance(grams, str | Path):
        return _checked([(f"entry {number}", gram) for number, gram in enumerate(grams)], "grams")
    file = _file(grams, base_dir)
    if file.suffix == ".json":
        return _checked([(f"entry {n}", entry.gram) for n, entry in enumerate(read_grams(file).grams)], str(file))
    lines = [(f"line {n}", line.strip()) for n, line in enumerate(_text(file).splitlines(), start=1)]
    return _checked([(where, line) for where, line in lines if line and not line.startswith("#")], str(file))


def read_grams(file: str | Path) -> GramFile:
    """A JSON file of grams (or `shipped`), with all that it says of them. Raises UserError as `load_grams` does."""
    path = _file(file)
    return _parsed(_text(path), path)


def _file(grams: str | Path, base_dir: Path = Path()) -> Path:
    return _SHIPPED_FILE if str(grams) == SHIPPED else base_dir / Path(grams).expanduser()


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"grams: cannot read {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"grams: {file} is not UTF-8 text (byte {error.start})") from error


def _parsed(text: str, file: Path) -> GramFile:
    if not text.strip():
        raise UserError(f"grams: {file} is empty")
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"grams: {file} is not JSON: {error}") from error
    version = content.get("version") if isinstance(content, dict) else None
    if version is not None and version != VERSION:
        raise UserError(f"grams: {file} has version {version!r}; this cib-rl reads version {VERSION}")
    try:
        return GramFile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(f"grams: {file}: {where}: {first['msg']}") from error


def _checked(found: Sequence[tuple[str, str]], source: str) -> list[str]:
    for where, gram in found:
        if not any(word[0].isalnum() for word, _, _ in words(gram)):
            raise UserError(f"{source}: {where}: {gram!r} holds no word")
    if not found:
        raise UserError(f"{source}: no gram in it")
    return list(dict.fromkeys(gram for _, gram in found))
