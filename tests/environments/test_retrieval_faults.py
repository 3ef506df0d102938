"""A training run over a real HTTP server that misbehaves: it goes on, and says which episodes were hit."""

from __future__ import annotations

import json

import pytest

from cib_rl.errors import UserError
from cib_rl.trajectory_io import read_trajectories
from tests.environments.test_search_training import PEOPLE, _recipe, _weights, place  # noqa: F401
from tests.retrieval.faulty_server import FaultyServer, answer_well, answering, send

pytestmark = [pytest.mark.trl, pytest.mark.server]


def _too_few(handler, body):
    send(handler, json.dumps({"result": []}).encode())


def _cut_off(handler, body):
    handler.connection.close()  # as a server that dies in the middle of a request


FAULTS = {
    "500": answering(b"broken", status=500),
    "garbage": answering(b"<html>not json"),
    "too few results": _too_few,
    "dies": _cut_off,
    "slow": None,  # waits until the test is over
}


def _run(place, folder, server, fault, **environment):  # noqa: F811
    """Two steps in which every query for Bo meets the fault."""

    def behave(handler, body):
        if "Bo" not in body["queries"]:
            answer_well(handler, body)
        elif fault == "slow":
            server.ended.wait()
        else:
            FAULTS[fault](handler, body)

    server.behave = behave
    retriever = {
        "name": "remote", "url": server.url, "retries": 0, "batch_size": 1,
        "attempt_timeout": 2.0 if fault == "slow" else 60.0, "timeout": 60.0,  # a busy machine is no fault
        "breaker_failures": 10_000, "cache_size": 0,
    }  # fmt: skip
    keys = {"name": "search", "max_completion_length": 300, "turns": 3, "k": 1, "retries": 0, "retriever": retriever}
    recipe = _recipe(place, folder, **{"trainer.steps": 2, "environment": keys | environment})
    _, run = _weights(recipe)
    assert not server.ended.is_set()  # nobody waited for a handler that hangs
    trajectories = read_trajectories(run.trajectories / "step-000000-rank0.parquet")
    return trajectories, run.read_metrics()


def _asked_bo(trajectory):
    return sum(query == "Bo" for turn in trajectory.turns for query in turn.queries)


@pytest.mark.parametrize("fault", list(FAULTS))
def test_the_run_goes_on_and_the_episodes_that_were_hit_are_marked_and_counted(place, tmp_path, fault):  # noqa: F811
    with FaultyServer() as server:
        trajectories, lines = _run(place, tmp_path / "run", server, fault)
    hit = [t for t in trajectories if _asked_bo(t)]
    assert len(lines) == 2 and 0 < len(hit) < len(trajectories)
    for t in trajectories:
        assert t.diagnostics["failed_queries"] == _asked_bo(t) and not t.errors
        assert t.text.count("The search failed (") == _asked_bo(t)
        for turn in t.turns:  # what else was asked in the same search came back
            assert [len(some) for some in turn.documents] == [query != "Bo" for query in turn.queries]
    asked = sum(len(turn.queries) for t in trajectories for turn in t.turns)
    assert lines[0]["search/failed"] == pytest.approx(sum(map(_asked_bo, trajectories)) / asked)
    assert lines[0]["error_share"] == 0


def test_episodes_that_were_hit_leave_the_update_where_the_recipe_says_so(place, tmp_path):  # noqa: F811
    with FaultyServer() as server:
        trajectories, lines = _run(place, tmp_path / "run", server, "500", drop_failed=True)
    for t in trajectories:
        assert bool(t.errors) == bool(_asked_bo(t))
        if t.errors:
            assert t.errors == [f"retrieval: {_asked_bo(t)} queries failed"]
            assert not any(t.tracks.get("advantage", []))
    assert lines[0]["error_share"] == pytest.approx(sum(bool(t.errors) for t in trajectories) / len(trajectories))


