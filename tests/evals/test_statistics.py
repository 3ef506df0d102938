"""The estimators against enumeration, scipy, plain loops, a bootstrap over questions, and simulated coverage."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cib_rl.evals.statistics import (
    clustered_mean,
    clustered_median,
    clustered_proportion,
    mean_pass_at_k,
    pass_at_k,
    student_t_quantile,
)


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(combinations([1] * c + [0] * (n - c), k))
    assert pass_at_k([n], [c], k)[0] == pytest.approx(sum(any(s) for s in subsets) / len(subsets), abs=1e-12)


@given(st.integers(1, 3000), st.data())
def test_pass_at_k_equals_the_binomial_formula_for_large_numbers(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, min(n, 300)))
    assert pass_at_k([n], [c], k)[0] == pytest.approx(1 - comb(n - c, k) / comb(n, k), abs=1e-9)


@pytest.mark.parametrize(("n", "c", "k", "words"), [(3, 1, 4, "at least 4"), (3, 4, 1, "between"), (3, 1, 0, "k >= 1")])
def test_pass_at_k_refuses_what_it_cannot_estimate(n, c, k, words):
    with pytest.raises(ValueError, match=words):
        pass_at_k([n], [c], k)


def test_mean_pass_at_k_averages_questions():
    estimate = mean_pass_at_k([1, 0, 0, 0, 1, 1, 0, 0, 0], list("aaabbbccc"), 2)
    each = [1 - comb(2, 2) / comb(3, 2), 1.0, 0.0]
    assert estimate.value == pytest.approx(np.mean(each))
    low, high = stats.t.interval(0.95, 2, np.mean(each), stats.sem(each))
    assert (estimate.low, estimate.high) == pytest.approx((low, high))


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 30, 199, 200, 201, 500, 1318, 10**6])
@pytest.mark.parametrize("probability", [0.001, 0.025, 0.3, 0.5, 0.9, 0.975, 0.999])
def test_t_quantile_equals_scipys(probability, degrees):
    assert student_t_quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), rel=1e-9)


def test_one_sample_per_question_gives_the_textbook_interval():
    values = [3.0, 8.0, 4.0, 9.0, 5.5]
    estimate = clustered_mean(values, range(5))
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((np.mean(values), low, high))


def test_copies_of_an_answer_do_not_narrow_the_interval():
    values, names = [3.0, 8.0, 4.0, 9.0], ["a", "b", "c", "d"]
    once, often = clustered_mean(values, names), clustered_mean(values * 50, names * 50)
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_unequal_clusters_follow_the_sandwich_formula():
    values, names = np.array([1.0, 4.0, 2.0, 7.0, 7.0, 3.0]), np.array(list("aabccc"))
    mean, error_sum = values.mean(), 0.0
    for name in "abc":  # a plain loop: the residuals of a question are summed before they are squared
        error_sum += (values[names == name] - mean).sum() ** 2
    error = np.sqrt(3 / 2 * error_sum) / len(values)
    estimate = clustered_mean(values, names)
    assert estimate.high - mean == pytest.approx(stats.t.ppf(0.975, 2) * error)
    assert (estimate.questions, estimate.samples) == (3, 6)


columns = st.integers(2, 12).flatmap(
    lambda questions: st.lists(
        st.tuples(st.integers(0, questions - 1), st.floats(-100, 100, width=32)), min_size=2, max_size=40
    )
)


@given(columns, st.floats(-50, 50), st.floats(0.1, 10))
def test_mean_and_interval_move_and_stretch_with_the_values(rows, shift, scale):
    names, values = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    plain, moved = clustered_mean(values, names), clustered_mean(shift + scale * values, names)
    for field in ("value", "low", "high"):
        before, after = getattr(plain, field), getattr(moved, field)
        assert (before is None) == (after is None)
        if before is not None:
            assert after == pytest.approx(shift + scale * before, rel=1e-6, abs=1e-5)


@given(columns)
def test_order_of_rows_and_names_of_questions_do_not_matter(rows):
    names, values = [r[0] for r in rows], [r[1] for r in rows]
    one = clustered_mean(values, names)
    other = clustered_mean(values[::-1], [f"question {name}" for name in names[::-1]])
    assert (one.value, one.questions) == (pytest.approx(other.value, abs=1e-9), other.questions)
    assert one.low == (None if other.low is None else pytest.approx(other.low, abs=1e-7))


def test_no_spread_gives_a_point_and_one_question_gives_no_interval():
    assert clustered_mean([4.0, 4.0, 4.0], [1, 2, 3]).low == 4.0
    alone = clustered_mean([1.0, 5.0], ["only", "only"])
    assert (alone.value, alone.low, alone.high) == (3.0, None, None)
    assert clustered_proportion([1, 0], ["only", "only"]).low is None


def test_an_empty_selection_is_undefined_and_not_zero():
    for estimator in (clustered_mean, clustered_median, clustered_proportion):
        assert estimator([5.0, 6.0], [1, 2], [False, False]).value is None


@pytest.mark.parametrize(
    ("values", "names", "words"), [([1.0], [1, 2], "do not match"), ([float("nan")], [1], "finite")]
)
def test_bad_columns_are_refused(values, names, words):
    with pytest.raises(ValueError, match=words):
        clustered_mean(values, names)


def test_proportion_of_single_samples_is_wilsons_interval():
    hits = [1] * 37 + [0] * 13
    estimate = clustered_proportion(hits, range(50))
    # scipy's Wilson interval uses the normal quantile and the size n; ours uses t and se from n - 1: both are close.
    reference = stats.binomtest(37, 50).proportion_ci(method="wilson")
    assert (estimate.low, estimate.high) == pytest.approx((reference.low, reference.high), abs=0.008)


@given(st.integers(2, 400), st.integers(1, 16), st.sampled_from([0, 1]))
def test_unanimous_answers_keep_an_interval_inside_zero_and_one(questions, samples, hit):
    names = np.repeat(np.arange(questions), samples)
    estimate = clustered_proportion(np.full(len(names), hit), names)
    assert 0 <= estimate.low < estimate.high <= 1
    assert estimate.low == 0 if hit == 0 else estimate.high == 1
    # Samples that always agree say nothing about each other: only questions count.
    assert estimate.high - estimate.low == pytest.approx(
        (lambda t: t * t / (questions + t * t))(stats.t.ppf(0.975, questions - 1))
    )


@given(columns)
@settings(deadline=None)
def test_median_lies_inside_its_interval(rows):
    estimate = clustered_median([r[1] for r in rows], [r[0] for r in rows])
    assert estimate.value == np.median([r[1] for r in rows])
    if estimate.low is not None:
        assert estimate.low <= estimate.value <= estimate.high


def _simulate(rng, questions, samples):
    """Right answers and tokens of questions that differ in difficulty; harder ones are longer. Arrays (Q, n)."""
    ease = rng.normal(0.8, 1.5, questions)
    right = rng.random((questions, samples)) < 1 / (1 + np.exp(-ease))[:, None]
    tokens = np.round(np.exp(rng.normal(4.5 - 0.3 * ease[:, None], 0.3, (questions, samples)) - 0.2 * right))
    return right, tokens


def _coverage(estimator, pick, truth, *, runs=800, questions=60, samples=6, seed=0):
    rng, inside = np.random.default_rng(seed), 0
    names = np.repeat(np.arange(questions), samples)
    for _ in range(runs):
        right, tokens = _simulate(rng, questions, samples)
        values, mask = pick(right.ravel(), tokens.ravel())
        estimate = estimator(values, names, mask)
        inside += estimate.low <= truth <= estimate.high
    return inside / runs


@pytest.fixture(scope="module")
def population():
    right, tokens = _simulate(np.random.default_rng(99), 400_000, 2)
    return right.ravel(), tokens.ravel()


def test_intervals_cover_the_truth_95_times_in_100(population):
    """800 simulated evaluations each: 95% ± 2.2 is three standard errors of the simulation, plus a point for bias."""
    right, tokens = population
    everything = np.ones(len(right), dtype=bool)
    cases = {
        "accuracy": (clustered_proportion, lambda r, t: (r, None), right.mean()),
        "tokens": (clustered_mean, lambda r, t: (t, None), tokens.mean()),
        "tokens of right answers": (clustered_mean, lambda r, t: (t, r), tokens[right].mean()),
        "median tokens": (clustered_median, lambda r, t: (t, None), np.median(tokens[everything])),
    }
    for name, (estimator, pick, truth) in cases.items():
        assert 0.918 <= _coverage(estimator, pick, truth) <= 0.982, name


def test_ignoring_the_clusters_would_miss_the_truth_far_more_often(population):
    def unclustered(values, names, mask):
        return clustered_mean(values, np.arange(len(values)), mask)

    assert _coverage(unclustered, lambda r, t: (t, None), population[1].mean()) < 0.85


def test_interval_agrees_with_a_bootstrap_over_questions():
    rng = np.random.default_rng(3)
    right, tokens = _simulate(rng, 150, 5)
    names = np.repeat(np.arange(150), 5)
    means = []
    for _ in range(3000):
        drawn = rng.integers(0, 150, 150)
        means.append(tokens[drawn][right[drawn]].mean())
    estimate = clustered_mean(tokens.ravel(), names, right.ravel())
    low, high = np.quantile(means, [0.025, 0.975])
    width = high - low
    assert estimate.low == pytest.approx(low, abs=0.12 * width)
    assert estimate.high == pytest.approx(high, abs=0.12 * width)
