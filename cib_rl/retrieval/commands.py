"""`cib-rl retriever`: build an index, query it, serve it. Heavy imports stay inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cib_rl.encoders import PACKAGED

if TYPE_CHECKING:
    from cib_rl.retrieval.index_io import Manifest

retriever_app = typer.Typer(
    help="Retrieval: build an index, query it, serve it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

IndexArgument = Annotated[Path, typer.Argument(metavar="DIR", help="An index made by `cib-rl retriever build`.")]


KeysArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Further keys of the retriever, such as search=hnsw (docs/retrieval.md)."
    ),
]
BM25_OPTIONS = ("method", "k1", "b", "stopwords", "stemmer")
DENSE_OPTIONS = (
    "encoder", "query_prefix", "passage_prefix", "normalize", "hnsw", "hnsw_m", "ef_construction", "device",
    "batch_size",
)  # fmt: skip


@retriever_app.command("build")
def build(
    context: typer.Context,
    corpus: Annotated[
        Path, typer.Argument(metavar="CORPUS", help="JSON Lines (.gz too): id, title, text; or id, contents.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The index's folder; must not exist.")],
    kind: Annotated[str, typer.Option(help="bm25 or dense.")] = "bm25",
    method: Annotated[str, typer.Option(help="bm25: variant, lucene, robertson or atire.")] = "lucene",
    k1: Annotated[float, typer.Option(help="bm25: saturation of a word's count.")] = 1.5,
    b: Annotated[float, typer.Option(help="bm25: correction for length, 0 to 1.")] = 0.75,
    stopwords: Annotated[str, typer.Option(help="bm25: language of the words left out (en, de, …), or none.")] = "en",
    stemmer: Annotated[
        str, typer.Option(help="bm25: Snowball language, e.g. english (needs PyStemmer), or none.")
    ] = "none",
    encoder: Annotated[
        str, typer.Option(help="dense: sentence-transformers folder or hub id; the default is in a wheel of that name.")
    ] = PACKAGED,
    query_prefix: Annotated[
        str | None, typer.Option(help="dense: put before each query; default: the encoder's own, or E5's.")
    ] = None,
    passage_prefix: Annotated[
        str | None, typer.Option(help="dense: put before each passage; default: likewise.")
    ] = None,
    normalize: Annotated[bool, typer.Option(help="dense: vectors of length 1, scores are cosines.")] = True,
    hnsw: Annotated[bool, typer.Option("--hnsw", help="dense: also build an HNSW graph (needs faiss-cpu).")] = False,
    hnsw_m: Annotated[int, typer.Option(help="dense: neighbours of a vector in the graph.")] = 32,
    ef_construction: Annotated[int, typer.Option(help="dense: candidates when a vector joins the graph.")] = 200,
    device: Annotated[
        str, typer.Option(help="dense: where passages are encoded; auto: a GPU if there is one.")
    ] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="dense: passages encoded at once.")] = 64,
) -> None:
    """Build an index of a corpus: BM25, or vectors of a sentence encoder.

    The folder appears only when it is whole.
    """
    from cib_rl.errors import UserError
    from cib_rl.recipe_problems import validated

    if kind not in ("bm25", "dense"):
        raise UserError(f"--kind {kind}: must be bm25 or dense")
    given = [
        name
        for name in (*BM25_OPTIONS, *DENSE_OPTIONS)
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    ]
    for name in given:
        if name in (DENSE_OPTIONS if kind == "bm25" else BM25_OPTIONS):
            raise UserError(f"--{name.replace('_', '-')} is no option of --kind {kind}")
        if name in ("hnsw_m", "ef_construction") and not hnsw:
            raise UserError(f"--{name.replace('_', '-')} is for a graph: give --hnsw too")
    manifest: Manifest
    if kind == "bm25":
        from cib_rl.retrieval.build import build_index
        from cib_rl.retrieval.words import IndexSettings

        keys = {"method": method, "k1": k1, "b": b, "stopwords": stopwords, "stemmer": stemmer}
        manifest = build_index(corpus, out, validated(IndexSettings, keys, "retriever build"))
    else:
        from cib_rl.retrieval.dense_build import build_dense_index
        from cib_rl.retrieval.encoder import EncoderSettings
        from cib_rl.retrieval.hnsw import HNSWSettings

        own = {
            "encoder": encoder, "query_prefix": query_prefix, "passage_prefix": passage_prefix, "normalize": normalize,
        }  # fmt: skip
        graph = {"m": hnsw_m, "ef_construction": ef_construction}
        manifest = build_dense_index(
            corpus,
            out,
            validated(EncoderSettings, own, "retriever build"),
            validated(HNSWSettings, graph, "retriever build") if hnsw else None,
            device=device,
            batch_size=batch_size,
        )
    size = sum(entry.bytes for entry in manifest.files.values())
    print(f"{manifest.documents:,} documents, {size / 1e6:,.1f} MB: {out}")


@retriever_app.command("query")
def query(
    index: IndexArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to search for.")],
    keys: KeysArgument = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Documents shown.")] = 3,
) -> None:
    """Search an index and show the best documents."""
    import asyncio

    from rich.console import Console
    from rich.text import Text

    from cib_rl.retrieval.base import Document
    from cib_rl.retrieval.factory import open_index

    async def search() -> list[Document]:
        retriever = open_index(index, {"verify": False, **_parsed(keys)})
        try:
            return (await retriever.search([text], k))[0]
        finally:
            await retriever.close()

    console = Console(emoji=False)
    found = asyncio.run(search())
    for rank, document in enumerate(found, 1):
        head = Text(f"{rank}. ").append(document.title or "(no title)", style="bold")
        console.print(head.append(f"  {document.score:.3f}  {document.id}", style="dim"))
        console.print(Text(document.text + "\n"))
    if not found:
        console.print("no document holds a word of this query")


@retriever_app.command("serve")
def serve(
    index: IndexArgument,
    keys: KeysArgument = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    token_file: Annotated[Path | None, typer.Option(help="File with a bearer token that clients must send.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Searches that run at once (bm25; default 1).")] = None,
    default_k: Annotated[int, typer.Option(min=1, help="Documents per query when a request does not say.")] = 3,
    max_queries: Annotated[int, typer.Option(min=1, help="Queries in a request, at most.")] = 256,
    max_k: Annotated[int, typer.Option(min=1, help="Documents per query, at most.")] = 100,
    max_query_chars: Annotated[int, typer.Option(min=1, help="Characters of a query, at most.")] = 4096,
    max_pending: Annotated[
        int, typer.Option(min=1, help="Queries that may wait; beyond it requests get 503.")
    ] = 10_000,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds for a request; beyond it it gets 504.")] = 30.0,
) -> None:
    """Serve an index over the Search-R1 API.

    POST /retrieve and GET /health, until interrupted; requests under way are finished first.
    """
    from cib_rl.recipe_problems import validated
    from cib_rl.retrieval.extra import require

    require("`cib-rl retriever serve`", "fastapi", "uvicorn", "httpx")
    from cib_rl.retrieval.server import ServerSettings, serve_index

    limits = {
        "default_k": default_k, "max_queries": max_queries, "max_k": max_k, "max_query_chars": max_query_chars,
        "max_pending": max_pending, "timeout": timeout,
    }  # fmt: skip
    own = _parsed(keys) | ({} if threads is None else {"threads": threads})
    serve_index(index, validated(ServerSettings, limits, "retriever serve"), host, port, token_file, own)


def _parsed(keys: list[str] | None) -> dict[str, Any]:
    from cib_rl.overrides import parse_assignment

    return dict(parse_assignment(text, "retriever") for text in keys or ())
