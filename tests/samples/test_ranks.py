"""Rank correlations against scipy; within groups against a loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cib_rl.samples.ranks import kendall, members_of, spearman, within_groups

PAIRS = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=25)


@given(PAIRS)
def test_both_correlations_are_scipys_with_ties(pairs):
    x, y = np.array(pairs, dtype=float).T
    if len(set(x)) < 2 or len(set(y)) < 2:
        assert spearman(x, y) is None and kendall(x, y) is None
    else:
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
        assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y, variant="b").statistic, abs=1e-12)


def test_pairs_with_a_missing_number_are_left_out():
    x, y = [1.0, 2.0, np.nan, 3.0], [3.0, 2.0, 9.0, 1.0]
    assert spearman(x, y) == pytest.approx(-1) and kendall(x, y) == pytest.approx(-1)
    assert spearman([1.0, np.nan], [1.0, 2.0]) is None


def test_within_groups_is_the_mean_over_groups_that_have_one():
    # Groups: 0 falls, 1 rises, 2 has one member, 3 is constant; over all pairs x and y would rise.
    groups = [0, 0, 1, 1, 2, 3, 3, 0]
    x = [1.0, 2.0, 11.0, 12.0, 5.0, 4.0, 4.0, 3.0]
    y = [3.0, 2.0, 11.0, 12.0, 9.0, 1.0, 2.0, 1.0]
    found = within_groups(x, y, groups)
    assert found.value == pytest.approx(0.0) and found.questions == 2
    assert within_groups(x, y, groups, [g == 0 for g in groups]).value == pytest.approx(-1)
    assert within_groups([1.0], [1.0], [0]).value is None


@given(st.lists(st.integers(0, 4), max_size=20))
def test_members_are_every_index_once_by_its_group(groups):
    found = members_of(np.array(groups, dtype=np.intp))
    assert sorted(i for m in found for i in m) == list(range(len(groups)))
    assert all(len({groups[i] for i in m}) == 1 for m in found) and len(found) == len(set(groups))
