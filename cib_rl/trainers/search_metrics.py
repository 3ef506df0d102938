"""What the searches of a window tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cib_rl.trajectory import Trajectory


def search_row(trajectory: Trajectory) -> dict[str, Any]:
    """What `search_metrics` needs of one episode; plain values, to be gathered from all processes."""
    found = trajectory.diagnostics
    return {
        "turns": len(trajectory.turns),
        "finished": found.get("finished", 0.0),
        "failed": found.get("failed_queries", 0.0),
        "empty": found.get("empty_results", 0.0),
        "searches": [(len(turn.queries), turn.search_latency) for turn in trajectory.turns if turn.searched],
    }


def search_metrics(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means over all searches, queries or turns of the episodes; empty where none of them searched.

    * `search/turns`: turns per episode, the answer's among them.
    * `search/queries`: queries carried out per search; `search/decomposition`: share of the searches with several.
    * `search/valid`: share of the searches with a query to carry out; `search/valid_actions`: share of the turns that
      searched or answered (not: a search in the last turn, which is not carried out).
    * `search/failed`, `search/empty`: share of the queries that failed, or found nothing.
    * `seconds/search_p50`, `seconds/search_p95`: seconds from a search to all of its documents.
    """
    searches = [search for row in rows for search in row["searches"]]
    if not searches:
        return {}
    queries, seconds = np.array(searches, dtype=np.float64).T
    asked, turns = float(queries.sum()), sum(row["turns"] for row in rows)
    middle, late = np.quantile(seconds[queries > 0], [0.5, 0.95]) if asked else (np.nan, np.nan)
    asked = asked or np.nan  # shares of nothing
    return {
        "search/turns": turns / len(rows),
        "search/queries": float(queries.mean()),
        "search/decomposition": float((queries > 1).mean()),
        "search/valid": float((queries > 0).mean()),
        "search/valid_actions": (len(searches) + sum(row["finished"] for row in rows)) / turns,
        "search/failed": sum(row["failed"] for row in rows) / asked,
        "search/empty": sum(row["empty"] for row in rows) / asked,
        "seconds/search_p50": float(middle),
        "seconds/search_p95": float(late),
    }
