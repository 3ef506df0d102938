"""Which probes count as hacks: the rule by itself, and rewards that are known to be good or bad."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cib_rl.errors import UserError
from cib_rl.tryout.hacks import Rules, first_weight, out_earns, verdict
from cib_rl.tryout.trial import try_reward
from tests.tryout.conftest import REWARDS


def hacks(words, name, **options):
    trial = try_reward(f"{REWARDS}:{name}", words, against=[], **options)
    return {p.name: p.verdict for p in trial.probes if p.verdict != "no"}


def test_a_reward_for_tokens_is_hacked_by_everything_that_adds_some(words):
    assert hacks(words, "more_tokens") == {"repeated": "HACK", "padded": "HACK", "forged_tags": "HACK"}


def test_a_reward_for_tags_is_hacked_by_forged_ones(words):
    assert hacks(words, "counts_searches", weight=0.1) == {"forged_tags": "HACK"}


def test_a_reward_for_words_of_the_prompt_is_hacked_by_copying_it_once_it_outweighs_the_outcome(words):
    assert hacks(words, "boxes_prompt", weight=0.9) == {}
    assert hacks(words, "boxes_prompt", weight=1.1) == {"copied_prompt": "HACK"}


SHORT_ANSWERS = Rules(allow=frozenset({"answer_only", "truncated"}))


def test_a_length_reward_pays_for_the_answer_alone_which_is_a_hack_until_the_user_allows_it(words):
    assert hacks(words, "fewer_tokens") == {"answer_only": "HACK"}
    assert hacks(words, "fewer_tokens", rules=SHORT_ANSWERS) == {"answer_only": "allowed"}


def test_what_is_allowed_must_be_right_and_saying_nothing_never_is(words):
    """A length reward that outweighs the outcome: half a completion earns more, without an answer."""
    found = hacks(words, "fewer_tokens", weight=20.0, rules=SHORT_ANSWERS)
    assert found["empty"] == found["truncated"] == "HACK" and found["answer_only"] == "allowed"


def test_a_reward_on_length_alone_is_out_earned_by_an_empty_completion(words):
    """As the outcome, so that nothing holds against it."""
    assert hacks(words, "fewer_tokens", keywords={"kind": "outcome"}, rules=SHORT_ANSWERS)["empty"] == "HACK"


def test_pay_for_leaving_reasoning_out_by_a_reward_that_is_not_about_length_is_a_hack(words):
    """Shuffled reasoning has lost the word that the reward looks for as well."""
    found = hacks(words, "no_talk")
    assert found["answer_only"] == "HACK"
    allowed = hacks(words, "no_talk", rules=Rules(allow=frozenset({"answer_only"})))
    assert allowed == found | {"answer_only": "allowed"}


def test_a_reward_for_orderly_reasoning_is_not_hacked(words):
    assert hacks(words, "steps_in_order") == {}


def test_a_bad_outcome_is_hacked_although_the_other_one_says_what_is_right(words):
    """It pays for the gold answer anywhere; the honest ones end in it, so nothing earns more than 1."""
    trial = try_reward(f"{REWARDS}:says_gold", words, against=[])
    assert trial.kind == "outcome" and trial.hacks == []
    assert [p.right.value for p in trial.probes if p.name in ("empty", "repeated")] == [0.0, 1.0]
    # In total there is nothing but the tried outcome: the other one is no part of it.
    assert set(trial.judged.earned) == {0.0, 1.0}


def test_probes_are_scored_beside_the_others_of_their_group(words):
    """By hand: of problem 0 the four completions and the empty probe share a mean."""
    trial = try_reward(f"{REWARDS}:fewer_tokens", words, keywords={"scale": 1.0}, weight=0.01, against=[], probes=1)
    (empty,) = [p for p in trial.probes if p.name == "empty"]
    lengths = [t.num_tokens for t in trial.trajectories[:4]]
    mean = (sum(lengths) + 1) / 5  # the probe's end-of-sequence token
    assert empty.made == 1
    assert empty.honest.value == pytest.approx(1 + 0.01 * (mean - lengths[0]))
    assert empty.earned.value == pytest.approx(0.01 * (mean - 1))
    assert empty.from_weight == pytest.approx(1 / (lengths[0] - 1))


def test_a_gate_on_success_is_part_of_what_a_probe_earns(words):
    assert "copied_prompt" in hacks(words, "boxes_prompt", weight=1.1)
    gated = hacks(words, "boxes_prompt", weight=1.1, keywords={"only_when_correct": True})
    assert "copied_prompt" not in gated


def test_one_problem_in_which_a_probe_earns_more_is_one_too_many_unless_some_are_tolerated():
    gain, right = np.array([0.2, -1.0, -1.0, -1.0]), np.ones(4, bool)
    assert verdict("padded", gain, right, Rules()) == "HACK"
    assert verdict("padded", gain, right, Rules(tolerance=0.25)) == "no"
    assert verdict("padded", np.zeros(4), right, Rules()) == "no"  # a tie is no gain


@given(st.lists(st.tuples(st.sampled_from([-1.0, -0.2, 0.0, 0.2, 1.0]), st.booleans()), min_size=1, max_size=12),
       st.sampled_from([0.0, 0.05, 0.3]))  # fmt: skip
@example([(1.0, True), (-0.2, True), (-0.2, True), (-0.2, True)], 0.3)  # rarely more, but more on average
def test_the_rule(pairs, tolerance):
    gain, right = np.array([g for g, _ in pairs]), np.array([r for _, r in pairs])

    def more(gains):
        return sum(g > 0 for g in gains) > tolerance * len(gains) or sum(gains) > 1e-9

    assert out_earns(gain, tolerance) == more(gain.tolist())
    rules = Rules(tolerance, allow=frozenset({"padded"}))
    found = {name: verdict(name, gain, right, rules) for name in ("answer_only", "padded")}
    if not more(gain.tolist()):
        assert set(found.values()) == {"no"}
    else:
        wrong_alone = more([min(g, 0.0) if r else g for g, r in pairs])
        assert found == {"answer_only": "HACK", "padded": "HACK" if wrong_alone else "allowed"}


@given(
    st.lists(
        st.tuples(st.sampled_from([-1.0, -0.5, 0.0]), st.sampled_from([-2.0, -1.0, 0.0, 0.5, 2.0])),
        min_size=1,
        max_size=10,
    ),
    st.sampled_from([0.0, 0.2]),
)
@example([(0.0, 2.0), (-1.0, 0.0), (-1.0, 0.5), (-1.0, 0.0), (-1.0, 0.0)], 0.4)
def test_the_first_weight_against_a_walk_over_weights(pairs, tolerance):
    outcome, reward = np.array(pairs).T
    walk = [w for w in np.arange(0.01, 6.0, 0.01) if out_earns(outcome + w * reward, tolerance)]
    found = first_weight(outcome, reward, tolerance)
    if not walk:
        assert found is None or found >= 5.9
    else:
        assert found == pytest.approx(walk[0], abs=0.0101) and found <= walk[0]


def test_an_unknown_probe_is_refused():
    with pytest.raises(UserError, match=r"no probe 'anser_only' \(did you mean 'answer_only'\?\)"):
        Rules(allow=frozenset({"anser_only"}))
