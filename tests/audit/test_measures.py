"""The numbers of an audit by hand, their intervals against a bootstrap over problems, the verdict's words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cib_rl.audit.audit import Audit, audit_samples
from cib_rl.audit.measures import composition, cost_and_length, length_gap, ratio, shortest_right
from cib_rl.audit.verdict import headroom, verdict
from cib_rl.errors import UserError
from cib_rl.evals.statistics import Estimate
from cib_rl.samples.load import load_samples
from tests.samples.files import word_rows, write_lines

#                  problem 0        1           2       3 (no right one)
GROUPS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3])
TOKENS = np.array([10, 20, 30, 50, 8, 4, 6, 5, 9, 7, 7.0])
RIGHT = np.array([1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0], dtype=bool)


def test_the_shortest_right_answer_by_hand():
    found = shortest_right(TOKENS, RIGHT, GROUPS)
    # Problem 2 has one right answer only: nothing to choose from.
    assert (found.problems, found.pairs.tolist()) == (2, [[20, 10], [6, 4]])
    assert (found.mean.value, found.shortest.value) == (13, 7)
    assert (
        found.saving.value == pytest.approx(1 - 14 / 26) and found.saving.low < found.saving.value < found.saving.high
    )


def test_the_order_of_the_samples_makes_no_difference():
    order = np.random.default_rng(0).permutation(len(TOKENS))
    for measure in (shortest_right, length_gap):
        first, second = measure(TOKENS, RIGHT, GROUPS), measure(TOKENS[order], RIGHT[order], GROUPS[order])
        assert repr(replace(first, **({"pairs": None} if measure is shortest_right else {}))) == repr(
            replace(second, **({"pairs": None} if measure is shortest_right else {}))
        )


def test_groups_by_outcome_by_hand():
    found = composition(RIGHT, GROUPS)
    assert (found.all_right, found.mixed, found.all_wrong, found.share.value) == (1, 2, 1, 0.5)


def test_the_gap_between_right_and_wrong_by_hand():
    found = length_gap(TOKENS, RIGHT, GROUPS)
    assert found.right.value == pytest.approx(TOKENS[RIGHT].mean()) and found.wrong.value == pytest.approx(73 / 4)
    # Mixed problems: 0 (50 against 20) and 2 (9 against 5).
    assert found.within.value == pytest.approx((30 + 4) / 2)
    assert found.relative.value == pytest.approx((50 + 9) / (20 + 5) - 1)


def test_cost_and_length_by_hand():
    cost = np.array([1, 2, 3, 4, 1, 3, 2, np.nan, 5, 1, 2.0])
    found = cost_and_length(cost, TOKENS, RIGHT, GROUPS)
    # Problem 0: τ = 1; problem 1: lengths 8, 4, 6 against costs 1, 3, 2, all opposed; 2 has one cost; 3 equal lengths.
    assert found.taus.tolist() == [1.0, -1.0] and found.agreement.value == 0.0
    assert found.failed == 1
    assert found.per_token.value == pytest.approx(np.nansum(cost) / TOKENS[~np.isnan(cost)].sum())


def test_the_interval_of_a_ratio_is_that_of_a_bootstrap_over_problems():
    rng = np.random.default_rng(3)
    below = rng.gamma(4, 30, 300)
    above = below * rng.uniform(0.5, 1.0, 300)
    found = ratio(above, below)
    draws = rng.integers(0, 300, (4000, 300))
    low, high = np.quantile(above[draws].sum(1) / below[draws].sum(1), [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.1 * (high - low))
    assert found.high == pytest.approx(high, abs=0.1 * (high - low))


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Audit:
    """24 problems with a short and a long right answer and two wrong ones each."""
    path = write_lines(tmp_path_factory.mktemp("audit") / "words.jsonl", word_rows(24))
    return audit_samples(load_samples(path), prior={"name": "uniform"})


def test_an_audit_of_a_file(words):
    assert (words.problems, words.per_problem, words.accuracy.value) == (24, (4, 4), 0.5)
    assert words.groups_by_outcome.mixed == 24 and words.truncated.value == 0
    first = words.tokens[:4]
    assert words.shortest.pairs[0].tolist() == [first[:2].mean(), first[0]]
    # Under a uniform prior each token costs the same, so cost and length are one.
    assert words.cost.agreement.value == pytest.approx(1)
    assert "nearly the same order" in verdict(words)[-1]


def test_costs_are_those_of_the_surprisal_reward(words):
    from math import log

    assert words.cost.per_token.low == pytest.approx(words.cost.per_token.high)
    vocabulary = np.exp(words.cost.per_token.value)
    assert vocabulary == pytest.approx(round(vocabulary)) and log(vocabulary) > 5


def test_completions_that_cannot_be_judged_are_left_out_and_counted(tmp_path):
    judge = tmp_path / "judge.py"
    judge.write_text(
        "from cib_rl.plugin import Failed, reward\n"
        "@reward('judge', kind='outcome')\n"
        "def judge(trajectories):\n"
        "    return [Failed('away') if t.member == 0 else float(t.member < 3) for t in trajectories]\n"
    )
    path = write_lines(tmp_path / "w.jsonl", word_rows(3))
    found = audit_samples(load_samples(path), outcome=f"{judge}:judge")
    assert (found.left_out, found.per_problem, len(found.tokens)) == (3, (3, 3), 9)
    assert found.accuracy.value == pytest.approx(2 / 3)
    judge.write_text(judge.read_text().replace("t.member == 0", "True"))
    with pytest.raises(UserError, match="away"):
        audit_samples(load_samples(path), outcome=f"{judge}:judge")


def with_saving(audit, value, low, high, problems=50):
    return replace(audit, shortest=replace(audit.shortest, problems=problems, saving=Estimate(value, low, high)))


@pytest.mark.parametrize(
    ("saving", "word", "sentence"),
    [
        ((0.40, 0.30, 0.50), "large", "Worth a run: large headroom"),
        ((0.20, 0.15, 0.30), "some", "Worth a run: some headroom"),
        ((0.05, 0.02, 0.08), "little", "Little to win"),
        ((0.12, 0.05, 0.20), "unclear", "Not enough to tell"),
        ((0.40, 0.30, 0.50, 19), "unclear", "Not enough to tell"),
    ],
)
def test_the_verdict_on_headroom_holds_for_the_whole_interval(words, saving, word, sentence):
    audit = with_saving(words, *saving)
    assert headroom(audit) == word and verdict(audit)[0].startswith(sentence)


def test_the_verdict_on_the_outcome_s_signal(words):
    def says(all_right, mixed, all_wrong):
        share = mixed / (all_right + mixed + all_wrong)
        groups = replace(
            words.groups_by_outcome, all_right=all_right, mixed=mixed, all_wrong=all_wrong, share=Estimate(share, 0, 1)
        )
        return " ".join(verdict(with_saving(replace(words, groups_by_outcome=groups), 0.4, 0.3, 0.5)))

    assert "something to teach" in says(5, 20, 5)
    assert "all right: take harder ones" in says(20, 2, 1) and "all wrong: take easier ones" in says(1, 2, 20)
    assert "Watch accuracy closely" in says(20, 2, 1)


def test_the_verdict_on_lengths_of_wrong_answers(words):
    def says(value, low, high):
        return " ".join(verdict(replace(words, gap=replace(words.gap, within=Estimate(value, low, high)))))

    assert "the outcome alone will shorten" in says(10.0, 5.0, 15.0)
    assert "only_when_correct" in says(-10.0, -15.0, -5.0)
    assert "not distinguishably different" in says(1.0, -5.0, 7.0)
