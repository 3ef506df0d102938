"""HICRA's controls: tokens of high entropy for planning ones, and a push that keeps the group's mean."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.credit.assign import Credit
from cib_rl.credit.hicra import highest, mean_preserved
from cib_rl.errors import UserError
from cib_rl.plugin import RewardContext
from cib_rl.recipe import CreditSection
from tests.credit.test_hicra import WAIT, assign, made
from tests.trained_tokenizers import byte_level

BASE = {"name": "group", "scale": "none"}


def test_the_highest_share_is_counted_among_the_policys_tokens_and_ties_go_to_the_earlier():
    value = np.array([1.0, 9.0, 2.0, 2.0, 9.0, 0.0])
    among = np.array([True, False, True, True, True, True])
    assert highest(value, among, 0.4).tolist() == [False, False, True, False, True, False]
    assert highest(value, among, 0.39).sum() == 1
    assert highest(value, among, 1.0).tolist() == among.tolist()
    assert highest(np.zeros(0), np.zeros(0, dtype=bool), 0.3).tolist() == []


@pytest.mark.parametrize(("share", "tokens", "count"), [(0.3, 10, 3), (0.29, 100, 29), (0.3, 3, 0), (0.7, 10, 7)])
def test_the_share_of_a_number_of_tokens_is_rounded_down(share, tokens, count):
    assert highest(np.arange(tokens), np.ones(tokens, dtype=bool), share).sum() == count


def test_high_entropy_tokens_are_taken_within_each_completion():
    """Entropies rise within each of two completions, and are far higher in the second; each has its own last 30%."""
    tokenizer = byte_level()
    pair = [made(tokenizer, 1.0), made(tokenizer, 0.0)]
    for k, t in enumerate(pair):
        t.set_track("entropy", [100.0 * k + i for i in range(len(t.policy_mask))])
    right, wrong = assign(pair, tokenizer, BASE, {"name": "hicra", "tokens": "high_entropy"})
    n = len(tokenizer.encode(WAIT))
    most = int(0.3 * 2 * n)
    assert 0 < most < n
    assert right.tolist() == pytest.approx([0.5] * n + [0.0] * n + [0.5] * (n - most) + [0.6] * most)
    assert wrong.tolist() == pytest.approx([-0.5] * n + [0.0] * n + [-0.5] * (n - most) + [-0.4] * most)
    assert pair[0].tracks["high_entropy"] == [0] * (3 * n - most) + [1] * most and "planning" not in pair[0].tracks


def test_grams_beside_high_entropy_are_measured_and_not_credited():
    tokenizer = byte_level()
    pair = [made(tokenizer, 1.0), made(tokenizer, 0.0)]
    for t in pair:
        t.set_track("entropy", list(range(len(t.policy_mask))))
    alone = assign(pair, tokenizer, BASE, {"name": "hicra", "tokens": "high_entropy"})
    beside = assign(pair, tokenizer, BASE, {"name": "hicra", "tokens": "high_entropy", "grams": ["wait"]})
    assert all(np.array_equal(a, b) for a, b in zip(alone, beside, strict=True))
    assert sum(pair[0].tracks["planning"]) > 0


def test_who_measures_no_entropy_is_told_so():
    with pytest.raises(UserError, match="needs the policy's entropy of each token"):
        assign([made(byte_level(), 1.0)], byte_level(), BASE, {"name": "hicra", "tokens": "high_entropy"})


@pytest.mark.parametrize(
    ("keys", "needs"),
    [
        ({"grams": ["wait"]}, set()),
        ({"grams": ["wait"], "measure_entropy": True}, {"entropy"}),
        ({"tokens": "high_entropy"}, {"entropy"}),
    ],
)
def test_entropies_are_asked_for_where_they_are_used(keys, needs):
    assert Credit([CreditSection(**BASE), CreditSection(name="hicra", **keys)], RewardContext()).needs == needs


class NeedsValues:
    """A stage that wants what nobody measures."""

    needs = frozenset({"value"})

    def __call__(self, trajectories, scores, advantages):
        return advantages


def test_a_stage_that_needs_what_nobody_measures_is_refused():
    with pytest.raises(UserError, match="a stage needs value; known: entropy"):
        Credit([CreditSection(**BASE), CreditSection(name=f"{__file__}:NeedsValues")], RewardContext())


LENGTHS = st.lists(st.integers(0, 6), min_size=1, max_size=6)
NUMBER = st.floats(-5, 5, allow_nan=False)


@given(data=st.data(), lengths=LENGTHS)
def test_the_mean_over_a_groups_tokens_is_kept_and_all_its_tokens_move_alike(data, lengths):
    def arrays(elements):
        return [np.array(data.draw(st.lists(elements, min_size=n, max_size=n))) for n in lengths]

    before, after = arrays(NUMBER), arrays(NUMBER)
    policy = [mask.astype(bool) for mask in arrays(st.booleans())]
    groups = data.draw(st.lists(st.integers(0, 2), min_size=len(lengths), max_size=len(lengths)))
    kept = mean_preserved(after, before, policy, groups)
    for group in set(groups):
        members = [i for i, own in enumerate(groups) if own == group]
        old, new, moved = (
            np.concatenate([values[i][policy[i]] for i in members])
            for values in (before, kept, [k - a for k, a in zip(kept, after, strict=True)])
        )
        if len(old):
            assert new.mean() == pytest.approx(old.mean(), abs=1e-9)
            assert np.ptp(moved) == pytest.approx(0, abs=1e-9)
    assert all(np.array_equal(k[~p], a[~p]) for k, a, p in zip(kept, after, policy, strict=True))


def test_a_mean_preserving_push_worked_by_hand():
    """Advantages ±½ become 0.6 and −0.4 on n of the 2n + m tokens of each: the push sums to 2 · 0.1 · n over both."""
    tokenizer = byte_level()
    pair = [made(tokenizer, 1.0), made(tokenizer, 0.0)]
    hicra = {"name": "hicra", "grams": ["wait"], "mean_preserving": True}
    right, wrong = assign(pair, tokenizer, BASE, hicra)
    n, length = len(tokenizer.encode("wait")), len(tokenizer.encode(WAIT))
    constant = 0.1 * n / length
    once = [0.6 - constant] * n + [0.5 - constant] * (length - n)
    assert right.tolist() == pytest.approx([*once, *[0.0] * length, *once])
    once = [-0.4 - constant] * n + [-0.5 - constant] * (length - n)
    assert wrong.tolist() == pytest.approx([*once, *[0.0] * length, *once])


def test_a_completion_that_failed_is_not_moved():
    tokenizer = byte_level()
    rows = [made(tokenizer, float(i)) for i in range(3)]
    rows[2].errors.append("engine: gone")
    hicra = {"name": "hicra", "grams": ["wait"], "mean_preserving": True}
    credited = assign(rows, tokenizer, BASE, hicra)
    alone = assign(rows[:2], tokenizer, BASE, hicra)
    assert not credited[2].any()
    assert [a.tolist() for a in credited[:2]] == [a.tolist() for a in alone]
