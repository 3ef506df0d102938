"""Exact search: the float64 ranking to the last bit, whatever the block, the split and the product's own error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.errors import UserError
from cib_rl.retrieval import exact
from cib_rl.retrieval.exact import ExactSearch, error_bound
from tests.retrieval.encoders import naive_ranking


def made(vectors, devices=("cpu",), block=64, **keys):
    longest = np.linalg.norm(vectors.astype(np.float64), axis=1).max()
    return ExactSearch(vectors, float(longest), devices, block, **keys)


def pairs(found):
    return [list(zip(numbers.tolist(), scores.tolist(), strict=True)) for numbers, scores in found]


def naive(queries, vectors, k):
    return [naive_ranking(query, vectors, k) for query in queries]


def like_ones(draw, count, dimension):
    """Vectors that differ only in the order of their numbers, now and then one that is another's copy."""
    one = draw.standard_normal(dimension)
    rows = np.stack([draw.permutation(one) for _ in range(count)]).astype(np.float16)
    copied = draw.integers(0, count, count // 3)
    rows[draw.integers(0, count, count // 3)] = rows[copied]
    return rows


@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 60), st.sampled_from([1, 7, 64, 300])),
    kind=st.sampled_from(["random", "grid", "alike"]),
    k=st.integers(1, 12),
    block=st.sampled_from([1, 5, 16, 1000]),
    shards=st.integers(1, 3),
    resident=st.booleans(),
)
def test_ids_order_and_scores_are_those_of_float64(seed, shape, kind, k, block, shards, resident):
    draw = np.random.default_rng(seed)
    queries = draw.standard_normal((3, shape[1])).astype(np.float32)
    if kind == "random":
        vectors = draw.standard_normal(shape).astype(np.float16)
    elif kind == "grid":  # many ties
        vectors = draw.integers(-1, 2, shape).astype(np.float16)
        queries[1] = draw.integers(-1, 2, shape[1])
    else:  # ties that a product in float32 does not see
        vectors = like_ones(draw, *shape)
        queries[:2] = [[0.1], [-7]]
    found = made(vectors, ["cpu"] * shards, block, resident=resident).search(queries, k)
    assert pairs(found) == naive(queries, vectors, k)
    assert all(len(numbers) == min(k, shape[0]) for numbers, _ in found)


@given(seed=st.integers(0, 2**31), half=st.booleans())
def test_an_error_within_the_bound_changes_nothing(seed, half):
    """The product of another device, as wrong as it may be."""
    draw = np.random.default_rng(seed)
    vectors = like_ones(draw, 50, 96)
    queries = draw.standard_normal((4, 96)).astype(np.float32)
    queries[0] = 1
    bound = error_bound(96, half=half) * np.linalg.norm(vectors.astype(np.float64), axis=1).max()

    def wrong(queries_QD, block_ND):
        right_QN = queries_QD.double() @ block_ND.double().T
        sign_QN = torch.from_numpy(draw.choice([-1.0, 1.0], right_QN.shape))
        return (right_QN + 0.999 * bound * sign_QN).float()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "product", wrong)
        if half:
            patch.setattr(exact, "error_bound", lambda dimension, half: error_bound(dimension, half=True))
        assert pairs(made(vectors, block=16).search(queries, 5)) == naive(queries, vectors, 5)


def test_a_product_in_float32_keeps_within_its_bound():
    draw = np.random.default_rng(0)
    for dimension in (8, 384, 2048):
        queries = draw.standard_normal((20, dimension)).astype(np.float32)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        vectors = draw.standard_normal((500, dimension)).astype(np.float16)
        vectors[:250] = np.abs(vectors[:250])
        right = queries.astype(np.float64) @ vectors.astype(np.float64).T
        seen = exact.product(torch.from_numpy(queries), torch.from_numpy(vectors)).double().numpy()
        longest = np.linalg.norm(vectors.astype(np.float64), axis=1)
        assert (np.abs(seen - right) / longest).max() < error_bound(dimension, half=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_result_is_that_of_the_cpu():
    draw = np.random.default_rng(0)
    vectors = np.concatenate([draw.standard_normal((20_000, 768)).astype(np.float16), like_ones(draw, 500, 768)])
    queries = draw.standard_normal((64, 768)).astype(np.float32)
    queries[0] = 1
    on_cpu = pairs(made(vectors, block=4096).search(queries, 10))
    for devices in (["cuda:0"], ["cuda:0"] * 3, ["cpu", "cuda:0"]):
        for resident in (True, False):
            assert pairs(made(vectors, devices, 4096, resident=resident).search(queries, 10)) == on_cpu
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    rounded = torch.from_numpy(unit).to("cuda:0", torch.float16)
    seen = exact.product(rounded, torch.from_numpy(vectors).to("cuda:0")).double().cpu().numpy()
    right = unit.astype(np.float64) @ vectors.astype(np.float64).T
    longest = np.linalg.norm(vectors.astype(np.float64), axis=1)
    assert (np.abs(seen - right) / longest).max() < error_bound(768, half=True)


def test_a_query_of_zeros_finds_the_first_ones():
    found = made(np.eye(4, dtype=np.float16)).search(np.zeros((1, 4), np.float32), 2)
    assert pairs(found) == [[(0, 0.0), (1, 0.0)]]


def test_no_more_than_a_block_is_scored_at_once(monkeypatch):
    seen, product = [], exact.product
    monkeypatch.setattr(exact, "product", lambda q, b: seen.append(b.shape[0]) or product(q, b))
    made(np.ones((103, 4), np.float16), ["cpu", "cpu"], 10).search(np.ones((2, 4), np.float32), 3)
    assert max(seen) == 10 and sum(seen) == 103


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"retriever.devices: .* cannot be put on 'cuda:99'"):
        made(np.ones((3, 4), np.float16), ["cuda:99"])
    with pytest.raises(UserError, match="cannot be put on 'gpu'"):
        made(np.ones((3, 4), np.float16), ["gpu"])
