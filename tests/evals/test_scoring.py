"""Scoring with a scripted engine behind the real rollout: seeds, errors, several samples, regrading."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from cib_rl.engines.base import Engine, Generation, Sampling
from cib_rl.environments.factory import make_environment
from cib_rl.errors import UserError
from cib_rl.evals.result_io import load_result
from cib_rl.evals.scoring import regrade, sample_seed, score_rows
from cib_rl.plugin import Failed, RewardContext, RewardSuite, reward
from cib_rl.recipe import EnvironmentSection, RewardSection
from cib_rl.rollout import Rollouts
from cib_rl.trajectory import StopReason

ROWS = [{"id": f"sum-{n}", "prompt": f"{n}+1=", "answer": str(n + 1)} for n in range(1, 5)]


class ScriptedEngine(Engine):
    """Answers from the prompt; what a prompt's answers are, a table says. Records the seed of every request."""

    def __init__(self, tokenizer, script):
        self.tokenizer, self.script, self.seeds = tokenizer, script, []

    async def generate(self, prompt_ids, sampling):
        self.seeds.append((self.tokenizer.decode(prompt_ids), sampling.seed))
        await asyncio.sleep(0)
        said = self.script(self.tokenizer.decode(prompt_ids), sampling.seed)
        if isinstance(said, Generation):
            return said
        ids = [*self.tokenizer.encode(said), self.tokenizer.eos_token_id]
        return Generation(ids, [-1.0] * len(ids), StopReason.EOS)

    def sync_weights(self, named_tensors, version):
        raise AssertionError("an evaluation never changes weights")

    def close(self):
        pass


@reward("equals_gold", kind="outcome")
def equals_gold(trajectories):
    """1 where the answer is the gold one, as text."""
    return [float(t.answer == t.task["answer"]) for t in trajectories]


@reward("fails_on_3", kind="outcome")
def fails_on_3(trajectories):
    """Cannot grade the answer 3."""
    return [Failed("cannot read it") if t.answer == "3" else float(t.answer == t.task["answer"]) for t in trajectories]


@reward("applies_never", kind="outcome")
def applies_never(trajectories):
    """None for all."""
    return [None] * len(trajectories)


@reward("length", kind="shaping")
def length(trajectories):
    """Tokens."""
    return [float(t.num_tokens) for t in trajectories]


def _suite(*names):
    return RewardSuite([RewardSection(name=f"{__file__}:{name}") for name in names], RewardContext())


def _rollouts(tokenizer, script):
    section = EnvironmentSection(max_completion_length=40, answer="tag")
    return Rollouts(make_environment(section, tokenizer), ScriptedEngine(tokenizer, script), tokenizer, section.answer)


def _right(prompt, seed):
    return f"so<answer>{int(prompt[0]) + 1}</answer>"


def _score(tokenizer, script=_right, *names, rows=ROWS, samples=2, **more):
    rollouts = _rollouts(tokenizer, script)
    result = score_rows(
        rows, rollouts, _suite(*(names or ("equals_gold",))), samples, 5, sampling=Sampling(40, temperature=0.7), **more
    )
    return result, rollouts.engine


def test_every_row_is_answered_and_graded_with_its_tokens(tiny_tokenizer):
    result, _ = _score(tiny_tokenizer, lambda p, s: "<answer>2</answer>")
    assert [(s.question, s.sample) for s in result.samples] == [(r["id"], i) for r in ROWS for i in range(2)]
    assert [s.outcome for s in result.samples] == ["right"] * 2 + ["wrong"] * 6
    assert {s.tokens for s in result.samples} == {4}  # tag, 2, tag, end of sequence
    assert result.summary()["accuracy"] == 0.25
    assert result.settings["sampling"]["temperature"] == 0.7 and "torch" in result.versions


def test_seeds_follow_question_and_sample_and_nothing_else(tiny_tokenizer):
    few, _ = _score(tiny_tokenizer, rows=ROWS[2:3], samples=1)
    many, engine = _score(tiny_tokenizer, rows=ROWS[::-1], samples=3)
    seeds = {(s.question, s.sample): s.seed for s in many.samples}
    assert few.samples[0].seed == seeds["sum-3", 0] == sample_seed(5, "sum-3", 0)
    assert len(set(seeds.values())) == len(seeds) == 12
    assert len({seed for _, seed in engine.seeds}) == 12
    assert sample_seed(6, "sum-3", 0) != sample_seed(5, "sum-3", 0)


