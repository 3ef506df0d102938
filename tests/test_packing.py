"""Micro-batches of like length."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.packing import pack_by_tokens, pack_into, padded_tokens, padding_share

LENGTHS = st.lists(st.integers(0, 200), max_size=60)


def in_order_of_arrival(lengths: list[int], budget: int) -> list[list[int]]:
    """Unsorted: fill each micro-batch with the next rows as long as they fit."""
    batches: list[list[int]] = []
    for i in range(len(lengths)):
        if batches and (len(batches[-1]) + 1) * max(lengths[i], *(lengths[k] for k in batches[-1])) <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def is_partition(batches, lengths):
    return all(batches) and sorted(i for batch in batches for i in batch) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 2000), st.one_of(st.none(), st.integers(1, 10)))
def test_budget_packing_is_a_partition_within_the_budget(lengths, budget, max_rows):
    batches = pack_by_tokens(lengths, budget, max_rows=max_rows)
    assert is_partition(batches, lengths)
    for batch in batches:
        assert len(batch) <= (max_rows or len(lengths))
        assert padded_tokens(lengths, [batch]) <= budget or len(batch) == 1


@given(LENGTHS, st.integers(1, 2000), st.randoms())
def test_fewer_passes_than_in_order_of_arrival_or_no_more_padding(lengths, budget, random):
    random.shuffle(lengths)
    batches, arrival = pack_by_tokens(lengths, budget), in_order_of_arrival(lengths, budget)
    assert len(batches) <= len(arrival)
    same_count = pack_into(lengths, len(arrival), token_budget=budget)
    assert padded_tokens(lengths, same_count) <= padded_tokens(lengths, arrival)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 30), st.data())
def test_no_split_at_all_is_better(lengths, budget, data):
    """Against every assignment of rows to micro-batches."""
    n = len(lengths)
    splits = []
    for assignment in product(range(n), repeat=n):
        split = [[i for i in range(n) if assignment[i] == b] for b in set(assignment)]
        if all(padded_tokens(lengths, [b]) <= budget or len(b) == 1 for b in split):
            splits.append(split)
    fewest = min(map(len, splits))
    assert len(pack_by_tokens(lengths, budget)) == fewest
    count = data.draw(st.integers(fewest, n))
    found = pack_into(lengths, count, token_budget=budget)
    assert len(found) == count
    assert padded_tokens(lengths, found) == min(padded_tokens(lengths, s) for s in splits if len(s) == count)


@given(st.lists(st.integers(0, 200), min_size=1, max_size=60), st.data())
def test_packing_into_a_count_is_a_partition_into_that_many(lengths, data):
    count = data.draw(st.integers(1, len(lengths)))
    batches = pack_into(lengths, count)
    assert len(batches) == count and is_partition(batches, lengths)


def test_order_is_deterministic_and_longest_first():
    assert pack_by_tokens([5, 9, 5, 9, 1], 18) == [[1, 3], [0, 2, 4]]


def test_padding_share_by_hand():
    assert padding_share([4, 2], [[0, 1]]) == pytest.approx(2 / 8)
    assert padding_share([], pack_by_tokens([], 5)) == 0


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        pack_by_tokens([1], 0)
    with pytest.raises(ValueError, match="negative"):
        pack_by_tokens([-1], 5)
    with pytest.raises(ValueError, match="none of them empty"):
        pack_into([1, 2], 3)
    with pytest.raises(ValueError, match="need 2 micro-batches"):
        pack_into([4, 4], 1, token_budget=5)
