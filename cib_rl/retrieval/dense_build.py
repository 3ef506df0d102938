"""Builds a dense index: all rows are read and checked first, because encoding them takes long; then their vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cib_rl.errors import UserError
from cib_rl.progress import RunProgress
from cib_rl.retrieval.corpus_store import store_documents
from cib_rl.retrieval.dense import VECTORS, DenseManifest
from cib_rl.retrieval.documents import DocumentStore
from cib_rl.retrieval.encoder import Encoder, EncoderSettings, first_device
from cib_rl.retrieval.extra import require
from cib_rl.retrieval.hnsw import HNSWSettings, build_graph
from cib_rl.retrieval.index_io import new_index_folder, write_manifest

CHUNK = 4096  # passages encoded in one call, which sorts them by length


def build_dense_index(
    corpus: Path,
    out: Path,
    settings: EncoderSettings,
    hnsw: HNSWSettings | None = None,
    *,
    device: str = "auto",
    batch_size: int = 64,
    progress: RunProgress | None = None,
) -> DenseManifest:
    """Build the dense index of `corpus` (JSON Lines, may be .gz) in the new folder `out`, and return its manifest.

    Says on standard output which encoder and prefixes it takes before it begins. Memory: that of the encoder, and of
    the graph if there is one; documents and vectors go to disk as they come.

    Raises UserError that names file and line for rows that are broken, empty or have an id that stood before, and the
    document whose vector is not finite.
    """
    require("building a dense index", "sentence_transformers", *(["faiss"] if hnsw else []))
    import sentence_transformers

    progress = progress or RunProgress()
    encoder = Encoder(settings, first_device() if device == "auto" else device)
    progress.console.print(encoder.described(), markup=False, highlight=False, soft_wrap=True)
    with new_index_folder(out) as folder:
        entry, documents = store_documents(corpus, folder, progress)
        max_norm = _write_vectors(folder, encoder, batch_size, progress)
        if hnsw is not None:
            build_graph(folder, np.load(folder / VECTORS, mmap_mode="r"), hnsw, progress)
        manifest = DenseManifest.of(
            folder,
            settings=encoder.settings.model_dump(),
            documents=documents,
            corpus=entry,
            dimension=encoder.dimension,
            max_norm=max_norm,
            hnsw=hnsw,
            sentence_transformers_version=sentence_transformers.__version__,
        )
        write_manifest(folder, manifest)
    return manifest


def _write_vectors(folder: Path, encoder: Encoder, batch_size: int, progress: RunProgress) -> float:
    """Encode the documents in `folder`; returns the length of the longest vector."""
    store = DocumentStore(folder)
    longest = 0.0
    header = {"descr": "<f2", "fortran_order": False, "shape": (len(store), encoder.dimension)}
    with (folder / VECTORS).open("wb") as file, progress.track("encoding passages", len(store)) as bar:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(store), CHUNK):
            documents = [store.get(i) for i in range(start, min(start + CHUNK, len(store)))]
            vectors_ND = encoder.passages([document.contents for document in documents], batch_size)
            with np.errstate(over="ignore"):  # looked at in the next line
                half_ND = vectors_ND.astype("<f2")
            wrong = np.flatnonzero(~np.isfinite(half_ND).all(axis=1))
            if len(wrong):
                raise UserError(
                    f"encoder {encoder.settings.encoder}: the vector of document {documents[wrong[0]].id!r} is not "
                    "finite in fp16 (above 65,504, or not a number)"
                )
            file.write(half_ND.tobytes())
            longest = max(longest, float(np.linalg.norm(half_ND.astype(np.float64), axis=1).max()))
            bar.update(start + len(documents))
    store.close()
    return longest
