"""`cib-rl retriever serve` as a real process, and its limits: the published API, right in both shapes."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest

from cib_rl.errors import UserError
from cib_rl.retrieval.base import Document, Retriever
from cib_rl.retrieval.remote import RemoteRetriever, RemoteSettings
from cib_rl.retrieval.server import ServerSettings, make_app
from tests.retrieval.corpora import ROWS, index_of, opened
from tests.retrieval.processes import LIMIT, served


@pytest.mark.server
@pytest.mark.slow
def test_a_hundred_clients_at_once_get_what_the_index_gives(tmp_path):
    index = index_of(tmp_path, ROWS)
    queries = ["lovelace", "babbage engine", "submarine dived", "zzz"]
    expected = asyncio.run(opened(index).search(queries, 3))

    async def one(url, number):
        """A client of its own, with its own connection, that asks all queries in its own order."""
        retriever = RemoteRetriever(RemoteSettings(url=url, timeout=LIMIT, attempt_timeout=LIMIT, cache_size=0), Path())
        turn = number % len(queries)
        own = queries[turn:] + queries[:turn]
        try:
            await retriever.check()
            found = [(await retriever.search([query], 3))[0] for query in own]
        finally:
            await retriever.close()
        return found[len(queries) - turn :] + found[: len(queries) - turn]

    async def all_clients(url):
        return await asyncio.gather(*(one(url, number) for number in range(100)))

    with served(index) as (url, process):
        answers = asyncio.run(all_clients(url))
        health = httpx.get(f"{url}/health", trust_env=False)
        assert health.json() == {"status": "ok", "documents": 4, "pending": 0}
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0
        assert process.stderr.read() == ""
    assert answers == [expected] * 100


@pytest.mark.server
@pytest.mark.slow
def test_a_stop_lets_the_request_under_way_finish(tmp_path):
    """The request is half sent when the signal comes; the rest of it arrives afterwards and is still answered."""
    body = json.dumps({"queries": ["babbage"], "topk": 1}).encode()
    with served(index_of(tmp_path, ROWS)) as (url, process):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=LIMIT) as half_sent:
            head = (
                f"POST /retrieve HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
            )
            half_sent.sendall(head.encode() + b"\r\n\r\n" + body[:10])
            httpx.get(f"{url}/health", trust_env=False)  # the first connection has been taken by now
            process.send_signal(signal.SIGTERM)
            while True:  # until nobody is let in any more
                try:
                    socket.create_connection((host, int(port)), timeout=LIMIT).close()
                except (ConnectionRefusedError, ConnectionResetError):
                    break
            time.sleep(1)  # uvicorn looks away for the first tenth of a second, grace or not
            half_sent.sendall(body[10:])
            answer = http.client.HTTPResponse(half_sent)
            answer.begin()
            assert json.loads(answer.read())["result"][0][0]["id"] == "b"
        assert process.wait(LIMIT) == 0


@pytest.mark.server
@pytest.mark.slow
def test_a_stop_does_not_wait_for_a_request_that_never_ends(tmp_path):
    with served(index_of(tmp_path, ROWS), "--timeout", 10 * LIMIT) as (url, process):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=LIMIT) as half_sent:
            half_sent.sendall(b"POST /retrieve HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{")
            httpx.get(f"{url}/health", trust_env=False)  # the first connection has been taken by now
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT) == 0


@pytest.mark.server
@pytest.mark.slow
def test_it_listens_on_loopback_asks_for_its_token_and_ctrl_c_is_130(tmp_path):
    (tmp_path / "token").write_text("s3cret")
    with served(index_of(tmp_path, ROWS), "--token-file", tmp_path / "token") as (url, process):
        assert url.startswith("http://127.0.0.1:")
        body = {"queries": ["babbage"]}
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "s3cret"}):
            answer = httpx.post(f"{url}/retrieve", json=body, headers=headers, trust_env=False)
            assert answer.status_code == 401 and "result" not in answer.json()
        right = {"authorization": "Bearer s3cret"}
        assert httpx.post(f"{url}/retrieve", json=body, headers=right, trust_env=False).status_code == 200
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 130


# ---------------------------------------------------------------- the application, in this process


def post(app, body, **keys):
    """Status and content of one request to the application."""

    async def ask():
        async with app.router.lifespan_context(app), client_of(app) as client:
            answer = await client.post("/retrieve", **({"json": body} if body is not None else {}), **keys)
            return answer.status_code, answer.json()

    return asyncio.run(ask())


def client_of(app):
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")


def app_of(tmp_path, **settings):
    retriever = opened(index_of(tmp_path, ROWS))
    return make_app(retriever, len(retriever), ServerSettings(**settings))


def test_with_scores_each_entry_has_document_and_score(tmp_path):
    (found,) = asyncio.run(opened(index_of(tmp_path, ROWS)).search(["babbage"], 1))
    app = make_app(opened(tmp_path / "index"), 4, ServerSettings())
    status, answer = post(app, {"queries": ["babbage", "zzz"], "topk": 1, "return_scores": True})
    contents = f'"Charles Babbage"\n{ROWS[1]["text"]}'
    assert (status, answer) == (
        200,
        {"result": [[{"document": {"id": "b", "contents": contents}, "score": found[0].score}], []]},
    )


def test_without_scores_each_inner_list_holds_documents_only(tmp_path):
    app = app_of(tmp_path)
    status, answer = post(app, {"queries": ["babbage", "lovelace"], "topk": 1, "return_scores": False})
    assert (
        status == 200 and [[set(entry) for entry in found] for found in answer["result"]] == [[{"id", "contents"}]] * 2
    )
    assert [found[0]["id"] for found in answer["result"]] == ["b", "a"]


def test_what_a_request_leaves_out_has_the_published_defaults(tmp_path):
    index_of(tmp_path, ROWS)
    for body, counts in [
        ({"queries": ["engine"]}, [2]),
        ({"queries": ["engine"], "topk": None}, [2]),
        ({"queries": []}, []),
    ]:
        app = make_app(opened(tmp_path / "index"), 4, ServerSettings(default_k=2))
        status, answer = post(app, body)
        assert status == 200 and [len(found) for found in answer["result"]] == counts


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"queries": ["q"] * 5}, 422, "5 queries; at most 4 in a request (max_queries)"),
        ({"queries": ["q"], "topk": 11}, 422, "topk is 11; it must be from 1 to 10 (max_k)"),
        ({"queries": ["q"], "topk": 0}, 422, "topk is 0"),
        ({"queries": ["q", "x" * 51]}, 422, "query 1 has 51 characters; at most 50 (max_query_chars)"),
        ({"queries": "q"}, 422, "list"),
        ({"query": ["q"]}, 422, "queries"),
        ({"queries": [1]}, 422, "string"),
        ({"queries": ["q" * 1000]}, 413, "longer than 500 bytes"),
    ],
)
def test_a_request_over_a_limit_is_refused_with_the_limit(tmp_path, body, status, words):
    app = app_of(tmp_path, max_queries=4, max_k=10, max_query_chars=50, max_body_bytes=500)
    found, answer = post(app, body)
    assert found == status and words in json.dumps(answer)


def test_a_body_of_unknown_length_is_cut_off_at_the_limit(tmp_path):
    read = []

    async def endless():
        for _ in range(1000):
            read.append(1)
            yield b" " * 100

    status, answer = post(app_of(tmp_path, max_body_bytes=500), None, content=endless())
    assert status == 413 and "longer than 500 bytes" in answer["detail"]


def test_a_body_that_does_not_come_is_not_waited_for(tmp_path):
    async def half():
        yield b'{"queries": '
        await asyncio.sleep(LIMIT)

    status, answer = post(app_of(tmp_path, timeout=0.3), None, content=half())
    assert status == 408 and "did not come within 0.3 s" in answer["detail"]


@pytest.mark.parametrize(
    "body",
    [b'{"queries": [' + b"1, " * 50_000 + b"1]}", b'{"queries": [{"a": "\\ud800"}]}', b'{"queries": [], "topk": NaN}'],
)
def test_a_mistake_is_told_in_a_few_words_whatever_was_sent(tmp_path, body):
    status, answer = post(app_of(tmp_path), None, content=body, headers={"content-type": "application/json"})
    assert status == 422 and len(json.dumps(answer)) < 300


def test_bytes_that_are_no_json_are_the_clients_mistake(tmp_path):
    app = app_of(tmp_path)
    for content in (b"{", b"\xff"):
        assert post(app, None, content=content, headers={"content-type": "application/json"})[0] in (400, 422)


class Gated(Retriever):
    """Answers when the gate opens; notes the batches."""

    def __init__(self):
        self.batches, self.gate = [], asyncio.Event()

    async def search(self, queries, k):
        self.batches.append(len(queries))
        await self.gate.wait()
        return [[Document(query, "", "text", 1.0)] for query in queries]


async def undecided(client, running):
    """Requests that are neither answered nor waiting in the server."""
    pending = (await client.get("/health")).json()["pending"]
    return len(running) - pending - sum(task.done() for task in running)


def ask_gated(settings, queries, *, open_gate=True):
    """Send one query per request, all at once; the gate opens once they wait. Statuses and batches."""
    gated = Gated()
    app = make_app(gated, 1, ServerSettings(**settings))

    async def ask():
        async with app.router.lifespan_context(app), client_of(app) as client:

            async def one(query):
                answer = await client.post("/retrieve", json={"queries": [query]})
                if answer.status_code == 200:
                    assert answer.json()["result"][0][0]["id"] == query
                return answer.status_code

            running = [asyncio.create_task(one(query)) for query in queries]
            async with asyncio.timeout(LIMIT):
                while not gated.batches or await undecided(client, running) > gated.batches[0]:
                    await asyncio.sleep(0.01)
                if open_gate:
                    gated.gate.set()
                return await asyncio.gather(*running)

    return asyncio.run(ask()), gated.batches


def test_what_comes_while_a_search_runs_is_searched_together():
    statuses, batches = ask_gated({"batch_size": 16}, [f"q{i}" for i in range(40)])
    assert statuses == [200] * 40
    assert sum(batches) == 40 and max(batches) == 16 and len(batches) <= 5


def test_more_waiting_queries_than_allowed_are_turned_away():
    statuses, _ = ask_gated({"max_pending": 5}, [f"q{i}" for i in range(20)])
    assert set(statuses) == {200, 503} and statuses.count(503) >= 10


def test_a_request_does_not_outlive_its_timeout():
    statuses, _ = ask_gated({"timeout": 0.3}, ["a", "b"], open_gate=False)
    assert statuses == [504, 504]


def test_a_port_that_is_taken_is_a_users_mistake(tmp_path):
    from cib_rl.retrieval.server import serve_index

    index = index_of(tmp_path, ROWS)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"cannot listen on 127.0.0.1, port {port}: .*--port takes another"):
            serve_index(index, ServerSettings(), "127.0.0.1", port, None, {})