def _run_over_an_outage(place, folder, outage, *, dies=True, spared=()):  # noqa: F811
    """Four steps; the server dies after the run's check, for all of the first window but queries that are `spared`, and
    answers the third request that is sent to it in the pause. The first window's trajectories, and the metrics."""
    with FaultyServer() as server:
        waiting = []

        def behave(handler, body):
            asked = body["queries"] == ["test"]
            waiting.extend([1] * asked)
            dead = dies and (3 <= len(waiting) < 5 if asked else len(waiting) < 5)
            (_cut_off if dead and not set(body["queries"]) <= set(spared) else answer_well)(handler, body)

        server.behave = behave
        retriever = {
            "name": "remote", "url": server.url, "retries": 0, "breaker_failures": 10_000 if spared else 5,
            "breaker_seconds": 0.1, "batch_size": 1 if spared else 64,
        }  # fmt: skip
        keys = {
            "name": "search", "max_completion_length": 300, "turns": 3, "k": 1, "retriever": retriever,
            "drop_failed": True, "outage": outage,
        }  # fmt: skip
        _, run = _weights(_recipe(place, folder, **{"trainer.steps": 4, "environment": keys}))
    trajectories = read_trajectories(run.trajectories / "step-000000-rank0.parquet")
    return [(t.task["id"], t.completion_ids, t.errors) for t in trajectories], run.read_metrics()


@pytest.mark.slow
def test_a_window_that_an_outage_left_empty_is_played_again_when_the_server_is_back(place, tmp_path):  # noqa: F811
    window, lines = _run_over_an_outage(place, tmp_path / "run", 60)
    undisturbed, others = _run_over_an_outage(place, tmp_path / "other", 60, dies=False)
    assert window == undisturbed and len(lines) == len(others) == 4
    assert [line["loss"] for line in lines] == [line["loss"] for line in others]


@pytest.mark.slow
def test_a_window_of_which_an_outage_left_little_is_played_again_too(place, tmp_path):  # noqa: F811
    """Episodes that asked for what the server still has would be all that the policy learns from."""
    window, lines = _run_over_an_outage(place, tmp_path / "run", 60, spared=["Ada"])
    undisturbed, others = _run_over_an_outage(place, tmp_path / "other", 60, dies=False)
    assert window == undisturbed
    assert [line["loss"] for line in lines] == [line["loss"] for line in others]
    again = [line["groups/played_again"] for line in lines if "groups/played_again" in line]
    assert again[0] > 0 and not any(again[1:])


@pytest.mark.slow
def test_without_waiting_what_an_outage_left_is_trained_on(place, tmp_path):  # noqa: F811
    window, lines = _run_over_an_outage(place, tmp_path / "run", 0, spared=["Ada"])
    failed = [bool(errors) for _, _, errors in window]
    assert any(failed) and not all(failed) and len(lines) == 4
    assert lines[0]["groups/played_again"] == 0 and lines[0]["error_share"] > 0.5


def test_a_run_that_waits_for_no_outage_stops_with_the_reason(place, tmp_path):  # noqa: F811
    with pytest.raises(UserError, match=r"nothing to learn from.* 16 failed.*retrieval: \d queries failed"):
        _run_over_an_outage(place, tmp_path / "run", 0)


def test_a_server_that_dies_and_comes_back_is_used_again(place, tmp_path):  # noqa: F811
    with FaultyServer() as server:
        seen = []

        def behave(handler, body):
            seen.append(body)
            (_cut_off if 5 < len(seen) <= 12 else answer_well)(handler, body)

        server.behave = behave
        retriever = {
            "name": "remote", "url": server.url, "retries": 0, "batch_size": 1, "breaker_failures": 10_000,
            "cache_size": 0,
        }  # fmt: skip
        keys = {
            "name": "search", "max_completion_length": 300, "turns": 3, "k": 1, "retries": 0, "retriever": retriever
        }  # fmt: skip
        _, run = _weights(_recipe(place, tmp_path / "run", **{"trainer.steps": 4, "environment": keys}))
    failed = [line["search/failed"] for line in run.read_metrics() if "search/failed" in line]  # one line per window
    assert failed[0] > 0 and failed[1:] == [0]
    assert set(PEOPLE) >= {query for body in seen[12:] for query in body["queries"]}
