"""The client of the retrieval API: both answer shapes, batches, cache, every fault a clear error in bounded time."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import socket
import threading
from pathlib import Path

import pytest

from cib_rl.errors import UserError
from cib_rl.retrieval.base import Document, RetrievalError
from cib_rl.retrieval.factory import make_retriever
from cib_rl.retrieval.remote import RemoteRetriever, RemoteSettings
from tests.retrieval.faulty_server import FaultyServer, answer_well, answering, good_answer, send

LIMIT = 60  # seconds; what hangs does not come back at all
# The id of a document that has none: equal where title and text are.
MADE = "text-" + hashlib.blake2b(b"T\nx", digest_size=8).hexdigest()
QUICK = {"backoff": 0.01, "retries": 2, "attempt_timeout": 20.0, "breaker_failures": 100, "batch_window": 0.02}


@pytest.fixture
def server():
    with FaultyServer() as server:
        yield server


def client(url, **settings):
    return RemoteRetriever(RemoteSettings(url=url, **{**QUICK, **settings}), Path())


def play(retriever, *calls):
    """Run the calls (queries, k) at once and close; exceptions are results."""

    async def all_calls():
        searches = [retriever.search(queries, k) for queries, k in calls]
        async with asyncio.timeout(LIMIT):
            results = await asyncio.gather(*searches, return_exceptions=True)
            await retriever.close()
        return results

    return asyncio.run(all_calls())


def reason_of(url, **settings):
    """Of the failure of one search, with its message and the number of requests sent."""
    retriever = client(url, **settings)
    (error,) = play(retriever, (["q"], 3))
    assert isinstance(error, RetrievalError), error
    assert url in str(error)
    return error.reason, str(error), retriever.requests


def unused_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_answers_come_in_order_with_ids_titles_texts_and_scores(server):
    (found,) = play(client(server.url), (["b", "a"], 4))
    assert found == [
        [Document("id of b", "Title", "about b\nk=4", 1.5)],
        [Document("id of a", "Title", "about a\nk=4", 1.5)],
    ]
    assert server.bodies == [{"queries": ["b", "a"], "topk": 4, "return_scores": True}]


@pytest.mark.parametrize(
    ("entry", "document"),
    [
        ({"id": "1", "contents": '"T"\nx'}, Document("1", "T", "x")),
        ({"id": 7, "contents": "T\nx\ny"}, Document("7", "T", "x\ny")),
        ({"id": "1", "contents": "only text"}, Document("1", "", "only text")),
        ({"id": "1", "title": "T", "text": "x"}, Document("1", "T", "x")),
        ({"id": "1", "title": "T", "contents": "x"}, Document("1", "T", "x")),
        ({"document": {"id": "1", "contents": '"T"\nx'}, "score": 2}, Document("1", "T", "x", 2.0)),
        ({"document": {"contents": '"T"\nx'}}, Document(MADE, "T", "x")),
        ({"document": {"id": "1", "contents": '"T"\nx', "url": "u"}}, Document("1", "T", "x", url="u")),
        ({"document": {"id": "1", "contents": '"T"\nx'}, "url": "u"}, Document("1", "T", "x", url="u")),
        ({"id": "1", "text": "x", "url": 5}, Document("1", "", "x")),
        ({"document": "T\nx", "score": None}, Document(MADE, "T", "x")),
        ({"id": None, "contents": "T\nx"}, Document(MADE, "T", "x")),
    ],
)
def test_both_shapes_and_their_relatives_are_read(server, entry, document):
    server.behave = answering(json.dumps({"result": [[entry, entry, entry]]}).encode())
    (found,) = play(client(server.url), (["q"], 2))
    assert found == [[document, document]]  # never more than k


def test_a_full_address_is_taken_as_it_is_and_a_bare_one_gets_the_path():
    assert client("http://h:1").url == client("http://h:1/").url == "http://h:1/retrieve"
    assert client("https://h/other/retrieve").url == "https://h/other/retrieve"
    for url in ("h:8000", "127.0.0.1:8000", "ftp://h/x", "http://", "http://h:port", "http://[h", "http://me:pw@h"):
        with pytest.raises(UserError, match=r"retriever\.url") as caught:
            client(url)
        assert "pw" not in str(caught.value)


def test_callers_that_run_at_once_share_requests_and_equal_queries(server):
    retriever = client(server.url, batch_window=0.2, batch_size=16)
    calls = [([f"q{i}", f"q{i + 1}"], 3) for i in range(0, 16, 2)] + [(["q1"], 3), (["q1"], 2)]
    results = play(retriever, *calls)
    for (queries, k), found in zip(calls, results, strict=True):
        assert [documents[0].text for documents in found] == [f"about {query}\nk={k}" for query in queries]
    assert [len(body["queries"]) for body in server.bodies] in ([16, 1, 1], [16, 2])
    assert retriever.requests == 3


def test_equal_queries_of_one_batch_are_asked_once(server):
    play(client(server.url, batch_window=0.2), *[(["same"], 3)] * 8)
    assert [body["queries"] for body in server.bodies] == [["same"]]


def test_answers_are_cached_and_the_least_recently_used_go_first(server):
    retriever = client(server.url, cache_size=2, batch_window=0)

    async def ask():
        for query in ["a", "b", "a", "c", "a", "b"]:  # c pushes b out, because a was used since
            await retriever.search([query], 3)
        await retriever.search(["a"], 4)  # another k is another question
        found = await retriever.search(["b"], 3)
        found[0].clear()  # the caller's list is its own
        return await retriever.search(["b"], 3)

    assert len(asyncio.run(ask())[0]) == 1
    assert [body["queries"][0] for body in server.bodies] == ["a", "b", "c", "b", "a"]
    assert retriever.cache_hits == 4


def test_without_a_cache_every_search_asks(server):
    retriever = client(server.url, cache_size=0, batch_window=0)
    for _ in range(2):
        asyncio.run(retriever.search(["a"], 3))
    assert len(server.bodies) == 2


def test_one_client_serves_one_event_loop_after_the_other(server):
    """Each rollout window has a loop of its own; connections of an earlier one must not be used."""
    retriever = client(server.url)
    for i in range(3):
        assert asyncio.run(retriever.search([f"q{i}"], 1))[0][0].id == f"id of q{i}"
    play(retriever)
    (error,) = play(retriever, (["q"], 1))
    assert error.reason == "closed"


def test_the_token_is_sent(server, tmp_path):
    seen = []

    def behave(handler, body):
        seen.append(handler.headers["authorization"])
        answer_well(handler, body)

    server.behave = behave
    (tmp_path / "token").write_text("s3cret\n")
    retriever = make_retriever("remote", {"url": server.url, "token_file": "token"}, tmp_path)
    play(retriever, (["q"], 1))
    assert seen == ["Bearer s3cret"]
    for content in (None, "", "two words", "ümlaut"):
        path = tmp_path / "bad"
        path.write_text(content) if content is not None else None
        with pytest.raises(UserError, match="token file"):
            make_retriever("remote", {"url": server.url, "token_file": "bad"}, tmp_path)


def test_half_of_a_surrogate_pair_spoils_no_batch(server):
    good, bad = play(client(server.url), (["fine"], 1), (["broken \ud83d"], 1))
    assert good[0][0].id == "id of fine" and bad[0][0].id == "id of broken ?"


# ---------------------------------------------------------------- faults


def test_a_refused_connection(server):
    reason, message, requests = reason_of(f"http://127.0.0.1:{unused_port()}")
    assert (reason, requests) == ("refused", 3) and "connect" in message.lower()


def test_a_connection_cut_in_the_middle(server):
    def cut(handler, body):
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"result"')
        handler.close_connection = True

    server.behave = cut
    assert reason_of(server.url)[0] == "refused"


def silent(server):
    return lambda handler, body: server.ended.wait()


def dripping(server):
    """One byte now and then: no single read ever takes long."""

    def behave(handler, body):
        handler.send_response(200)
        handler.end_headers()
        while not server.ended.wait(0.02):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    return behave


@pytest.mark.parametrize("slow", [silent, dripping])
def test_a_slow_server_outlives_no_timeout(server, slow):
    """Without the limit the searches would last as long as the test's own; the server ends only after them."""
    server.behave = slow(server)
    reason, message, requests = reason_of(server.url, attempt_timeout=0.3)
    assert (reason, requests) == ("timeout", 3) and "within 0.3 s" in message
    reason, message, requests = reason_of(server.url, timeout=0.3, retries=1000)
    assert reason == "timeout" and requests <= 1 and "within 0.3 s (all attempts)" in message


