"""What is counted of grams, and what it comes to: worked by hand, and the same when processes share the window."""

from collections import Counter
from math import exp, isnan, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.grams import GramMatcher
from cib_rl.grams.mark import find_planning
from cib_rl.grams.measure import GramCounts, entropy_nats, gram_metrics
from cib_rl.trajectory import Segment, Trajectory
from tests.trained_tokenizers import byte_level

MATCHER = GramMatcher(["wait", "let me check"])


def made(*parts, logprob=-1.0):
    """A completion of texts by turns of the policy and of the environment."""
    tokenizer, segment = byte_level(), Segment([1])
    for k, text in enumerate(parts):
        ids = tokenizer.encode(text)
        if k % 2:
            segment.append_environment(ids)
        else:
            segment.append_policy(ids, [logprob] * len(ids))
    return Trajectory({}, 0, segments=[segment])


def counted(*trajectories, **keywords):
    counts = GramCounts()
    for trajectory in trajectories:
        counts.add(trajectory, *find_planning(trajectory, byte_level(), MATCHER), **keywords)
    return counts


def test_grams_and_what_follows_them_are_counted_in_what_the_policy_wrote():
    """Punctuation is no word; the second `wait` ends a turn, so the document's words do not follow it."""
    counts = counted(made("Wait: is, it 21? wait", " wait no no ", "Let me check it, ok"), ngram=1, window=2)
    assert counts.grams == {0: 2, 1: 1}
    assert counts.following == {(0, ("is",)): 1, (0, ("it",)): 1, (1, ("it",)): 1, (1, ("ok",)): 1}
    assert (counts.completions, counts.with_gram) == (1, 1)
    assert counted(made("wait a b c d"), ngram=2, window=3).following == {(0, ("a", "b")): 1, (0, ("b", "c")): 1}


def test_the_entropies_are_those_worked_by_hand():
    """Grams 3 : 1. Pairs: after gram 0 a a b b (one bit), after gram 1 c c (none): 4/6 · ln 2."""
    following = Counter({(0, ("a",)): 2, (0, ("b",)): 2, (1, ("c",)): 2})
    metrics = gram_metrics([GramCounts(grams=Counter({0: 3, 1: 1}), following=following)])
    assert metrics["planning/semantic_entropy_nats"] == pytest.approx(-(0.75 * log(0.75) + 0.25 * log(0.25)))
    assert metrics["planning/conditional_entropy_nats"] == pytest.approx(4 / 6 * log(2))
    assert metrics["planning/occurrences"] == 4


def test_tokens_are_planning_or_execution_and_the_environments_are_neither():
    """ln π of −1 in the first completion, −3 in the second; entropy 0.5 on planning tokens, 2 on the others."""
    rows = [made("wait, no", " wait "), made("so it is", logprob=-3.0)]
    n = len(byte_level().encode("wait"))
    policy = [len(byte_level().encode(text)) for text in ("wait, no", "so it is")]
    for row in rows:
        marks, _ = find_planning(row, byte_level(), MATCHER)
        row.set_track("entropy", np.where(marks, 0.5, 2.0).tolist())
    metrics = gram_metrics([counted(*rows)])
    assert metrics["planning/share"] == pytest.approx(n / sum(policy))
    assert metrics["planning/completions"] == 0.5
    assert metrics["planning/perplexity"] == pytest.approx(exp(1))
    others = policy[0] - n, policy[1]
    assert metrics["execution/perplexity"] == pytest.approx(exp((others[0] + 3 * others[1]) / sum(others)))
    assert (metrics["planning/entropy_nats"], metrics["execution/entropy_nats"]) == pytest.approx((0.5, 2.0))


def test_what_is_missing_is_no_number_and_not_0():
    row = made("wait, no")
    row.segments[0].logprobs[0] = float("nan")
    metrics = gram_metrics([counted(row)])
    assert metrics["execution/perplexity"] == pytest.approx(exp(1))
    assert metrics["planning/share"] == pytest.approx(1 - len(byte_level().encode(", no")) / row.num_tokens)
    assert "planning/entropy_nats" not in metrics
    nothing = gram_metrics([GramCounts()])
    assert nothing["planning/occurrences"] == 0
    assert all(isnan(value) for name, value in nothing.items() if name != "planning/occurrences")
    assert isnan(gram_metrics([counted(made("so"))])["planning/semantic_entropy_nats"])


TEXT = st.lists(st.sampled_from(["wait", "let me check", "so", "it", "is", ","]), max_size=8).map(" ".join)


@given(texts=st.lists(TEXT, min_size=1, max_size=6), cut=st.integers(0, 6))
def test_a_window_shared_among_processes_gives_the_same_numbers(texts, cut):
    rows = [made(text, logprob=-1.0 - k) for k, text in enumerate(texts)]
    whole, shared = gram_metrics([counted(*rows)]), gram_metrics([counted(*rows[:cut]), counted(*rows[cut:])])
    assert shared == pytest.approx(whole, nan_ok=True)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8))
def test_entropy_is_that_of_the_relative_frequencies(counts):
    p = np.array(counts) / sum(counts)
    assert entropy_nats(dict(enumerate(counts))) == pytest.approx(float(-(p * np.log(p)).sum()))
