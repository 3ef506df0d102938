"""Paired changes against worked sums, scipy's paired t-test, a bootstrap over questions, and simulated coverage."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from cib_rl.evals.paired import Samples, compare_samples


def _result(right, tokens, names=None):
    right, tokens = np.asarray(right), np.asarray(tokens, dtype=float)
    names = np.arange(len(right)) if names is None else np.asarray(names)
    shape = right.shape
    return Samples(np.repeat(names, shape[1] if len(shape) == 2 else 1), right.ravel(), tokens.ravel())


def test_a_worked_example_with_both_definitions_of_right_answers_only():
    before = _result([[1, 1], [0, 1], [0, 0]], [[10, 20], [90, 40], [70, 70]])
    after = _result([[1, 0], [1, 1], [1, 0]], [[10, 99], [20, 40], [95, 50]])
    paired = compare_samples(before, after)
    assert paired.accuracy.before == 3 / 6 and paired.accuracy.after == 4 / 6
    assert paired.tokens.before == 50 and paired.tokens.after == pytest.approx(314 / 6)
    # All right answers of each side: (10 + 20 + 40) / 3 and (10 + 20 + 40 + 95) / 4.
    assert paired.tokens_right.before == pytest.approx(70 / 3) and paired.tokens_right.after == 165 / 4
    # Questions both got right, each once: (15 + 40) / 2 and (10 + 30) / 2; the newly solved third one is left out.
    assert paired.tokens_both_right.before == 27.5 and paired.tokens_both_right.after == 20
    assert paired.tokens_both_right.relative.value == pytest.approx(20 / 27.5 - 1)
    assert (paired.questions, paired.questions_both_right) == (3, 2)


def test_one_sample_each_is_the_paired_t_interval():
    rng = np.random.default_rng(0)
    before, after = rng.normal(100, 20, 30), rng.normal(80, 20, 30)
    change = compare_samples(_result(np.ones(30), before), _result(np.ones(30), after)).tokens
    low, high = stats.ttest_rel(after, before).confidence_interval(0.95)
    assert (change.difference.low, change.difference.high) == pytest.approx((low, high))


def test_questions_are_matched_by_id_and_not_by_position():
    right, tokens = np.array([1, 0, 1, 1]), np.array([10.0, 200.0, 30.0, 70.0])
    before = Samples(["a", "b", "c", "d"], right, tokens)
    after = Samples(["d", "c", "b", "a"], right[::-1], tokens[::-1] * 0.5)
    change = compare_samples(before, after).tokens.relative
    assert (change.value, change.low, change.high) == pytest.approx((-0.5, -0.5, -0.5))


def test_different_questions_are_refused_with_one_of_them_named():
    with pytest.raises(ValueError, match=r"different questions \(1 only before, 2 only after, for example 'b'\)"):
        compare_samples(Samples(["a", "b"], [1, 1], [1, 1]), Samples(["a", "c", "d"], [1, 1, 1], [1, 1, 1]))


def test_nothing_right_leaves_right_answers_undefined():
    paired = compare_samples(_result([0, 0], [5, 6]), _result([1, 0], [5, 6]))
    assert paired.tokens_right.before is None and paired.tokens_right.after == 5
    assert paired.tokens_right.difference.value is None and paired.tokens_right.relative is None
    assert paired.tokens_both_right.before is None
    assert paired.accuracy.relative is None  # from 0 there is no relative change


def test_a_result_against_itself_has_no_change():
    rng = np.random.default_rng(1)
    side = _result(rng.random((20, 4)) < 0.6, rng.integers(1, 200, (20, 4)))
    paired = compare_samples(side, side)
    for change in (paired.tokens, paired.tokens_right, paired.tokens_both_right):
        assert (change.difference.value, change.difference.low, change.difference.high) == (0, 0, 0)
    # Twenty questions on which nothing differs do not prove that nothing ever would.
    bound = stats.t.ppf(0.975, 19) ** 2 / (20 + stats.t.ppf(0.975, 19) ** 2)
    accuracy = paired.accuracy.difference
    assert (accuracy.value, accuracy.low, accuracy.high) == pytest.approx((0, -bound, bound))


rows = st.lists(
    st.tuples(st.integers(0, 5), st.booleans(), st.integers(1, 300), st.booleans(), st.integers(1, 300)),
    min_size=2,
    max_size=30,
)


@given(rows)
def test_swapping_the_sides_mirrors_every_interval(data):
    names = [r[0] for r in data]
    a = Samples(names, [r[1] for r in data], [r[2] for r in data])
    b = Samples(names, [r[3] for r in data], [r[4] for r in data])
    forward, backward = compare_samples(a, b), compare_samples(b, a)
    for name in ("accuracy", "tokens", "tokens_right", "tokens_both_right"):
        one, two = getattr(forward, name), getattr(backward, name)
        if one.difference.low is None:
            assert two.difference.low is None
            continue
        assert one.difference.low == pytest.approx(-two.difference.high, abs=1e-9)
        if one.relative is not None:
            assert 1 + one.relative.low == pytest.approx(1 / (1 + two.relative.high))
            assert one.relative.low > -1


@given(rows, st.floats(0.05, 20))
def test_relative_change_does_not_depend_on_the_unit(data, unit):
    names, tokens = [r[0] for r in data], np.array([[r[2], r[4]] for r in data], dtype=float)
    assume(len(set(names)) > 1)
    right = [1] * len(data)
    one, two = (
        compare_samples(
            Samples(names, right, by * tokens[:, 0]), Samples(names, right, by * tokens[:, 1])
        ).tokens.relative
        for by in (1, unit)
    )
    assert (one.value, one.low, one.high) == pytest.approx((two.value, two.low, two.high), rel=1e-6, abs=1e-9)


def _pair(rng, questions, samples, cut=0.7):
    """Two models on the same questions: shared difficulty, the second `cut` times as long and slightly better."""
    ease = rng.normal(0.8, 1.5, questions)[:, None]
    right_a, right_b = (rng.random((questions, samples)) < 1 / (1 + np.exp(-ease - gain)) for gain in (0, 0.2))
    length = 4.5 - 0.3 * ease
    tokens_a, tokens_b = (np.exp(rng.normal(length + np.log(f), 0.3, (questions, samples))) for f in (1, cut))
    return right_a, tokens_a, right_b, tokens_b


def test_paired_intervals_cover_the_truth_95_times_in_100_and_are_narrower_than_unpaired():
    big = _pair(np.random.default_rng(5), 400_000, 2)
    truth = {
        "accuracy": big[2].mean() - big[0].mean(),
        "tokens": big[3].mean() / big[1].mean() - 1,
        "tokens_right": big[3][big[2]].mean() / big[1][big[0]].mean() - 1,
    }
    rng, inside, runs = np.random.default_rng(0), dict.fromkeys(truth, 0), 800
    for _ in range(runs):
        right_a, tokens_a, right_b, tokens_b = _pair(rng, 60, 4)
        paired = compare_samples(_result(right_a, tokens_a), _result(right_b, tokens_b))
        inside["accuracy"] += paired.accuracy.difference.low <= truth["accuracy"] <= paired.accuracy.difference.high
        for name in ("tokens", "tokens_right"):
            change = getattr(paired, name).relative
            inside[name] += change.low <= truth[name] <= change.high
    for name, hits in inside.items():
        assert 0.918 <= hits / runs <= 0.982, name

    tokens = compare_samples(_result(right_a, tokens_a), _result(right_b, tokens_b)).tokens.difference
    unpaired = np.hypot(stats.sem(tokens_a.mean(1)), stats.sem(tokens_b.mean(1))) * stats.t.ppf(0.975, 59)
    assert (tokens.high - tokens.low) / 2 < 0.75 * unpaired


def test_relative_change_agrees_with_a_bootstrap_over_questions():
    rng = np.random.default_rng(7)
    right_a, tokens_a, right_b, tokens_b = _pair(rng, 200, 4)
    changes = {"tokens": [], "tokens_right": [], "tokens_both_right": []}
    both = right_a.any(1) & right_b.any(1)
    mean_a, mean_b = (np.ma.array(t, mask=~r).mean(1).filled(0) for r, t in ((right_a, tokens_a), (right_b, tokens_b)))
    for _ in range(3000):
        d = rng.integers(0, 200, 200)
        changes["tokens"].append(tokens_b[d].mean() / tokens_a[d].mean() - 1)
        changes["tokens_right"].append(tokens_b[d][right_b[d]].mean() / tokens_a[d][right_a[d]].mean() - 1)
        changes["tokens_both_right"].append(mean_b[d][both[d]].mean() / mean_a[d][both[d]].mean() - 1)
    paired = compare_samples(_result(right_a, tokens_a), _result(right_b, tokens_b))
    for name, drawn in changes.items():
        low, high = np.quantile(drawn, [0.025, 0.975])
        change, slack = getattr(paired, name).relative, 0.15 * (high - low)
        assert (change.low, change.high) == (pytest.approx(low, abs=slack), pytest.approx(high, abs=slack)), name