def test_retries_and_pauses_count_against_the_time_of_a_search():
    reason, _, requests = reason_of(f"http://127.0.0.1:{unused_port()}", timeout=0.5, retries=100_000, backoff=0.2)
    assert reason in ("refused", "timeout") and requests < 10


def test_a_pause_that_outlasts_the_time_of_a_search_is_not_begun():
    """The pause would be at least 4 seconds; without it the search fails at once, and with its true reason."""
    reason, _, requests = reason_of(f"http://127.0.0.1:{unused_port()}", timeout=4.0, retries=1, backoff=100.0)
    assert (reason, requests) == ("refused", 1)


def test_waiting_for_a_free_connection_counts_against_the_time_too(server):
    server.behave = silent(server)
    calls = [([f"q{i}"], 1) for i in range(8)]
    results = play(client(server.url, timeout=0.5, concurrency=1, batch_size=1, batch_window=0), *calls)
    assert [error.reason for error in results] == ["timeout"] * 8
    assert len(server.bodies) <= 2  # those that waited gave up in the line and were never sent


@pytest.mark.parametrize(
    ("content", "status", "reason", "words", "requests"),
    [
        (b"out of memory", 500, "status", "status 500: out of memory", 3),
        (b"", 503, "status", "status 503", 3),
        (b"slow down", 429, "status", "status 429", 3),
        (b"who are you", 401, "status", "status 401: who are you", 1),
        (b'{"detail": "no"}', 422, "status", "status 422", 1),
        (b"", 302, "status", "status 302", 1),
        (b"<html>hello</html>", 200, "not_json", "not JSON", 3),
        (b"\xff\xfe\x00", 200, "not_json", "not JSON", 3),
        (b"[" * 100_000, 200, "not_json", "not JSON", 3),
        (b"", 200, "not_json", "not JSON", 3),
        (b"[]", 200, "wrong_shape", 'no object with a list "result"', 3),
        (b'{"result": null}', 200, "wrong_shape", 'no object with a list "result"', 3),
        (b'{"result": []}', 200, "wrong_shape", "1 queries were sent, 0 results came back", 3),
        (b'{"result": [[], []]}', 200, "wrong_shape", "1 queries were sent, 2 results came back", 3),
        (b'{"result": [{}]}', 200, "wrong_shape", "a query's result is a dict, not a list", 3),
        (b'{"result": [[5]]}', 200, "wrong_shape", "a document is a int", 3),
        (b'{"result": [[{"id": 1}]]}', 200, "wrong_shape", 'neither "contents" nor "text"', 3),
        (b'{"result": [[{"document": {"text": "x"}, "score": "high"}]]}', 200, "wrong_shape", "a score is a str", 3),
        (b'{"result": [[{"document": {"text": "x"}, "score": 1%s}]]}' % (b"0" * 400), 200, "wrong_shape", "large", 3),
    ],
)
def test_a_wrong_answer_is_named(server, content, status, reason, words, requests):
    server.behave = answering(content, status)
    found, message, sent = reason_of(server.url)
    assert (found, sent) == (reason, requests) and words in message


