"""Rewards as verl's `compute_score`: one completion's text at a time. No verl is needed for it."""

from __future__ import annotations

import logging
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cib_rl.errors import UserError
from cib_rl.integrations import as_verl_score
from cib_rl.integrations.verl_scoring import Combiner
from cib_rl.plugin import PluginError, RewardFailure
from tests.integrations.support import HERE

UNIFORM = {"name": "uniform"}
REWARDS = ["math_correct", {"name": "surprisal", "prior": UNIFORM, "weight": 0.1, "only_when_correct": True}]


@pytest.fixture
def score(tiny_tokenizer):
    made = []

    def make(rewards, **arguments):
        made.append(as_verl_score(rewards, **({"tokenizer": tiny_tokenizer} | arguments)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_the_score_is_the_weighted_total_of_what_applies(score):
    """Right: 1 - 0.1 log|V| for each of five tokens; wrong: the gate is shut, so 0."""
    compute_score = score(REWARDS)
    nats = compute_score.scorer.scorer.suite.rewards[1].target.prior.nats
    extra = {"index": 3, "num_turns": None, "rollout_reward_scores": {}}
    right = compute_score("gsm8k", "ab<answer>7</answer>", ground_truth="7.0", extra_info=extra)
    wrong = compute_score(data_source="gsm8k", solution_str="ab<answer>8</answer>", ground_truth="7.0", unknown=1)
    assert right["score"] == pytest.approx(1 - 0.1 * 5 * nats)
    assert (right["math_correct"], right["acc"], right["failed"]) == (1.0, 1.0, 0.0)
    assert right["surprisal"] == wrong["surprisal"] == pytest.approx(-5 * nats)
    assert (wrong["score"], wrong["math_correct"], wrong["acc"]) == (0.0, 0.0, 0.0)
    assert set(right) == set(wrong)  # verl reads the names off the first completion


def test_the_text_is_the_policys_own_not_what_the_tokenizer_makes_of_it(score):
    """The tokenizer knows no capitals; the answer is read from the text that verl gave."""
    assert score(["qa_em"])("nq", "<answer>Zürich</answer>", ["zürich"])["score"] == 1.0


def test_golds_are_read_without_numpy(score):
    gold = {"numbers": np.array([3, 4]), "target": np.int64(7)}
    columns = {"numbers": "ground_truth.numbers", "target": "ground_truth.target"}
    assert score(["countdown_correct"], columns=columns)("countdown", "<answer>3 + 4</answer>", gold)["score"] == 1.0
    several = np.array(["zurich", "bern"], dtype=object)
    assert score(["qa_em"])("nq", "<answer>bern</answer>", several)["score"] == 1.0
    laplace = {"name": "surprisal", "prior": {"name": "laplace", "target": "task.n"}}  # refuses what is no number
    assert score([laplace])("tests", "abc", None, {"n": np.int64(3)})["failed"] == 0.0


def test_a_completion_that_cannot_be_scored_is_never_a_0(score, caplog):
    with pytest.raises(RewardFailure, match=r"row '4' has no reward \(odd\).*failure_score=NUMBER"):
        score([f"{HERE}:odd_ones_fail"])("tests", "abc", "1", {"index": 4})
    with caplog.at_level(logging.WARNING, logger="cib_rl.integrations"):
        result = score([f"{HERE}:odd_ones_fail"], failure_score=-1.0)("tests", "abc", "1", {"index": 4})
    assert (result["score"], result["failed"]) == (-1.0, 1.0) and np.isnan(result["odd_ones_fail"])
    assert "1 of 1 completions could not be scored: row '4'" in caplog.text


def test_several_turns_are_refused(score):
    """verl's text then holds what tools have said."""
    with pytest.raises(PluginError, match=r"row '4': an episode of 6 turns"):
        score(REWARDS)("tests", "abc", "1", {"index": 4, "num_turns": np.int32(6)})


def test_it_survives_pickling(score, tiny_model_dir):
    compute_score = score(REWARDS, tokenizer=str(tiny_model_dir))
    again = pickle.loads(pickle.dumps(compute_score))
    assert again("tests", "<answer>7</answer>", "7") == compute_score("tests", "<answer>7</answer>", "7")


def test_mistakes_show_when_it_is_made(score):
    for rewards, message in [
        ([], "no reward is given"),
        (["math_corect"], r"did you mean 'math_correct'"),
        (["math_correct", {"name": "math_correct"}], "two rewards are labelled 'math_correct'"),
    ]:
        with pytest.raises(UserError, match=message):
            score(rewards)


def test_threads_that_ask_at_the_same_time_are_served_together(score):
    """Twelve ask while the first is being worked on: they are one batch, and everybody gets the own result."""
    sizes, busy, go = [], threading.Event(), threading.Event()

    def work(items):
        sizes.append(len(items))
        busy.set()
        assert go.wait(60)
        return [item * 10 for item in items]

    combiner = Combiner(work)
    with ThreadPoolExecutor(13) as threads:
        first = threads.submit(combiner, 0)
        assert busy.wait(60)
        others = [threads.submit(combiner, i) for i in range(1, 13)]
        while len(combiner._waiting) < 12:
            threading.Event().wait(0.001)
        go.set()
        assert [first.result(60), *(other.result(60) for other in others)] == [i * 10 for i in range(13)]
    assert sizes == [1, 12]


def test_an_error_reaches_everybody_who_was_served_together_and_no_one_later():
    def work(items):
        if "bad" in items:
            raise ValueError("bad item")
        return items

    combiner = Combiner(work)
    with pytest.raises(ValueError, match="bad item"):
        combiner("bad")
    assert combiner("good") == "good"


def test_completions_that_are_scored_together_are_no_group(score):
    """Each is alone: nothing to compare with, and no mean of others to take the place of a failed one."""
    compare, fails = score([f"{HERE}:shorter_than_mean"]), score([f"{HERE}:odd_ones_fail"])
    assert [one.result(60)["score"] for one in served_together(compare, "abc", "ab")] == [0.0, 0.0]
    for one in served_together(fails, "abc", "ab"):
        with pytest.raises(RewardFailure, match=r"has no reward \(odd\)"):
            one.result(60)


def served_together(compute_score, *texts):
    """Asks from a thread for each text while somebody else is being served."""
    combiner = compute_score._combined
    with ThreadPoolExecutor(len(texts)) as threads, combiner._turn:
        asked = [threads.submit(compute_score, "tests", text, "1") for text in texts]
        while len(combiner._waiting) < len(texts):
            threading.Event().wait(0.001)
        combiner._turn.release()
        try:
            for one in asked:
                one.exception(60)
        finally:
            combiner._turn.acquire()
    return asked


def test_threads_get_the_same_scores_as_one_after_the_other(score):
    compute_score = score(REWARDS)
    texts = [f"{'a' * (i % 5)}<answer>{i % 3}</answer>" for i in range(24)]
    alone = [compute_score("tests", text, "1") for text in texts]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda text: compute_score("tests", text, "1"), texts))
    assert together == alone
