"""Rewards in TRL's own GRPO trainer give what they give in ours."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
from transformers import TrainerCallback
from trl import RLOOConfig, RLOOTrainer

from cib_rl.integrations import as_trl, as_trl_suite
from cib_rl.integrations.trl_rows import facts_behind
from cib_rl.plugin import PluginError
from tests.conftest import build_tiny_model, build_tiny_tokenizer
from tests.integrations.support import CHAT, DIGIT, HERE, Recorder, grpo, own_scores, own_trajectories, rows

pytestmark = pytest.mark.trl

BATCH = 16


@pytest.fixture(scope="module")
def prior_dir(tmp_path_factory):
    """Another tiny model, with the policy's tokenizer."""
    folder = tmp_path_factory.mktemp("prior") / "model"
    build_tiny_model(seed=7).save_pretrained(folder)
    build_tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def tokenizer():
    made = build_tiny_tokenizer()
    made.chat_template = CHAT
    return made


@pytest.fixture
def arguments(tokenizer):
    return dict(tokenizer=tokenizer, answer=DIGIT, columns={"answer": "solution"})


@pytest.mark.parametrize("conversational", [False, True], ids=["text", "messages"])
def test_trl_logs_what_our_own_suite_gives_on_the_same_completions(
    conversational, tokenizer, arguments, prior_dir, tmp_path
):
    """An outcome, a shaping reward with a language-model prior, an async one, and one that asks how the end came."""
    prior = {"name": "language_model", "model": str(prior_dir)}
    sections = [
        {"name": "math_correct"},
        {"name": "surprisal", "prior": prior, "tokens": "reasoning", "label": "cost"},
        {"name": f"{HERE}:judge", "bonus": 0.5},
        {"name": f"{HERE}:cut_off"},
    ]
    names = ["math_correct", "cost", "judge", "cut_off"]
    recorder = Recorder()
    ours = [as_trl(section, **arguments) for section in sections]
    data = rows(conversational=conversational)
    trainer = grpo(build_tiny_model(), tokenizer, data, [*ours, recorder], tmp_path, batch=BATCH)
    trainer.train()
    assert len(recorder.calls) == 2
    every = []
    for step, call in enumerate(recorder.calls):
        made = own_trajectories(tokenizer, call, chat=conversational)
        scores = own_scores(tokenizer, made, *sections)
        every.append(scores)
        logged = trainer.state.log_history[step]
        for name in names:
            assert logged[f"rewards/{name}/mean"] == pytest.approx(scores.values[name].mean(), rel=1e-5)
        # What rewards attach is among TRL's metrics, under the reward's name.
        nats = np.mean([t.diagnostics["surprisal"] for t in made])
        assert logged["cost/surprisal"] == pytest.approx(nats, rel=1e-5)
    for name in names:  # TRL keeps the rows of the last step
        np.testing.assert_allclose(list(trainer._logs["rewards"][name]), scores.values[name], rtol=1e-5, atol=1e-6)
        values = np.concatenate([scores.values[name] for scores in every])
        assert len(set(values)) > 1, f"{name} is the same for all completions: nothing was compared"


def test_an_outcome_given_by_argument_decides_about_shaping_rewards(tokenizer, arguments, tmp_path):
    """Gate and successes follow the outcome reward, which itself is neither logged nor added."""
    recorder = Recorder()
    reward_funcs = [
        as_trl("kimi_length", outcome="math_correct", **arguments),
        as_trl(
            "surprisal",
            prior={"name": "uniform"},
            only_when_correct=True,
            outcome={"name": "math_correct", "timeout": 9.0},
            **arguments,
        ),
        recorder,
    ]
    trainer = grpo(build_tiny_model(), tokenizer, rows(), reward_funcs, tmp_path, batch=BATCH)
    trainer.train()
    call = recorder.calls[-1]
    scores = own_scores(
        tokenizer,
        own_trajectories(tokenizer, call),
        {"name": "math_correct"},
        {"name": "kimi_length"},
        {"name": "surprisal", "prior": {"name": "uniform"}},
    )
    assert 0 < scores.correct.sum() < BATCH
    logs = trainer._logs["rewards"]
    assert set(logs) == {"kimi_length", "surprisal", "recorder"}
    np.testing.assert_allclose(list(logs["kimi_length"]), scores.values["kimi_length"], rtol=1e-5)
    gated = np.where(scores.correct, scores.values["surprisal"], np.nan)
    np.testing.assert_allclose(list(logs["surprisal"]), gated, rtol=1e-5)