def test_an_answer_without_an_end_is_cut_off(server):
    sent = [0]

    def flood(handler, body):
        handler.send_response(200)
        handler.end_headers()
        while not server.ended.is_set():
            sent[0] += handler.wfile.write(b"x" * 65536)

    server.behave = flood
    reason, message, requests = reason_of(server.url, max_answer_bytes=1_000_000)
    assert (reason, requests) == ("too_large", 1) and "longer than 1,000,000 bytes" in message
    assert sent[0] < 50_000_000


def test_what_is_small_until_it_is_unpacked_is_refused(server):
    def behave(handler, body):
        handler.send_response(200)
        handler.send_header("content-encoding", "gzip")
        handler.send_header("content-length", str(len(packed)))
        handler.end_headers()
        handler.wfile.write(packed)

    packed = gzip.compress(json.dumps(good_answer({"queries": ["q"], "topk": 3, "return_scores": True})).encode())
    server.behave = behave
    reason, message, _ = reason_of(server.url)
    assert reason == "not_json" and "compressed (gzip), unasked" in message


def test_a_failed_batch_fails_its_own_callers_only(server):
    def behave(handler, body):
        (send(handler, b"", 422) if "poison" in body["queries"] else answer_well(handler, body))

    server.behave = behave
    retriever = client(server.url, batch_size=1)
    bad, good = play(retriever, (["poison"], 1), (["good"], 1))
    assert bad.reason == "status" and good[0][0].id == "id of good"


