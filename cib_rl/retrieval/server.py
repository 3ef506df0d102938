"""`cib-rl retriever serve`: an index over HTTP, by the Search-R1 API (`wire.py`)."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, FailFast, Field

from cib_rl.errors import UserError
from cib_rl.recipe import Section
from cib_rl.retrieval.access import read_token
from cib_rl.retrieval.base import RetrievalError, Retriever
from cib_rl.retrieval.batching import Batcher
from cib_rl.retrieval.factory import open_index
from cib_rl.retrieval.guard import Guard
from cib_rl.retrieval.wire import to_wire

GRACE = 10  # seconds that requests under way get when the server is stopped


class ServerSettings(Section):
    """Limits of the server. What is over one gets a status that says which: 408, 413, 422, 503 or 504."""

    default_k: int = Field(3, ge=1, description="documents per query when a request does not say")
    max_queries: int = Field(256, ge=1, description="queries in a request")
    max_k: int = Field(100, ge=1, description="documents per query")
    max_query_chars: int = Field(4096, ge=1, description="characters of a query")
    max_body_bytes: int = Field(4_000_000, ge=1, description="bytes of a request")
    max_pending: int = Field(10_000, ge=1, description="queries that wait")
    timeout: float = Field(30.0, gt=0, description="seconds for a request, and for its body to come")
    batch_size: int = Field(64, ge=1, description="queries searched together")


class RetrieveRequest(BaseModel):
    """The body of `POST /retrieve`."""

    queries: Annotated[list[str], FailFast()]
    topk: int | None = None
    return_scores: bool = False


def make_app(
    retriever: Retriever, documents: int, settings: ServerSettings, *, token: str | None = None, concurrency: int = 1
) -> FastAPI:
    """The ASGI application. Closes `retriever` when it shuts down.

    Args:
        documents: how many the retriever has, shown by /health.
        token: bearer token that /retrieve asks for.
        concurrency: batches searched at once.
    """
    batcher = Batcher(retriever.search, window=0.0, size=settings.batch_size, concurrency=concurrency)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await batcher.close()
        await retriever.close()

    app = FastAPI(title="cib-rl retriever", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, token=token, max_bytes=settings.max_body_bytes, timeout=settings.timeout)

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> JSONResponse:
        """The first mistake, without what was sent: that may be long, or nothing that JSON can hold."""
        first = error.errors()[0]
        return JSONResponse({"detail": [{key: first[key] for key in ("type", "loc", "msg")}]}, 422)

    @app.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok", "documents": documents, "pending": batcher.pending})

    @app.post("/retrieve")
    async def retrieve(request: RetrieveRequest) -> JSONResponse:
        k = settings.default_k if request.topk is None else request.topk
        if problem := _over_limit(request.queries, k, settings):
            raise HTTPException(422, problem)
        if batcher.pending + len(request.queries) > settings.max_pending:
            raise HTTPException(503, f"more than {settings.max_pending:,} queries wait (max_pending)")
        try:
            async with asyncio.timeout(settings.timeout):
                results = await batcher.search(request.queries, k)
        except TimeoutError:
            raise HTTPException(504, f"no result within {settings.timeout:g} s (timeout)") from None
        except RetrievalError as error:
            raise HTTPException(503, str(error)) from error
        return JSONResponse(to_wire(results, scores=request.return_scores))

    return app


def _over_limit(queries: list[str], k: int, settings: ServerSettings) -> str | None:
    """What is wrong with a request, or None."""
    if len(queries) > settings.max_queries:
        return f"{len(queries)} queries; at most {settings.max_queries} in a request (max_queries)"
    if not 1 <= k <= settings.max_k:
        return f"topk is {k}; it must be from 1 to {settings.max_k} (max_k)"
    for place, query in enumerate(queries):
        if len(query) > settings.max_query_chars:
            return (
                f"query {place} has {len(query):,} characters; at most {settings.max_query_chars:,} (max_query_chars)"
            )
    return None


def serve_index(
    index: Path, settings: ServerSettings, host: str, port: int, token_file: Path | None, keys: Mapping[str, Any]
) -> None:
    """Serve `index` until SIGINT or SIGTERM; requests under way are finished first (at most `GRACE` seconds).

    Prints the address once connections are accepted.

    Args:
        keys: of the index's retriever, `path` left out.

    Raises UserError for an index or a token file that cannot be used, and for an address that cannot be listened on.
    """
    token = read_token(token_file) if token_file is not None else None
    retriever = open_index(index, keys)
    listener = _listen(host, port)
    app = make_app(retriever, len(retriever), settings, token=token, concurrency=retriever.concurrency)
    shown = f"[{host}]" if ":" in host else host
    print(
        f"serving {len(retriever):,} documents at http://{shown}:{listener.getsockname()[1]}/retrieve (Ctrl-C stops)",
        flush=True,
    )
    if token is None and host not in ("127.0.0.1", "::1", "localhost"):
        print(f"warning: anyone who reaches {host} may search; --token-file asks for a token", file=sys.stderr)
    # No line per request: printing them slows a busy retriever.
    config = uvicorn.Config(app, access_log=False, log_level="warning", timeout_graceful_shutdown=GRACE)
    signal.signal(signal.SIGTERM, _end)  # uvicorn raises the signal again once all is finished
    uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise UserError(f"cannot listen on {host}, port {port}: {error}; --port takes another one") from error


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(0)
