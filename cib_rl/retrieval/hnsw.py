"""Approximate nearest neighbours: faiss's HNSW graph (Malkov and Yashunin 2018) over fp16 vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from cib_rl.errors import UserError
from cib_rl.progress import RunProgress
from cib_rl.recipe import Section
from cib_rl.retrieval.exact import Found, ranked
from cib_rl.retrieval.extra import require
from cib_rl.retrieval.index_io import AGAIN

GRAPH = "hnsw.faiss"
ADDED = 20_000  # vectors given to faiss at once


class HNSWSettings(Section):
    """How the graph is built."""

    m: int = Field(32, ge=2, le=256, description="neighbours of a vector in the graph")
    ef_construction: int = Field(200, ge=1, description="candidates looked at when a vector is added")


def build_graph(folder: Path, vectors_ND: np.ndarray, settings: HNSWSettings, progress: RunProgress) -> None:
    """Build the graph of `vectors_ND` (N, D; float16) and write it into `folder`.

    In memory it takes 2 D + 8 m bytes a vector, a little more while it grows.
    """
    require("an HNSW graph", "faiss")
    import faiss

    index = faiss.IndexHNSWSQ(
        vectors_ND.shape[1], faiss.ScalarQuantizer.QT_fp16, settings.m, faiss.METRIC_INNER_PRODUCT
    )
    index.hnsw.efConstruction = settings.ef_construction
    with progress.track("linking vectors (HNSW)", len(vectors_ND)) as bar:
        for start in range(0, len(vectors_ND), ADDED):
            index.add(vectors_ND[start : start + ADDED].astype(np.float32))
            bar.update(index.ntotal)
    faiss.write_index(index, str(folder / GRAPH))


class HNSWSearch:
    """Searches the graph; what it finds is scored and ranked as `ExactSearch` does it.

    Args:
        ef_search: candidates kept during a search: more find more and take longer.

    Raises UserError when there is no graph, or faiss cannot read it.
    """

    def __init__(self, folder: Path, vectors_ND: np.ndarray, ef_search: int) -> None:
        require("retriever.search hnsw", "faiss")
        import faiss

        if not (folder / GRAPH).is_file():
            raise UserError(f"{folder} has no HNSW graph: build it with --hnsw, or set `search: exact`")
        try:
            self._index = faiss.read_index(str(folder / GRAPH), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise UserError(f"{folder / GRAPH}: faiss {faiss.__version__} cannot read it: {error}; {AGAIN}") from error
        self._vectors_ND, self._ef_search = vectors_ND, ef_search

    def search(self, query_QD: np.ndarray, k: int) -> list[Found]:
        """About the best `k` for each query. `query_QD` is float32 (Q, D)."""
        import faiss

        k = min(k, len(self._vectors_ND))
        keys = faiss.SearchParametersHNSW(efSearch=max(self._ef_search, k))
        _, number_QK = self._index.search(query_QD, k, params=keys)
        return [
            ranked(query_D, numbers[numbers >= 0], self._vectors_ND, k)  # -1: nothing found at this place
            for query_D, numbers in zip(query_QD, number_QK, strict=True)
        ]