def test_a_passing_failure_is_retried(server):
    answers = [lambda h, b: send(h, b"", 500), lambda h, b: send(h, b"garbage"), answer_well]
    server.behave = lambda handler, body: answers.pop(0)(handler, body)
    (found,) = play(client(server.url), (["q"], 1))
    assert found[0][0].id == "id of q" and len(server.bodies) == 3


def test_failures_are_not_cached(server):
    retriever = client(server.url, retries=0)
    server.behave = answering(b"", 500)
    assert play_open(retriever, "q") == "status"
    server.behave = answer_well
    assert asyncio.run(retriever.search(["q"], 1))[0][0].id == "id of q"


@pytest.mark.parametrize(("status", "requests"), [(422, 7), (413, 7), (400, 7), (500, 7), (401, 1), (503, 1)])
def test_a_query_that_the_server_refuses_fails_alone_in_its_batch(server, status, requests):
    """Other episodes' queries share its request. What is no matter of one query is not sent again in pieces."""

    def behave(handler, body):
        (send(handler, b"too long", status) if "poison" in body["queries"] else answer_well(handler, body))

    server.behave = behave
    retriever = client(server.url, batch_window=0.2, retries=0)
    queries = ["a", "b", "poison", "c", "d", "e", "f", "g"]
    found = play(retriever, *[([query], 1) for query in queries])
    failed = [query for query, some in zip(queries, found, strict=True) if isinstance(some, RetrievalError)]
    assert failed == (["poison"] if requests > 1 else queries)
    assert all(some[0][0].id == f"id of {q}" for q, some in zip(queries, found, strict=True) if q not in failed)
    assert found[2].reason == "status" and f"status {status}: too long" in str(found[2])
    assert retriever.requests == requests  # 8, 4, 2, 1 + 1, 2, 4


@pytest.mark.parametrize("place", [0, 31, 63])
def test_a_query_that_the_server_fails_over_opens_no_circuit(server, place):
    """The batch is tried again first: a failure that passes needs no pieces."""

    def behave(handler, body):
        (send(handler, b"", 500) if "poison" in body["queries"] else answer_well(handler, body))

    server.behave = behave
    retriever = client(server.url, batch_window=0.2, retries=2)
    queries = [f"q{i}" for i in range(64)]
    queries[place] = "poison"
    found = play(retriever, *[([query], 1) for query in queries])
    assert [i for i, some in enumerate(found) if isinstance(some, RetrievalError)] == [place]
    assert retriever.requests == 3 + 2 * 6


def test_a_server_that_fails_over_everything_is_not_asked_query_by_query(server):
    server.behave = answering(b"", 500)
    retriever = client(server.url, batch_window=0.2, retries=2, breaker_failures=5)
    found = play(retriever, *[([f"q{i}"], 1) for i in range(64)])
    assert {some.reason for some in found} <= {"status", "circuit_open"}
    assert 5 <= retriever.requests <= 7  # two more may be under way when the fifth fails


def test_answers_that_are_too_long_together_are_asked_for_in_pieces(server):
    retriever = client(server.url, batch_window=0.2, max_answer_bytes=300)  # one answer has about 100
    found = play(retriever, *[([f"q{i}"], 1) for i in range(8)])
    assert [some[0][0].id for some in found] == [f"id of q{i}" for i in range(8)]


def test_the_circuit_opens_for_a_silent_server_though_searches_end_before_their_requests(server):
    """The time of a search is the shorter one here: the request that it ends is a failure all the same."""
    server.behave = silent(server)
    retriever = client(server.url, timeout=0.2, attempt_timeout=10 * LIMIT, breaker_failures=2)

    async def ask():
        reasons = []
        async with asyncio.timeout(LIMIT):
            while "circuit_open" not in reasons:
                (error,) = await asyncio.gather(retriever.search([f"q{len(reasons)}"], 1), return_exceptions=True)
                reasons.append(error.reason)
        return reasons

    assert set(asyncio.run(ask())) == {"timeout", "circuit_open"}


