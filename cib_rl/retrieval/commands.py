"""`cib-rl retriever`: build an index, query it, serve it. Heavy imports stay inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

retriever_app = typer.Typer(
    help="Retrieval: build an index, query it, serve it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

IndexArgument = Annotated[Path, typer.Argument(metavar="DIR", help="An index made by `cib-rl retriever build`.")]


@retriever_app.command("build")
def build(
    corpus: Annotated[
        Path, typer.Argument(metavar="CORPUS", help="JSON Lines (.gz too): id, title, text; or id, contents.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The index's folder; must not exist.")],
    method: Annotated[str, typer.Option(help="Variant of BM25: lucene, robertson or atire.")] = "lucene",
    k1: Annotated[float, typer.Option(help="Saturation of a word's count.")] = 1.5,
    b: Annotated[float, typer.Option(help="Correction for length, 0 to 1.")] = 0.75,
    stopwords: Annotated[str, typer.Option(help="Language of the words left out (en, de, …), or none.")] = "en",
    stemmer: Annotated[str, typer.Option(help="Snowball language, e.g. english (needs PyStemmer), or none.")] = "none",
) -> None:
    """Build a BM25 index of a corpus.

    The folder appears only when it is whole.
    """
    from cib_rl.retrieval.build import build_index
    from cib_rl.retrieval.factory import validated
    from cib_rl.retrieval.words import IndexSettings

    keys = {"method": method, "k1": k1, "b": b, "stopwords": stopwords, "stemmer": stemmer}
    manifest = build_index(corpus, out, validated(IndexSettings, keys, "retriever build"))
    size = sum(entry.bytes for entry in manifest.files.values())
    print(f"{manifest.documents:,} documents, {size / 1e6:,.1f} MB: {out}")


@retriever_app.command("query")
def query(
    index: IndexArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to search for.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Documents shown.")] = 3,
) -> None:
    """Search an index and show the best documents."""
    import asyncio

    from rich.console import Console
    from rich.text import Text

    from cib_rl.retrieval.base import Document
    from cib_rl.retrieval.factory import make_retriever

    async def search() -> list[Document]:
        retriever = make_retriever("bm25", {"path": index, "verify": False}, Path())
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
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    token_file: Annotated[Path | None, typer.Option(help="File with a bearer token that clients must send.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Searches that run at once.")] = 1,
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
    from cib_rl.retrieval.extra import require
    from cib_rl.retrieval.factory import validated

    require("`cib-rl retriever serve`", "bm25s", "fastapi", "uvicorn", "httpx")
    from cib_rl.retrieval.server import ServerSettings, serve_index

    keys = {
        "default_k": default_k, "max_queries": max_queries, "max_k": max_k, "max_query_chars": max_query_chars,
        "max_pending": max_pending, "timeout": timeout,
    }  # fmt: skip
    serve_index(index, validated(ServerSettings, keys, "retriever serve"), host, port, token_file, threads)