def test_two_rows_with_the_same_prompt_are_two_groups(tokenizer, arguments, tmp_path):
    """TRL's layout decides, in training and in evaluation, which samples another number of completions."""
    data = [{"prompt": "the same for all", "solution": row["solution"]} for row in rows()]
    recorder = Recorder()
    reward = as_trl(f"{HERE}:shorter_than_mean", **arguments)
    trainer = grpo(
        build_tiny_model(), tokenizer, data, [reward, recorder], tmp_path, batch=BATCH, num_generations_eval=2
    )
    trainer.train()
    logged = list(trainer._logs["rewards"]["shorter_than_mean"])
    expected = _below_mean(recorder.calls[-1], size=4)
    np.testing.assert_allclose(logged, expected, rtol=1e-5)
    assert not np.allclose(expected, _below_mean(recorder.calls[-1], size=BATCH)), "one group would give the same"
    trainer.evaluate(eval_dataset=trainer.train_dataset)
    logged = list(trainer._logs["rewards"]["shorter_than_mean"])[-8:]
    np.testing.assert_allclose(logged, _below_mean(recorder.calls[-1], size=2), rtol=1e-5)


def _below_mean(call, size):
    lengths = np.array([len(ids) for ids in call["ids"]], dtype=float).reshape(-1, size)
    return (lengths.mean(axis=1, keepdims=True) - lengths).ravel()


def test_a_failure_is_none_and_a_warning_that_names_the_row(tokenizer, arguments, tmp_path, caplog):
    reward = as_trl(f"{HERE}:picky", **arguments)
    trainer = grpo(build_tiny_model(), tokenizer, rows(), [reward], tmp_path, batch=BATCH, max_steps=1)
    recorder = Recorder()
    trainer.reward_funcs.insert(0, recorder)  # sees the ids; its own values are not logged
    trainer.reward_func_names.insert(0, "recorder")
    trainer.reward_processing_classes.insert(0, None)
    trainer.reward_weights = trainer.reward_weights.new_tensor([0.0, 1.0])
    with caplog.at_level(logging.WARNING, logger="cib_rl.integrations"):
        trainer.train()
    values = list(trainer._logs["rewards"]["picky"])
    for name, value in zip(recorder.calls[0]["id"], values, strict=True):
        assert math.isnan(value) if name in ("r1", "r2") else value == 1.0
    assert trainer.state.log_history[0]["rewards/picky/mean"] == 1.0
    [warning] = [r.getMessage() for r in caplog.records if r.name == "cib_rl.integrations"]
    assert warning.startswith("4 of 16 completions could not be scored: row 'r1' (completion ")
    assert "reward 'picky': the judge is away" in warning and "'r2'" not in warning


@pytest.mark.parametrize("with_async", [False, True])
def test_rewards_of_a_suite_fail_together_and_are_computed_once(with_async, tokenizer, arguments, tmp_path):
    """TRL adds up what is not None: one failed reward of two would count as 0. In a suite the row drops out."""
    sections = [{"name": "math_correct"}, {"name": f"{HERE}:CountsCalls"}]
    sections += [{"name": f"{HERE}:judge"}] if with_async else []
    suite = as_trl_suite(sections, **arguments)
    trainer = grpo(build_tiny_model(), tokenizer, rows(), suite, tmp_path, batch=BATCH, beta=0.0)
    advantages = []
    trainer.add_callback(_EachStep(lambda: advantages.append(list(trainer._logs["advantages"]))))
    trainer.train()
    counter = suite[0].step.scorer.suite.rewards[1].target
    assert [len(call) for call in counter.calls] == [BATCH, BATCH]
    logs = trainer._logs["rewards"]
    assert list(logs) == [reward.__name__ for reward in suite]
    for i, name in enumerate(counter.calls[-1]):
        values = [logs[one][i] for one in logs]
        if name == "r1":
            assert all(math.isnan(value) for value in values) and advantages[-1][i] == 0.0
        else:
            assert values[1] == values[0] and not any(math.isnan(value) for value in values)
    scored = BATCH - counter.calls[-1].count("r1")
    mean = np.nansum([list(values) for values in logs.values()]) / scored
    assert trainer.state.log_history[1]["reward"] == pytest.approx(mean, abs=1e-5)