def test_a_cancelled_caller_leaves_the_others_their_answers(server):
    """Both share one request; one of them gives up while it is under way."""
    arrived, go_on = threading.Event(), threading.Event()

    def behave(handler, body):
        arrived.set()
        go_on.wait(LIMIT)
        answer_well(handler, body)

    server.behave = behave
    retriever = client(server.url)

    async def ask():
        leaves, stays = (asyncio.create_task(retriever.search([q], 1)) for q in ("a", "b"))
        await asyncio.to_thread(arrived.wait, LIMIT)
        leaves.cancel()
        go_on.set()
        return await asyncio.gather(leaves, stays, return_exceptions=True)

    gone, answered = asyncio.run(ask())
    assert isinstance(gone, asyncio.CancelledError) and answered[0][0].id == "id of b"
    assert [body["queries"] for body in server.bodies] == [["a", "b"]]


def test_closing_ends_searches_under_way(server):
    server.behave = silent(server)
    retriever = client(server.url)

    async def ask():
        running = asyncio.create_task(retriever.search(["a"], 1))
        while not server.bodies:
            await asyncio.sleep(0.01)
        await retriever.close()
        async with asyncio.timeout(LIMIT):
            return await asyncio.gather(running, return_exceptions=True)

    (error,) = asyncio.run(ask())
    assert isinstance(error, RetrievalError) and error.reason == "closed"


def test_a_server_that_dies_and_comes_back():
    """Served, then refused until the circuit opens and nothing is sent any more, then served again."""
    with FaultyServer() as server:
        port = server.port
        retriever = client(server.url, retries=0, breaker_failures=2, breaker_seconds=10.0)
        assert asyncio.run(retriever.search(["before"], 1))[0][0].id == "id of before"
    now = [0.0]
    retriever._breaker._clock = lambda: now[0]
    assert [play_open(retriever, query) for query in ("a", "b")] == ["refused", "refused"]
    sent = retriever.requests
    now[0] = 9.0
    assert [play_open(retriever, query) for query in ("c", "before again")] == ["circuit_open"] * 2
    assert retriever.requests == sent
    assert asyncio.run(retriever.search(["before"], 1))[0][0].id == "id of before"  # the cache still answers
    now[0] = 11.0
    assert [play_open(retriever, query) for query in ("d", "e")] == ["refused", "circuit_open"]  # one trial
    with FaultyServer(port):
        assert play_open(retriever, "f") == "circuit_open"
        now[0] = 30.0
        assert asyncio.run(retriever.search(["after"], 1))[0][0].id == "id of after"
        assert asyncio.run(retriever.search(["and on"], 1))[0][0].id == "id of and on"


def play_open(retriever, query):
    """Why a search fails; the retriever stays open."""
    with pytest.raises(RetrievalError) as caught:
        asyncio.run(retriever.search([query], 1))
    return caught.value.reason


def test_the_server_is_checked_before_training(server):
    asyncio.run(client(server.url).check())
    server.behave = answering(b"<html>", 200)
    with pytest.raises(UserError, match=r"retriever\.url: .*not JSON.*cib-rl retriever serve DIR"):
        asyncio.run(client(server.url).check())
    with pytest.raises(UserError, match=r"retriever\.url: http://127.0.0.1:\d+/retrieve: .*correct retriever\.url"):
        asyncio.run(client(f"http://127.0.0.1:{unused_port()}").check())
    server.behave = silent(server)
    with pytest.raises(UserError, match=r"no answer within 0\.2 s"):
        asyncio.run(client(server.url, attempt_timeout=0.2).check())


def test_no_proxy_of_the_environment_is_used(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{unused_port()}")
    assert play(client(server.url), (["q"], 1))[0][0][0].id == "id of q"


def test_the_test_server_has_the_published_shapes():
    """Without scores each inner list holds documents only."""
    body = {"queries": ["q"], "topk": 1, "return_scores": False}
    assert set(good_answer(body)["result"][0][0]) == {"id", "contents"}
