"""Finishing episodes: one decode of the ids, the answer from the policy's tokens, all that can end an episode."""

import asyncio

import pytest

from cib_rl.engines.base import Generation, Sampling
from cib_rl.engines.transformers import TransformersEngine
from cib_rl.environments.factory import make_environment
from cib_rl.errors import UserError
from cib_rl.recipe import EnvironmentSection
from cib_rl.rollout import Episode, Rollouts
from cib_rl.trainers import run
from cib_rl.trajectory import StopReason
from cib_rl.trajectory_io import read_trajectories
from tests.environments.scripted import ScriptedEngine
from tests.trained_tokenizers import byte_level
from tests.trainers.support import HERE, RandomEngine, tiny_recipe


def _rollouts(tokenizer, engine, answer="tag", **section):
    section = EnvironmentSection(**{"max_completion_length": 64, **section})
    return Rollouts(make_environment(section, tokenizer), engine, tokenizer, answer)


def _episodes(count=1, prompt="q "):
    return [Episode({"id": "0", "prompt": prompt, "answer": "2"}, 0, i, seed=i) for i in range(count)]


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("tag", "<answer>42</answer><eos>"),
        ("hash", "so #### 42<eos>"),
        ("last_line", "so\n42 <eos>"),
        ("boxed", "\\boxed{42}<eos>"),
    ],
)
def test_the_end_token_is_no_part_of_the_answer(style, text):
    tokenizer = byte_level(eos="<eos>")
    (t,) = _rollouts(tokenizer, ScriptedEngine(tokenizer, text), style).run(_episodes(), Sampling(max_tokens=64))
    assert t.stop_reason is StopReason.EOS and t.text == text
    assert t.answer == "42"


def test_rollouts_run_inside_a_running_loop(tiny_tokenizer):
    """As in a notebook, where `asyncio.run` refuses."""

    async def notebook():
        return _rollouts(tiny_tokenizer, ScriptedEngine(tiny_tokenizer, "2<eos>")).run(
            _episodes(), Sampling(max_tokens=64)
        )

    (t,) = asyncio.run(notebook())
    assert t.text == "2<eos>"


def test_an_environment_that_returns_something_else_is_named(tiny_tokenizer):
    class Forgetful:
        async def run(self, task, engine):
            await engine.generate([5])

    rollouts = Rollouts(Forgetful(), ScriptedEngine(tiny_tokenizer, "a"), tiny_tokenizer, "tag")
    with pytest.raises(UserError, match="environment Forgetful: `run` returned NoneType, not a Trajectory"):
        rollouts.run(_episodes(), Sampling(max_tokens=64))


def test_members_differ_and_repeat_with_their_seeds(tiny_model, tiny_tokenizer):
    engine = TransformersEngine(tiny_model, tiny_tokenizer)
    try:
        rollouts = _rollouts(tiny_tokenizer, engine)
        first, again = ([t.completion_ids for t in rollouts.run(_episodes(4), Sampling(max_tokens=32))] for _ in "ab")
    finally:
        engine.close()
    assert first == again and len({tuple(ids) for ids in first}) == 4


def test_a_stop_string_that_ends_inside_a_token_keeps_the_whole_token(tiny_model, tiny_tokenizer):
    engine = TransformersEngine(tiny_model, tiny_tokenizer)
    try:
        rollouts = _rollouts(tiny_tokenizer, engine, max_completion_length=200, stop=["<ans"])
        trajectories = rollouts.run(_episodes(24), Sampling(max_tokens=200))
    finally:
        engine.close()
    stopped = [t for t in trajectories if t.stop_reason is StopReason.STOP_STRING]
    assert stopped
    for t in stopped:
        assert t.completion_ids[-1] == tiny_tokenizer.convert_tokens_to_ids("<answer>") and t.text.endswith("<answer>")
        assert t.text == tiny_tokenizer.decode(t.completion_ids) and t.text.count("<ans") == 1
        assert len(t.logprobs) == len(t.completion_ids) and not t.truncated


def test_too_long_a_prompt_is_a_result(tiny_model, tiny_tokenizer):
    engine = TransformersEngine(tiny_model, tiny_tokenizer, max_model_len=16)
    try:
        (t,) = _rollouts(tiny_tokenizer, engine).run(_episodes(prompt="q" * 40), Sampling(max_tokens=64))
    finally:
        engine.close()
    assert t.stop_reason is StopReason.PROMPT_TOO_LONG and t.truncated and not t.failed and t.completion_ids == []
    assert t.text == "" and t.answer is None


class _OneEmpty(RandomEngine):
    """Every third completion is empty, as for a prompt that leaves no room."""

    async def generate(self, prompt_ids, sampling):
        generation = await super().generate(prompt_ids, sampling)
        if len(self.requests) % 3 == 0:
            return Generation(stop_reason=StopReason.PROMPT_TOO_LONG)
        return generation


@pytest.mark.trl
@pytest.mark.parametrize("loss", ["dapo", "grpo", "sapo"])
def test_empty_completions_train_without_a_crash(tmp_path, tiny_model_dir, monkeypatch, loss):
    monkeypatch.setattr(run, "make_engine", lambda *_: _OneEmpty())
    rewards = [{"name": f"{HERE}:even_length"}]
    changes = {"rewards": rewards, "trainer.loss": loss, "trainer.steps": 2, "trainer.micro_batch_size": 2}
    folder = run.train(tiny_recipe(tiny_model_dir, tmp_path, **changes, **{"trainer.kl": 0.01}), progress=False)
    lines = run.RunFolder(folder).read_metrics()
    assert all(line["loss"] is not None and line["grad_norm"] is not None for line in lines)
    assert any(line.get("stop/prompt_too_long", 0) > 0 for line in lines)
    trajectories = read_trajectories(folder / "trajectories" / "step-000000-rank0.parquet")
    assert any(not t.completion_ids for t in trajectories)


@pytest.mark.trl
def test_a_window_of_empty_completions_is_a_clear_error(tmp_path, tiny_model_dir):
    rewards = [{"name": f"{HERE}:even_length"}]
    recipe = tiny_recipe(tiny_model_dir, tmp_path, rewards=rewards, engine={"max_model_len": 2})
    with pytest.raises(UserError, match=r"nothing to learn from.*of 8 completions 0 failed, 8 were cut off"):
        run.train(recipe, progress=False)


@pytest.mark.trl
def test_masking_all_that_was_cut_off_is_a_clear_error(tmp_path, tiny_model_dir):
    recipe = tiny_recipe(
        tiny_model_dir, tmp_path, environment={"max_completion_length": 1}, **{"trainer.mask_truncated": True}
    )
    with pytest.raises(UserError, match=r"8 were cut off \(masked: trainer\.mask_truncated\)"):
        run.train(recipe, progress=False)
