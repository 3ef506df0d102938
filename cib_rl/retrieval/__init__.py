"""Retrieval: queries in, ranked documents out.

`base.py` is the contract and `factory.py` makes what a recipe names; `bm25.py` searches an index made by `build.py`;
`remote.py` asks a server that speaks the Search-R1 API, and `server.py` is one. Only the light parts are imported here,
because the command line passes through.
"""

from cib_rl.retrieval.base import Document, RetrievalError, Retriever

__all__ = ["Document", "RetrievalError", "Retriever"]