class _EachStep(TrainerCallback):
    def __init__(self, look):
        self.look = look

    def on_step_end(self, *_, **__):
        self.look()


def test_async_rewards_run_together_in_trl(tokenizer, arguments, tmp_path):
    """Each waits until the other has started: one after the other would never end."""
    from tests.integrations import support

    support.BARRIER.reset()
    two = [as_trl(f"{HERE}:meets_another", label=label, **arguments) for label in ("one", "two")]
    trainer = grpo(build_tiny_model(), tokenizer, rows(), two, tmp_path, batch=BATCH, max_steps=1)
    trainer.train()
    assert list(trainer._logs["rewards"]["one"]) == [1.0] * BATCH


def test_two_rewards_of_one_name_are_refused_at_the_first_step(tokenizer, arguments, tmp_path):
    twins = [as_trl("surprisal", prior={"name": name}, **arguments) for name in ("uniform", "uniform")]
    trainer = grpo(build_tiny_model(), tokenizer, rows(), twins, tmp_path)
    with pytest.raises(PluginError, match=r"named 'surprisal', and TRL would mix .*as_trl\(\.\.\., label="):
        trainer.train()


def test_a_part_of_a_group_is_refused_unless_the_reward_compares_nothing(tokenizer, arguments, tmp_path):
    trainer = grpo(build_tiny_model(), tokenizer, rows(), [Recorder()], tmp_path)
    six = dict(
        prompts=["q"] * 6,
        completions=["a"] * 6,
        completion_ids=[[20 + i, 1] for i in range(6)],
        solution=["1"] * 6,
        log_metric=trainer._log_metric,
    )
    with pytest.raises(PluginError, match=r"6 completions are no whole groups of 4.*whole_groups=False"):
        as_trl(f"{HERE}:cut_off", **arguments)(**six)
    assert as_trl(f"{HERE}:cut_off", whole_groups=False, **arguments)(**six) == [0.0] * 6


@pytest.mark.parametrize("trainer_class", ["grpo", "rloo"])
def test_the_facts_of_the_trainer_are_where_we_look_for_them(trainer_class, tokenizer, tmp_path):
    """The seam of the tested TRL range: `log_metric` is bound to a trainer with these attributes."""
    model = build_tiny_model()
    model.generation_config.eos_token_id = [1, 9]
    recorder = Recorder()
    if trainer_class == "grpo":
        trainer = grpo(model, tokenizer, rows(), [recorder], tmp_path, num_generations_eval=2, max_steps=1)
        trainer.train()
    else:
        from datasets import Dataset

        changes = dict(num_generations=4, num_generations_eval=2, max_completion_length=8, max_steps=1, beta=0.0)
        trainer = RLOOTrainer(
            model=model,
            reward_funcs=[recorder],
            args=RLOOConfig(
                str(tmp_path), use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True, **changes
            ),
            train_dataset=Dataset.from_list(rows()),
            processing_class=tokenizer,
        )
        trainer.train()
    trainer.model.train()
    facts = facts_behind(recorder.calls[0]["log_metric"])
    assert (facts.num_generations, facts.names, facts.end_ids) == (4, ("recorder",), {1, 9})
    trainer.model.eval()
    assert facts_behind(recorder.calls[0]["log_metric"]).num_generations == 2
    assert facts_behind(print).num_generations is None
