"""The baseline without a library."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cib_rl.errors import UserError
from cib_rl.evals.runner import evaluate
from cib_rl.retrieval.factory import make_retriever


def test_nothing_is_found_for_any_query():
    retriever = make_retriever("empty", {}, Path())
    assert asyncio.run(retriever.search(["Ada", ""], 3)) == [[], []]
    assert asyncio.run(retriever.search([], 3)) == []


def test_it_has_no_keys():
    with pytest.raises(UserError, match="corpus"):
        make_retriever("empty", {"corpus": "fiction"}, Path())


@pytest.mark.slow
def test_a_search_policy_is_evaluated_without_its_library():
    """The shipped policy answers three quarters of these questions with it; a bridge question is no guess."""
    result = evaluate("shipped:search/policy", "search/tiny", problems=60, environment={"retriever": {"name": "empty"}})
    bridge = [s for s in result.samples if s.kind == "bridge"]
    assert bridge and sum(s.outcome == "right" for s in bridge) <= 2
    searched = [s for s in result.samples if s.numbers["queries"]]
    assert len(searched) > 40 and all(s.numbers["empty_results"] == s.numbers["queries"] for s in searched)
