"""The HNSW graph: nearly what exact search finds, scored in the same way."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from cib_rl.errors import UserError
from cib_rl.progress import RunProgress
from cib_rl.retrieval.exact import ExactSearch
from cib_rl.retrieval.hnsw import GRAPH, HNSWSearch, HNSWSettings, build_graph

faiss = pytest.importorskip("faiss")


def clustered(count, dimension=32, seed=0):
    """Vectors of length 1 around 40 centres, as texts on 40 subjects would have."""
    centres = np.random.default_rng(7).standard_normal((40, dimension))
    draw = np.random.default_rng(seed)
    rows = centres[draw.integers(0, 40, count)] + 0.5 * draw.standard_normal((count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def graph(folder, vectors, **settings):
    build_graph(folder, vectors, HNSWSettings(**settings), RunProgress())
    return folder


def test_nearly_all_that_exact_search_finds_with_the_same_scores(tmp_path):
    vectors, queries = clustered(3000), clustered(100, seed=1).astype(np.float32)
    folder = graph(tmp_path, vectors, m=8, ef_construction=40)
    exact = ExactSearch(vectors, 1.01, ["cpu"], 500).search(queries, 10)
    right = [dict(zip(numbers.tolist(), scores.tolist(), strict=True)) for numbers, scores in exact]
    recall = {}
    for ef_search in (10, 64, 3000):
        found = HNSWSearch(folder, vectors, ef_search).search(queries, 10)
        hits = 0
        for (numbers, scores), best in zip(found, right, strict=True):
            assert list(scores) == sorted(scores, reverse=True)
            for number, score in zip(numbers.tolist(), scores.tolist(), strict=True):
                hits += number in best
                assert best.get(number, score) == score
        recall[ef_search] = hits / (10 * len(queries))
    assert recall[10] < recall[64] and recall[64] > 0.97 and recall[3000] > 0.999, recall


def test_k_above_the_number_of_vectors_gives_all_of_them(tmp_path):
    vectors = clustered(5)
    found = HNSWSearch(graph(tmp_path, vectors), vectors, 1).search(vectors[:2].astype(np.float32), 50)
    assert [sorted(numbers.tolist()) for numbers, _ in found] == [[0, 1, 2, 3, 4]] * 2


def test_without_a_graph_or_with_a_damaged_one_it_says_so(tmp_path, monkeypatch):
    vectors = clustered(5)
    with pytest.raises(UserError, match="has no HNSW graph: build it with --hnsw, or set `search: exact`"):
        HNSWSearch(tmp_path, vectors, 8)
    graph(tmp_path, vectors)
    (tmp_path / GRAPH).write_bytes((tmp_path / GRAPH).read_bytes()[:100])
    with pytest.raises(UserError, match=r"hnsw.faiss: faiss .* cannot read it"):
        HNSWSearch(tmp_path, vectors, 8)
    monkeypatch.setattr("cib_rl.retrieval.extra.find_spec", lambda name: None if name == "faiss" else sys)
    with pytest.raises(UserError, match=r"needs faiss-cpu: pip install 'cib-rl\[dense\]'"):
        HNSWSearch(tmp_path, vectors, 8)
