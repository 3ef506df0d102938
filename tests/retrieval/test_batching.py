"""Batches of queries that callers share: closing at any moment leaves nobody waiting, one query may fail alone."""

from __future__ import annotations

import asyncio

import pytest

from cib_rl.retrieval.base import Document, RetrievalError
from cib_rl.retrieval.batching import Batcher

LIMIT = 60  # seconds; what hangs does not come back at all


@pytest.mark.parametrize("window", [0.0, 0.001])
def test_closing_at_any_moment_answers_every_caller(window):
    """The loop's turns at which it is closed go through all states: waiting, taken but not begun, under way."""

    async def searching(queries, k):
        await asyncio.Event().wait()

    async def play(turns):
        batcher = Batcher(searching, window=window, size=2, concurrency=1)
        callers = [asyncio.create_task(batcher.search([name], 1)) for name in "abc"]
        for _ in range(turns):
            await asyncio.sleep(0 if window == 0 else 0.0005)
        await batcher.close()
        async with asyncio.timeout(LIMIT):
            return await asyncio.gather(*callers, return_exceptions=True)

    for turns in range(1, 10):
        errors = asyncio.run(play(turns))
        assert [error.reason for error in errors] == ["closed"] * 3, turns


def test_a_query_may_fail_alone():
    async def searching(queries, k):
        return [RetrievalError("status", "no") if query == "bad" else [Document(query, "", "x")] for query in queries]

    async def play():
        batcher = Batcher(searching, window=0.0, size=8, concurrency=1)
        return await asyncio.gather(*(batcher.search([q], 1) for q in ("a", "bad", "b")), return_exceptions=True)

    first, bad, second = asyncio.run(play())
    assert (first[0][0].id, bad.reason, second[0][0].id) == ("a", "status", "b")
