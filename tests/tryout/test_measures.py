"""What a trial says of a reward: its distribution, what it goes along with, where it turns right and wrong around."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.errors import UserError
from cib_rl.tryout.measures import QUANTILES
from cib_rl.tryout.reversals import find_reversals
from cib_rl.tryout.trial import try_reward
from tests.tryout.conftest import REWARDS


def tried(words, name, **options):
    return try_reward(f"{REWARDS}:{name}", words, **({"against": [], "probes": 0} | options))


def test_the_distribution_by_hand(words):
    trial = tried(words, "more_tokens")
    values = np.array([t.num_tokens / 100 for t in words.trajectories])
    found = trial.distribution
    assert (found.given, found.none, found.failed, found.zeros) == (48, 0, 0, 0.0)
    assert (found.mean, found.std) == (pytest.approx(values.mean()), pytest.approx(values.std()))
    assert found.quantiles == pytest.approx([np.quantile(values, q) for q in QUANTILES])
    # Of each problem the first two completions are right.
    assert found.right.value == pytest.approx(np.mean([v for i, v in enumerate(values) if i % 4 < 2]))
    assert found.wrong.value == pytest.approx(np.mean([v for i, v in enumerate(values) if i % 4 >= 2]))
    assert found.right.questions == 12 and found.flat.value == 0.0 and found.milliseconds > 0


def test_none_and_failures_are_counted_apart_and_are_no_zeros(words):
    trial = tried(words, "sometimes")
    found = trial.distribution
    assert (found.given, found.none, found.failed) == (48, 12, 12)
    assert (found.mean, found.zeros, found.flat.value) == (1.0, 0.0, 1.0)
    # A failure leaves the completion out of the total; None leaves the outcome alone in it.
    assert np.isnan(trial.judged.earned[2::4]).all() and (trial.judged.earned[3::4] == 0.0).all()
    assert {e.message for e in trial.judged.errors} == {"the judge is away"}


def test_it_goes_along_with_outcome_length_and_the_other_rewards(words):
    trial = tried(words, "more_tokens", against=None)
    found = {a.name: a for a in trial.agreements}
    assert found["tokens"].overall == pytest.approx(1) and found["tokens"].within.value == pytest.approx(1)
    assert found["kimi_length"].within.value < 0
    # First steps: 1 and 3 in the right ones, 1 and 2 in the wrong ones. Of four pairs of a right and a wrong one two
    # agree and one is opposed.
    assert found["outcome"].within.value > 0
    names = {o.label for o in trial.others}
    assert "math_correct" not in names and {"arora_zanette", "grpo_lead", "l1_max"} <= names
    left_out = {o.label: o.why_not for o in trial.others if o.values is None}
    assert "needs the keyword 'target'" in left_out["l1_max"] and "numbers and target" in left_out["countdown_correct"]


def test_other_rewards_with_keywords_are_compared_when_asked_for(words):
    spec = {"name": "surprisal", "prior": {"name": "uniform"}}
    trial = tried(words, "more_tokens", against=[spec])
    (other,) = trial.others
    assert other.label == "surprisal" and trial.agreements[-1].within.value == pytest.approx(-1)


def test_other_rewards_leave_the_trial_as_it_is(words):
    alone, among = tried(words, "fewer_tokens"), tried(words, "fewer_tokens", against=None)
    assert alone.judged.values.tolist() == among.judged.values.tolist()
    assert all(set(t.rewards) == {"math_correct", "fewer_tokens"} for t in among.trajectories)
    assert all(t.rewards == {} for t in words.trajectories)


def test_the_file_s_own_labels_are_held_against_the_outcome(words):
    labels = [i % 4 < 2 for i in range(48)]
    assert tried(replace(words, labels=labels), "more_tokens").agreement == 1.0
    assert tried(replace(words, labels=[not labels[0], *labels[1:]]), "more_tokens").agreement == pytest.approx(47 / 48)
    assert tried(words, "more_tokens").agreement is None


def test_reversals_by_hand():
    #        group 0: right 1, wrong 2; group 1: right 3 and 1, wrong 1.5 and none; group 2: no right; group 3: a tie
    earned = np.array([1, 2, 3, 1, 1.5, np.nan, 9, 4, 4])
    correct = np.array([1, 0, 1, 1, 0, 0, 0, 1, 0], dtype=bool)
    groups = np.array([0, 0, 1, 1, 1, 1, 2, 3, 3])
    found = find_reversals(earned, correct, groups)
    assert (found.mixed, found.ties) == (3, 1) and found.share.value == pytest.approx(2 / 3)
    assert [(r.group, r.right, r.wrong, r.gap) for r in found.worst] == [(0, 0, 1, 1.0), (1, 3, 4, 0.5)]


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(-2, 2)), max_size=20))
def test_reversals_against_a_loop_over_pairs(rows):
    groups = np.array([g for g, _, _ in rows], dtype=np.intp)
    correct, earned = np.array([r for _, r, _ in rows], bool), np.array([float(e) for _, _, e in rows])
    found = find_reversals(earned, correct, groups)
    gaps = {}
    for g, r, e in rows:
        for h, s, f in rows:
            if g == h and r and not s:
                gaps[g] = max(gaps.get(g, -99), f - e)
    assert found.mixed == len(gaps)
    assert {r.group: r.gap for r in found.worst} == {g: gap for g, gap in gaps.items() if gap > 0}
    assert found.ties == sum(gap == 0 for gap in gaps.values())


def test_a_weight_decides_whether_the_total_turns_right_and_wrong_around(words):
    light, heavy = tried(words, "more_tokens", weight=0.01), tried(words, "more_tokens", weight=50.0)
    assert light.alone.share.value == heavy.alone.share.value > 0
    assert light.together.share.value == 0.0 and heavy.together.share.value > 0


def test_a_reward_written_for_trl_is_tried_when_it_says_what_it_is(words):
    with pytest.raises(UserError, match="does not say what it is"):
        tried(words, "trl_style")
    trial = tried(words, "trl_style", keywords={"kind": "shaping"})
    assert trial.distribution.mean == pytest.approx(
        np.mean([len(t.policy_text.removesuffix("<|eos|>")) / 100 for t in words.trajectories])
    )


def test_a_reward_that_cannot_score_anything_is_an_error_that_says_why(words):
    with pytest.raises(UserError, match=r"'never' failed on all 48 completions.*no connection"):
        tried(words, "never")
    with pytest.raises(UserError, match="'silent' applies to none of the 48 completions"):
        tried(words, "silent")


def test_trying_the_outcome_itself_needs_no_other_label(words):
    trial = try_reward("math_correct", words, against=[], probes=0)
    assert (trial.label, trial.kind) == ("math_correct", "outcome")
    assert trial.judged.earned.tolist() == trial.judged.correct.astype(float).tolist()
