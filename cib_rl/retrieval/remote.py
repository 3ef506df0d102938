"""A client of a retrieval server that speaks the Search-R1 API (`wire.py`)."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from cib_rl.errors import UserError
from cib_rl.recipe import Section
from cib_rl.retrieval.access import address, read_token
from cib_rl.retrieval.base import Document, RetrievalError, Retriever, encodable
from cib_rl.retrieval.batching import Answer, Batcher
from cib_rl.retrieval.breaker import CircuitBreaker
from cib_rl.retrieval.extra import require
from cib_rl.retrieval.wire import from_wire

LONGEST_BACKOFF = 8.0  # seconds
PASSING = ("refused", "timeout", "not_json", "wrong_shape")  # worth another attempt; so are the statuses below
PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)
OF_A_QUERY = (400, 413, 422, 500)  # statuses that one query of a batch may cause: the others are asked without it


class RemoteSettings(Section):
    """Keys of the retriever `remote`."""

    url: str = Field(description="address of the server; /retrieve is added when it has no path")
    timeout: float = Field(30.0, gt=0, description="seconds for one search, waiting and further attempts included")
    attempt_timeout: float = Field(10.0, gt=0, description="seconds for one request to be answered in full")
    retries: int = Field(2, ge=0, description="further attempts after a failed one")
    backoff: float = Field(0.5, ge=0, description="seconds before the first retry, doubled each time; half is random")
    breaker_failures: int = Field(5, ge=1, description="failed requests in a row after which none is sent for a while")
    breaker_seconds: float = Field(10.0, ge=0, description="that while")
    batch_window: float = Field(0.005, ge=0, description="seconds a query waits for others to share its request")
    batch_size: int = Field(64, ge=1, description="queries in a request")
    concurrency: int = Field(8, ge=1, description="requests at once")
    cache_size: int = Field(10_000, ge=0, description="answers kept, the least recently used go first; 0: none")
    max_answer_bytes: int = Field(32_000_000, ge=1, description="a longer answer to a request is refused")
    token_file: Path | None = Field(None, description="file with the bearer token that the server asks for")


class RemoteRetriever(Retriever):
    """Asks a server. Every failure is a RetrievalError with its reason, and no search outlives `timeout`.

    Connections belong to an event loop; cache and circuit breaker outlive it.
    Raises UserError for an address or a token file that cannot be used.
    """

    def __init__(self, settings: RemoteSettings, base_dir: Path) -> None:
        require("retriever remote", "httpx")
        self.settings = settings
        self.url = address(settings.url)
        self._headers = {"accept-encoding": "identity"}  # what counts against the limit is what was sent
        if settings.token_file is not None:
            self._headers["authorization"] = f"Bearer {read_token(base_dir / settings.token_file.expanduser())}"
        self._breaker = CircuitBreaker(settings.breaker_failures, settings.breaker_seconds)
        self._cache: OrderedDict[tuple[str, int], list[Document]] = OrderedDict()
        self._link: _Link | None = None
        self._closed = False
        self.requests = 0
        self.cache_hits = 0

    async def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        if self._closed:
            raise RetrievalError("closed", "the retriever is closed")
        queries = [encodable(query) for query in queries]
        known = {query: self._recall(query, k) for query in queries}
        missing = [query for query, found in known.items() if found is None]
        if missing:
            try:
                async with asyncio.timeout(self.settings.timeout):
                    answers = await self._connected().batcher.search(missing, k)
            except TimeoutError as error:
                raise RetrievalError(
                    "timeout", f"{self.url}: no answer within {self.settings.timeout:g} s (all attempts)"
                ) from error
            known.update(zip(missing, answers, strict=True))
        return [list(known[query] or ()) for query in queries]

    async def check(self) -> None:
        """Send one query, once. Raises UserError when the server does not answer it as the API says."""
        mend = "start one with `cib-rl retriever serve DIR`, or correct retriever.url"
        try:
            await self._attempt(["test"], 1, min(self.settings.attempt_timeout, self.settings.timeout))
        except RetrievalError as error:
            raise UserError(f"retriever.url: {error}; {mend}") from error

    async def close(self) -> None:
        self._closed = True
        link, self._link = self._link, None
        if link is not None and link.loop is asyncio.get_running_loop():
            await link.batcher.close()
            await link.client.aclose()

    def _recall(self, query: str, k: int) -> list[Document] | None:
        found = self._cache.get((query, k))
        if found is not None:
            self._cache.move_to_end((query, k))
            self.cache_hits += 1
        return found

    def _connected(self) -> _Link:
        """Client and batches of the running loop; those of a loop that ended are dropped."""
        import httpx

        loop = asyncio.get_running_loop()
        if self._link is None or self._link.loop is not loop:
            own = self.settings
            batcher = Batcher(self._request, window=own.batch_window, size=own.batch_size, concurrency=own.concurrency)
            # No proxy from the environment: only the recipe says where queries go.
            # Without TLS there is nothing to verify, and reading the certificates would take longer than a search.
            client = httpx.AsyncClient(
                headers=self._headers,
                timeout=own.attempt_timeout,
                trust_env=False,
                verify=self.url.startswith("https:"),
            )
            self._link = _Link(loop, client, batcher)
        return self._link

    async def _request(self, queries: list[str], k: int) -> list[Answer]:
        """One batch, no longer than `timeout` even when all callers are gone."""
        unique = list(dict.fromkeys(queries))  # the members of a group often ask the same
        found = await self._answers(unique, k, time.monotonic() + self.settings.timeout, self.settings.retries)
        for query, answer in found.items():
            if not isinstance(answer, RetrievalError):
                self._remember(query, k, answer)
        return [found[query] for query in queries]

    async def _answers(self, queries: list[str], k: int, until: float, retries: int) -> dict[str, Answer]:
        """What `queries` find, or why they fail. What the server does not take as a whole is sent in halves, so that a
        query it refuses, or fails over, does so alone and not with those of other episodes."""
        try:
            return dict(zip(queries, await self._tried(queries, k, until, retries), strict=True))
        except RetrievalError as error:
            if len(queries) == 1 or not _of_a_query(error):
                return dict.fromkeys(queries, error)
            if _passing(error):
                retries = 0  # the whole was tried again in vain
        middle = len(queries) // 2
        # Both at once: the half that is answered keeps the circuit breaker closed.
        halves = [self._answers(half, k, until, retries) for half in (queries[:middle], queries[middle:])]
        first, second = await asyncio.gather(*halves)
        return first | second

    async def _tried(self, queries: list[str], k: int, until: float, retries: int) -> list[list[Document]]:
        """Attempts with back-off, as long as `until` (monotonic seconds) allows. Raises the last one's error."""
        for attempt in range(retries + 1):
            try:
                return await self._attempt(queries, k, min(self.settings.attempt_timeout, until - time.monotonic()))
            except RetrievalError as error:
                # Half is random: many clients shall not come back together.
                pause = min(self.settings.backoff * 2**attempt, LONGEST_BACKOFF) * (0.5 + 0.5 * random.random())
                late = time.monotonic() + pause >= until
                if attempt == retries or late or not _passing(error):
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _remember(self, query: str, k: int, documents: list[Document]) -> None:
        if self.settings.cache_size:
            self._cache[query, k] = documents
            self._cache.move_to_end((query, k))
            while len(self._cache) > self.settings.cache_size:
                self._cache.popitem(last=False)

    async def _attempt(self, queries: list[str], k: int, seconds: float) -> list[list[Document]]:
        """One request of at most `seconds`, watched by the circuit breaker."""
        if seconds <= 0:
            raise RetrievalError("timeout", f"{self.url}: no time was left for this query")
        if wait := self._breaker.wait():
            raise RetrievalError(
                "circuit_open", f"{self.url} kept failing; no request goes out for another {wait:.1f} s"
            )
        self._breaker.begin()
        try:
            answers = await self._post(queries, k, seconds)
        except RetrievalError as error:
            # The server's refusal of this very request says nothing about the next.
            (self._breaker.failed if _passing(error) else self._breaker.succeeded)()
            raise
        except BaseException:
            self._breaker.abandoned()
            raise
        self._breaker.succeeded()
        return answers

    async def _post(self, queries: list[str], k: int, seconds: float) -> list[list[Document]]:
        import httpx

        self.requests += 1
        body = {"queries": queries, "topk": k, "return_scores": True}
        try:
            async with (
                asyncio.timeout(seconds),  # httpx limits each read, not the whole
                self._connected().client.stream("POST", self.url, json=body) as response,
            ):
                content = await self._read(response)
                status, encoding = response.status_code, response.headers.get("content-encoding", "identity")
        except (TimeoutError, httpx.TimeoutException) as error:
            raise RetrievalError("timeout", f"{self.url}: no answer within {seconds:.3g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RetrievalError("refused", f"{self.url}: {error or type(error).__name__}") from error
        if status != 200:
            shown = content[:200].decode(errors="replace")
            raise StatusError(status, f"{self.url}: status {status}: {shown}")
        if encoding != "identity":
            raise RetrievalError("not_json", f"{self.url}: the answer is compressed ({encoding}), unasked")
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise RetrievalError("not_json", f"{self.url}: the answer is not JSON ({error})") from error
        try:
            return from_wire(answer, len(queries), k)
        except RetrievalError as error:
            raise RetrievalError(error.reason, f"{self.url}: {error}") from error

    async def _read(self, response: Any) -> bytes:
        content = bytearray()
        async for block in response.aiter_raw():  # as it was sent: what is small may be long when it is unpacked
            content += block
            if len(content) > self.settings.max_answer_bytes:
                limit = self.settings.max_answer_bytes
                raise RetrievalError("too_large", f"{self.url}: the answer is longer than {limit:,} bytes")
        return bytes(content)


class StatusError(RetrievalError):
    """The server answered with a status other than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__("status", message)
        self.status = status


@dataclass
class _Link:
    """What belongs to one event loop."""

    loop: asyncio.AbstractEventLoop
    client: Any
    batcher: Batcher


def _passing(error: RetrievalError) -> bool:
    return error.reason in PASSING or (isinstance(error, StatusError) and error.status in PASSING_STATUS)


def _of_a_query(error: RetrievalError) -> bool:
    return error.reason == "too_large" or (isinstance(error, StatusError) and error.status in OF_A_QUERY)
