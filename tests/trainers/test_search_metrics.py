"""What the searches of a window tell, worked by hand."""

import math

import numpy as np

from cib_rl.trainers.search_metrics import search_metrics, search_row
from cib_rl.trajectory import StopReason, Trajectory, Turn


def _episode(*turns: tuple[int | None, float], **diagnostics: float) -> Trajectory:
    """Turns as (queries, seconds); None: a turn that did not search."""
    made = [
        Turn(0, 0, 0, StopReason.STOP_STRING, searched=n is not None, queries=["q"] * (n or 0), search_latency=seconds)
        for n, seconds in turns
    ]
    return Trajectory(task={"id": "a"}, group=0, turns=made, diagnostics=diagnostics)


def test_shares_are_of_searches_queries_and_turns_over_all_episodes() -> None:
    rows = [
        search_row(_episode((2, 0.4), (1, 0.1), (None, 0.0), failed_queries=1.0, finished=1.0)),
        # A turn with three calls that could not be carried out, and a last one that was cut off.
        search_row(_episode((0, 0.0), (None, 0.0), (1, 0.2), (None, 0.0), invalid_actions=3.0, empty_results=1.0)),
        search_row(_episode((None, 0.0))),
    ]
    found = search_metrics(rows)
    assert math.isclose(found["search/turns"], 8 / 3)
    assert found["search/queries"] == 1.0  # 4 queries, 4 searches
    assert found["search/decomposition"] == 0.25
    assert found["search/valid"] == 0.75
    assert math.isclose(found["search/valid_actions"], 5 / 8)  # 4 searches, 1 answer
    assert found["search/failed"] == found["search/empty"] == 0.25
    assert math.isclose(found["seconds/search_p50"], 0.2)  # of 0.1, 0.2, 0.4: the search without a query took no time
    assert math.isclose(found["seconds/search_p95"], float(np.quantile([0.1, 0.2, 0.4], 0.95)))


def test_without_searches_there_is_nothing_to_tell() -> None:
    assert search_metrics([search_row(_episode((None, 0.0)))]) == {}
    assert search_metrics([]) == {}


def test_shares_of_no_query_are_not_a_number() -> None:
    found = search_metrics([search_row(_episode((0, 0.0)))])
    assert (
        found["search/valid"] == 0.0 and math.isnan(found["search/failed"]) and math.isnan(found["seconds/search_p50"])
    )