def test_engine_and_environment_failures_are_errors_and_not_wrong_answers(tiny_tokenizer):
    def script(prompt, seed):
        if prompt.startswith("1"):
            return Generation([], [], StopReason.TIMEOUT)
        if prompt.startswith("2"):
            raise RuntimeError("the engine broke")
        return _right(prompt, seed)

    result, _ = _score(tiny_tokenizer, script, samples=1)
    assert [s.outcome for s in result.samples] == ["error", "error", "right", "right"]
    assert "timeout" in result.samples[0].error and "the engine broke" in result.samples[1].error
    assert result.summary(max_error_share=0.5)["accuracy"] == 1.0


def test_a_grader_that_fails_makes_an_error_and_not_a_wrong_answer(tiny_tokenizer):
    result, _ = _score(tiny_tokenizer, _right, "fails_on_3", samples=1)
    assert [s.outcome for s in result.samples] == ["right", "error", "right", "right"]
    assert "cannot read it" in result.samples[1].error


def test_a_grader_that_never_applies_makes_errors(tiny_tokenizer):
    result, _ = _score(tiny_tokenizer, _right, "applies_never")
    assert {s.outcome for s in result.samples} == {"error"}
    with pytest.raises(UserError, match="no outcome reward"):
        result.summary()


def test_without_an_outcome_reward_nothing_is_evaluated(tiny_tokenizer):
    with pytest.raises(UserError, match="needs an outcome reward"):
        _score(tiny_tokenizer, _right, "length")


def test_shaping_rewards_and_measures_become_named_numbers(tiny_tokenizer):
    result, _ = _score(
        tiny_tokenizer, _right, "equals_gold", "length", measure=lambda t, tokenizer: {"characters": len(t.policy_text)}
    )
    numbers = result.samples[0].numbers
    assert numbers["reward/length"] == result.samples[0].tokens
    assert numbers["characters"] == len("so<answer>2</answer><eos>")
    assert result.summary()["numbers/characters"] == numbers["characters"]


def test_empty_and_cut_off_completions_are_wrong_and_counted(tiny_tokenizer):
    def script(prompt, seed):
        return Generation([], [], StopReason.PROMPT_TOO_LONG) if prompt[0] in "12" else "no answer"

    result, _ = _score(tiny_tokenizer, script, samples=1)
    assert [(s.outcome, s.tokens, s.truncated) for s in result.samples[:2]] == [("wrong", 0, True)] * 2
    summary = result.summary()
    assert (summary["accuracy"], summary["truncated_share"], summary["errors"]) == (0.0, 0.5, 0)


def test_regrading_a_saved_result_generates_nothing_and_follows_the_new_grader(tiny_tokenizer, tmp_path):
    result, _ = _score(tiny_tokenizer, _right, "fails_on_3", measure=lambda t, tokenizer: {"kept": 1.0})
    loaded = load_result(result.save(tmp_path / "r"), trajectories=True)
    again = regrade(loaded, _suite("equals_gold"))
    assert [s.outcome for s in loaded.samples].count("error") == 2
    assert {s.outcome for s in again.samples} == {"right"}
    for new, old in zip(again.samples, loaded.samples, strict=True):
        assert (new.tokens, new.text, new.answer, new.seed) == (old.tokens, old.text, old.answer, old.seed)
        assert new.numbers["kept"] == 1.0 and set(new.numbers) == {"kept", "reward/equals_gold"}
    assert again.settings["regraded"] and loaded.settings.get("regraded") is None
    same = regrade(loaded, _suite("fails_on_3"))
    assert [replace(s, numbers={}) for s in same.samples] == [replace(s, numbers={}) for s in loaded.samples]


def test_regrading_can_read_the_answer_elsewhere_and_needs_the_episodes(tiny_tokenizer):
    result, _ = _score(tiny_tokenizer, lambda p, s: "<answer>0</answer>" + str(int(p[0]) + 1))
    assert result.summary()["accuracy"] == 0
    again = regrade(result, _suite("equals_gold"), answer_style=r"regex:(\d)$")
    assert again.summary()["accuracy"] == 1 and again.settings["answer"] == r"regex:(\d)$"
    with pytest.raises(UserError, match="does not hold its trajectories"):
        regrade(replace(result, trajectories=None), _suite("equals_gold"))
