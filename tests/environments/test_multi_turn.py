"""A scripted two-turn environment, by `module:Class` through the recipe: what it wrote never trains, the rest stays
aligned from the engine to the gradient."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from cib_rl.engines.base import Generation, Sampling
from cib_rl.environments.factory import make_environment
from cib_rl.errors import UserError
from cib_rl.recipe import EnvironmentSection
from cib_rl.rollout import Episode, Rollouts
from cib_rl.trainers import run
from cib_rl.trajectory import StopReason
from cib_rl.trajectory_io import read_trajectories
from tests.environments.scripted import NAME, ScriptedEngine
from tests.trainers.support import HERE, RandomEngine, tiny_recipe

DOCUMENT = "7+8=15 "


def _play(tokenizer, *answers, limit=20, **options):
    section = EnvironmentSection(name=NAME, max_completion_length=limit, **options)
    engine = ScriptedEngine(tokenizer, *answers)
    rollouts = Rollouts(make_environment(section, tokenizer), engine, tokenizer, "tag")
    episodes = [
        Episode({"id": str(i), "prompt": "q ", "answer": "2"}, i, 0, seed=100 + i) for i in range(len(answers) // 2)
    ]
    return rollouts.run(episodes, Sampling(max_tokens=limit)), engine


def test_turns_are_conditioned_on_all_that_came_before(tiny_tokenizer):
    (t,), engine = _play(tiny_tokenizer, "abc", "de<eos>")
    assert [tiny_tokenizer.decode(prompt) for prompt, _ in engine.requests] == ["q ", "q abc" + DOCUMENT]
    assert t.text == "abc" + DOCUMENT + "de<eos>" == tiny_tokenizer.decode(t.completion_ids)
    assert t.policy_text == "abcde<eos>"
    assert t.policy_mask == [1] * 3 + [0] * 7 + [1] * 3
    assert np.isnan(t.logprobs).tolist() == [m == 0 for m in t.policy_mask]
    assert [(turn.segment, turn.start, turn.end) for turn in t.turns] == [(0, 0, 3), (0, 10, 13)]


def test_a_second_segment_is_a_context_of_its_own(tiny_tokenizer):
    (t,), engine = _play(tiny_tokenizer, "abc", "de<eos>", fresh_segment=True)
    assert [tiny_tokenizer.decode(prompt) for prompt, _ in engine.requests] == ["q ", "q " + DOCUMENT]
    assert [tiny_tokenizer.decode(s.prompt_ids) for s in t.segments] == ["q ", "q " + DOCUMENT]
    assert t.text == t.policy_text == "abcde<eos>" and t.policy_mask == [1] * 6
    assert [(turn.segment, turn.start, turn.end) for turn in t.turns] == [(0, 0, 3), (1, 0, 3)]


def test_every_turn_and_member_has_a_seed_of_its_own_that_repeats(tiny_tokenizer):
    def seeds():
        _, engine = _play(tiny_tokenizer, *["a"] * 8)
        return [sampling.seed for _, sampling in engine.requests]

    assert len(set(seeds())) == 8 and seeds() == seeds()


def test_all_turns_share_one_budget_of_tokens(tiny_tokenizer):
    (t,), engine = _play(tiny_tokenizer, "abcde", "fghij", limit=7, max_turn_length=5)
    assert [sampling.max_tokens for _, sampling in engine.requests] == [5, 2]
    assert t.num_tokens == 7 and t.stop_reason is StopReason.LENGTH and t.truncated
    # Nothing is left for the second turn: the engine is not even asked.
    (t,), engine = _play(tiny_tokenizer, "abcde", "fghij", limit=5)
    assert len(engine.requests) == 1 and t.num_tokens == 5 and len(t.turns) == 2 and t.stop_reason is StopReason.LENGTH


def test_an_answer_in_a_document_is_not_the_policys(tiny_tokenizer):
    document = "<answer>2</answer>"
    (t,), _ = _play(tiny_tokenizer, "abc", "de<eos>", document=document)
    assert document in t.text and t.answer is None
    (t,), _ = _play(tiny_tokenizer, "<answer>3</answer>", "de<eos>", document=document)
    assert t.answer == "3"


def test_an_environment_that_raises_loses_its_episode_alone(tiny_tokenizer):
    answers = ["a", "b", Generation([5], [-1.0], StopReason.STOP_STRING), "c"]
    (failed, fine), _ = _play(tiny_tokenizer, *answers, fails_on="0")
    assert failed.errors == ["environment: RuntimeError: the search server is gone"]
    assert failed.stop_reason is StopReason.ERROR and failed.failed and (failed.group, failed.member) == (0, 0)
    assert not fine.failed and fine.num_tokens == 2


def test_a_mistake_in_the_recipe_stops_the_run(tiny_tokenizer):
    with pytest.raises(UserError, match="search server does not exist"):
        _play(tiny_tokenizer, "a", "b", "c", "d", mistake_on="1")


class _Gradient(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        self.value = {n: p.grad.detach().clone() for n, p in model.named_parameters()}


def _recipe(model, folder, **changes):
    options = {"name": NAME, "max_completion_length": 16, "max_turn_length": 8}
    environment = options | changes.pop("environment", {})
    return tiny_recipe(model, folder, **{"trainer.steps": 1, "environment": environment, **changes})


@pytest.mark.trl
@pytest.mark.parametrize("fresh_segment", [False, True])
@pytest.mark.parametrize("correct", [False, True])
def test_the_gradient_is_that_of_the_policys_tokens_alone(
    tmp_path, tiny_model_dir, monkeypatch, fresh_segment, correct
):
    monkeypatch.setattr(run, "make_engine", lambda *_: RandomEngine(longest=8))
    recipe = _recipe(
        tiny_model_dir,
        tmp_path,
        environment={"fresh_segment": fresh_segment},
        **{"trainer.importance": {"enabled": correct, "clip_max": 1.5}, "trainer.micro_batch_size": 4},
    )
    gradient = _Gradient()
    folder = run.train(recipe, callbacks=[gradient], progress=False)
    trajectories = read_trajectories(folder / "trajectories" / "step-000000-rank0.parquet")
    assert {len(t.turns) for t in trajectories} == {2}
    assert {len(t.segments) for t in trajectories} == {1 + fresh_segment}

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    objective, tokens = 0.0, 0
    for group in {t.group for t in trajectories}:
        members = [t for t in trajectories if t.group == group]
        outcome = np.array([float(sum(t.policy_mask) % 2 == 0) for t in members])
        total = outcome + 0.3 * np.array([(t.policy_ids[0] % 7) / 7 for t in members])
        advantages = (total - total.mean()) / (outcome.std(ddof=1) + 0.2)
        for t, advantage in zip(members, advantages, strict=True):
            assert [a != 0 for a in t.tracks["advantage"]] == [bool(m) for m in t.policy_mask]
            for segment in t.segments:
                logps = model(torch.tensor([segment.context_ids])).logits[0].log_softmax(-1)
                for position, token in enumerate(segment.completion_ids):
                    if segment.policy_mask[position]:
                        logp = logps[len(segment.prompt_ids) + position - 1, token]
                        weight = (
                            float(np.exp(logp.item() - segment.logprobs[position]).clip(max=1.5)) if correct else 1.0
                        )
                        objective = objective + (logp - logp.detach()).exp() * advantage * weight
                        tokens += 1
    (-objective / tokens).backward()
    assert max(p.grad.abs().max() for p in model.parameters()) > 1e-3
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradient.value[name], parameter.grad, atol=2e-6, rtol=2e-4)


@pytest.mark.trl
@pytest.mark.parametrize("fresh_segment", [False, True])
def test_the_engines_logprobs_belong_to_the_tokens_that_are_trained(tmp_path, tiny_model_dir, fresh_segment):
    """The real engine, two turns: the trainer's own pass over the whole context finds the same numbers."""
    changes = {"trainer.steps": 2, "deterministic": True, "engine": {"check_every": 1, "max_logprob_gap": 1e-4}}
    changes["sampling.temperature"] = 0.8
    recipe = _recipe(tiny_model_dir, tmp_path, environment={"fresh_segment": fresh_segment}, **changes)
    folder = run.train(recipe, progress=False)
    gaps = [line["gap/max"] for line in run.RunFolder(folder).read_metrics() if "gap/max" in line]
    assert len(gaps) == 2 and all(0 < gap < 1e-4 for gap in gaps)


@pytest.mark.trl
def test_a_group_goes_on_without_its_broken_episode(tmp_path, tiny_model_dir, monkeypatch):
    monkeypatch.setattr(run, "make_engine", lambda *_: RandomEngine(longest=8))
    rewards = [{"name": f"{HERE}:even_length"}]
    recipe = _recipe(tiny_model_dir, tmp_path, environment={"fails_on": "3"}, rewards=rewards, **{"trainer.steps": 8})
    folder = run.train(recipe, progress=False)
    lines = run.RunFolder(folder).read_metrics()
    trajectories = [t for path in sorted((folder / "trajectories").iterdir()) for t in read_trajectories(path)]
    failed = [t for t in trajectories if t.errors]
    assert {t.task["id"] for t in failed} == {"3"} and len(failed) == 4
    assert all("search server" in t.errors[0] and not t.rewards for t in failed)
    assert sorted(line["error_share"] for line in lines)[-2:] == [0, 0.5]
    assert all(line["loss"] is not None for line in lines)
