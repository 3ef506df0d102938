"""The retriever a recipe asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cib_rl.errors import UserError
from cib_rl.plugin.importing import find_elsewhere, is_elsewhere, nearest
from cib_rl.recipe_problems import validated
from cib_rl.retrieval.base import Retriever
from cib_rl.retrieval.index_io import index_kind
from cib_rl.retrieval.local import LocalRetriever

BUILT_IN = ("bm25", "dense", "remote", "empty")


def make_retriever(name: str, keys: Mapping[str, Any], base_dir: Path) -> Retriever:
    """The retriever `name`: `bm25`, `dense`, `remote`, `empty`, `package.module:Class` or `path/file.py:Class`.

    Args:
        keys: its settings (`BM25Settings`, `DenseSettings`, `RemoteSettings`, or keyword arguments of the class).
        base_dir: relative paths among the settings start here.

    Raises UserError when it cannot be found, imported or made, or does not know a key.
    """
    if name == "bm25":
        from cib_rl.retrieval.bm25 import BM25Retriever, BM25Settings

        return BM25Retriever(validated(BM25Settings, dict(keys), "retriever"), base_dir)
    if name == "dense":
        from cib_rl.retrieval.dense import DenseRetriever, DenseSettings

        return DenseRetriever(validated(DenseSettings, dict(keys), "retriever"), base_dir)
    if name == "remote":
        from cib_rl.retrieval.remote import RemoteRetriever, RemoteSettings

        return RemoteRetriever(validated(RemoteSettings, dict(keys), "retriever"), base_dir)
    if name == "empty":
        from cib_rl.retrieval.empty import EmptyRetriever, EmptySettings

        validated(EmptySettings, dict(keys), "retriever")
        return EmptyRetriever()
    if not is_elsewhere(name):
        raise UserError(
            f"retriever.name: unknown {name!r}{nearest(name, list(BUILT_IN))}; known: {', '.join(BUILT_IN)}, "
            "package.module:Class or path/file.py:Class"
        )
    factory = find_elsewhere(name, base_dir, "retriever", key="retriever.name")
    try:
        retriever: Retriever = factory(base_dir=base_dir, **keys)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"retriever {name!r} cannot be built: {type(error).__name__}: {error}") from error
    return retriever


def open_index(folder: Path, keys: Mapping[str, Any]) -> LocalRetriever:
    """The retriever of the index in `folder`, whichever kind it is, with further `keys`."""
    retriever = make_retriever(index_kind(folder), {**keys, "path": folder}, Path())
    assert isinstance(retriever, LocalRetriever)
    return retriever
