"""Dense retrieval over an index on disk: a sentence encoder, fp16 vectors, exact search or an HNSW graph."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from cib_rl.errors import UserError
from cib_rl.recipe import Section
from cib_rl.recipe_problems import validated
from cib_rl.retrieval.base import Document
from cib_rl.retrieval.encoder import Encoder, EncoderSettings, first_device
from cib_rl.retrieval.exact import ExactSearch
from cib_rl.retrieval.extra import require
from cib_rl.retrieval.hnsw import HNSWSearch, HNSWSettings
from cib_rl.retrieval.index_io import Manifest, read_manifest
from cib_rl.retrieval.local import LocalRetriever

VECTORS = "vectors.npy"
SAME_ENCODER = 0.99  # cosine of a passage encoded at the build and now; other precisions and devices stay above


class DenseManifest(Manifest):
    """The manifest of a dense index. `max_norm`: length of the longest vector; `hnsw`: None without a graph."""

    KIND: ClassVar[str] = "dense"
    VERSION: ClassVar[int] = 1
    dimension: int
    max_norm: float
    hnsw: HNSWSettings | None
    sentence_transformers_version: str


class DenseSettings(Section):
    """Keys of the retriever `dense`."""

    path: Path = Field(description="folder made by `cib-rl retriever build --kind dense`")
    verify: bool = Field(True, description="compare the index's checksums when it is opened (reads all of it once)")
    search: Literal["exact", "hnsw"] = Field("exact", description="all vectors, or the graph (built with --hnsw)")
    ef_search: int = Field(64, ge=1, description="hnsw: candidates of a search; more find more and take longer")
    encoder: str | None = Field(None, description="where the index's encoder lies now; default: where it lay")
    devices: list[str] = Field(
        default_factory=list,
        description="of torch, e.g. [cuda:0, cuda:1]: exact search splits the vectors over them, the first one "
        "encodes; default: the first GPU where there is one",
    )
    block: int = Field(65_536, ge=1, description="exact: vectors scored at once, bounds the memory of a search")
    resident: bool = Field(
        True, description="exact: keep the vectors on the GPU; false: copy each block for each search"
    )


class DenseRetriever(LocalRetriever):
    """Scores are dot products (cosines where vectors are normalised) of the query with the stored fp16 vectors.

    Raises UserError when the index is missing, damaged or of another version, or the encoder is not the index's.
    """

    def __init__(self, settings: DenseSettings, base_dir: Path) -> None:
        require("retriever dense", "sentence_transformers")
        folder = base_dir / settings.path.expanduser()
        self.manifest = read_manifest(folder, DenseManifest, verify=settings.verify)
        own = validated(EncoderSettings, self.manifest.settings, f"{folder}/manifest.json")
        if settings.encoder is not None:
            beside = base_dir / Path(settings.encoder).expanduser()
            own = own.model_copy(update={"encoder": str(beside) if beside.is_dir() else settings.encoder})
        devices = settings.devices or [first_device()]
        # Copy on write, never written: torch takes no read-only memory.
        vectors_ND = np.asarray(np.load(folder / VECTORS, mmap_mode="c", allow_pickle=False))
        if vectors_ND.shape != (self.manifest.documents, self.manifest.dimension) or vectors_ND.dtype != np.float16:
            raise UserError(f"{folder / VECTORS} does not hold what the manifest says")
        self._encoder = Encoder(own, devices[0])
        self._index = self._searcher(settings, folder, vectors_ND, devices)
        super().__init__(folder, threads=1)  # a tokenizer is not for two threads at once
        self._compare(vectors_ND[0], own.encoder)

    def _searcher(
        self, settings: DenseSettings, folder: Path, vectors_ND: np.ndarray, devices: list[str]
    ) -> ExactSearch | HNSWSearch:
        if settings.search == "hnsw":
            return HNSWSearch(folder, vectors_ND, settings.ef_search)
        return ExactSearch(vectors_ND, self.manifest.max_norm, devices, settings.block, resident=settings.resident)

    def _compare(self, stored_D: np.ndarray, encoder: str) -> None:
        """Encode the first passage again: its vector must be the stored one."""
        (now_D,) = self._encoder.passages([self._documents.get(0).contents])
        fits = now_D.shape == stored_D.shape
        cosine = _cosine(now_D, stored_D) if fits else 0.0
        if cosine < SAME_ENCODER:
            seen = f"gives its first passage another vector (cosine {cosine:.3f})" if fits else "has another dimension"
            raise UserError(
                f"retriever.encoder: the index was not built with {encoder}, which {seen}; name the encoder it was "
                "built with, or build the index again"
            )

    def _search(self, queries: list[str], k: int) -> list[list[Document]]:
        get = self._documents.get
        return [
            [get(number, score) for number, score in zip(numbers.tolist(), scores.tolist(), strict=True)]
            for numbers, scores in self._index.search(self._encoder.queries(queries), k)
        ]


def _cosine(a_D: np.ndarray, b_D: np.ndarray) -> float:
    a_D, b_D = a_D.astype(np.float64), b_D.astype(np.float64)
    return float(a_D @ b_D / max(np.linalg.norm(a_D) * np.linalg.norm(b_D), 1e-30))
