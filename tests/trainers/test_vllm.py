"""Training with the real vLLM in this process. One engine serves all tests: starting it takes longer than they do."""

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, TrainerCallback

from cib_rl.engines.factory import make_engine
from cib_rl.engines.weights import policy_tensors
from cib_rl.errors import UserError
from cib_rl.trainers import run
from cib_rl.trajectory_io import read_trajectories
from tests.trainers.support import HERE, tiny_recipe
from tests.trainers.test_distributed import launch, moved_apart, plain_weights, records

pytestmark = [pytest.mark.trl, pytest.mark.vllm, pytest.mark.slow]

ENGINE = {"name": "vllm", "max_num_seqs": 8, "max_model_len": 64, "check_every": 1, "max_logprob_gap": 1e-4}


class _SharedEngine:
    """Made by the first run as any run makes it, then kept: every run brings its own weights with its first sync."""

    engine = None

    def make(self, *parts):
        if self.engine is None:
            self.engine = make_engine(*parts)
            self.close, self.engine.close = self.engine.close, lambda: None
        return self.engine


@pytest.fixture(scope="module")
def shared():
    shared = _SharedEngine()
    yield shared
    if shared.engine is not None:
        shared.close()


@pytest.fixture
def make_recipe(tmp_path, tiny_model_dir, monkeypatch, shared):
    monkeypatch.setattr(run, "make_engine", shared.make)

    def make(**changes):
        engine = ENGINE | changes.pop("engine", {})
        options = {"trainer.steps": 3, "trainer.learning_rate": 0.01, "sampling.temperature": 0.8, **changes}
        return tiny_recipe(tiny_model_dir, tmp_path, **options, engine=engine)

    return make


class _Gradient(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        self.value = {n: p.grad.detach().clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 16}])
def test_engine_and_trainer_agree_after_every_update(make_recipe, tiny_model_dir, lora):
    recipe = make_recipe(lora=lora, **{"trainer.learning_rate": 0.05 if lora else 0.01})
    with run.prepare(recipe) as trainer:
        trainer.train()
        weights = {n: t.detach().clone() for n, t in policy_tensors(trainer.model)}
        lines = trainer.run_folder.read_metrics()
    start = plain_weights(tiny_model_dir)
    assert moved_apart(weights, start, start) == 1  # at least 0.01 away: the engine's first weights would not do
    assert len(lines) == 3 and all(0 < line["gap/max"] < 1e-4 for line in lines)
    for line in lines:
        assert line["ratio/median"] == pytest.approx(1, abs=1e-4) and line["ratio/missing"] == 0
        assert line["ratio/clipped_share"] == 0 and abs(line["ratio/kl_engine_trainer"]) < 1e-4


def test_the_gradient_carries_the_importance_weight(make_recipe, tiny_model_dir):
    """Clipped at 0.9, below every ratio: the weight is seen in each token's term."""
    gradient = _Gradient()
    changes = {
        "trainer.steps": 1,
        "trainer.importance": {"clip_max": 0.9},
        "rewards": [{"name": f"{HERE}:even_length"}],
    }
    folder = run.train(make_recipe(**changes), callbacks=[gradient], progress=False)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    trajectories = read_trajectories(folder / "trajectories" / "step-000000-rank0.parquet")
    objective, tokens = 0.0, 0
    for group in {t.group for t in trajectories}:
        members = [t for t in trajectories if t.group == group]
        outcome = np.array([float(t.num_tokens % 2 == 0) for t in members])
        for t, advantage in zip(members, (outcome - outcome.mean()) / (outcome.std(ddof=1) + 0.2), strict=True):
            prompt, ids = t.segments[0].prompt_ids, t.completion_ids
            logps = (model(torch.tensor([prompt + ids])).logits[0] / 0.8).log_softmax(-1)
            logps = logps[len(prompt) - 1 : -1].gather(-1, torch.tensor(ids)[:, None])[:, 0]
            weight = (logps.detach() - torch.tensor(t.logprobs)).exp().clamp(max=0.9)
            objective = objective + ((logps - logps.detach()).exp() * weight).sum() * advantage
            tokens += len(ids)
    (-objective / tokens).backward()
    assert max(p.grad.abs().max() for p in model.parameters()) > 1e-3
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradient.value[name], parameter.grad, atol=5e-6, rtol=5e-4)


def test_ppo_with_its_critic_over_vllm(make_recipe):
    """Two updates per window: the engine's weights are older than the policy at the second one."""
    changes = {"trainer.name": "ppo", "trainer.num_iterations": 2, "trainer.steps": 4, "sampling.group_size": 1}
    with run.prepare(make_recipe(**changes, **{"trainer.prompts_per_step": 8})) as trainer:
        trainer.train()
        lines = trainer.run_folder.read_metrics()
    assert [line["gap/max"] < 1e-4 for line in lines if "gap/max" in line] == [True, True]
    assert all(line["critic/loss"] > 0 and line["critic/grad_norm"] > 0 for line in lines)
    assert lines[1]["kl_old_new"] > 0 == lines[0]["kl_old_new"]


def test_a_gap_over_the_limit_stops_the_run(make_recipe):
    with pytest.raises(UserError, match=r"engine and trainer disagree.*limit 1e-12, engine\.max_logprob_gap"):
        run.train(make_recipe(engine={"max_logprob_gap": 1e-12}), progress=False)


SHIPPED = HERE.parents[2] / "recipes" / "launch"


@pytest.mark.deepspeed
def test_two_processes_with_an_engine_each(tmp_path, tiny_model_dir):
    """Plain, and with the policy sharded by the shipped ZeRO-3 configuration (beside a prior that is not), whole and
    with adapters: both train the same."""
    surprisal = {"name": "surprisal", "weight": 0.01, "prior": {"name": "language_model", "model": str(tiny_model_dir)}}
    rewards = [{"name": f"{HERE}:even_length"}, surprisal]
    zero3 = {"trainer.deepspeed": str(SHIPPED / "zero3.json")}
    adapters = {"lora": {"r": 4, "alpha": 16}, "trainer.learning_rate": 0.05}
    jobs = {}
    for name, changes in {"plain": {}, "zero3": zero3, "lora": adapters, "lora zero3": adapters | zero3}.items():
        (tmp_path / name).mkdir()
        changes = {"trainer.learning_rate": 0.01, "trainer.kl": 0.01, "trainer.steps": 2, "rewards": rewards, **changes}
        jobs[name] = {"recipe": tiny_recipe(tiny_model_dir, tmp_path / name, engine=ENGINE, **changes)}
    launch(tmp_path, jobs)
    for name in jobs:
        assert [r["error"] for r in records(tmp_path, name)] == [None, None]
        lines = run.RunFolder(tmp_path / name / "runs" / "run").read_metrics()
        assert len(lines) == 2 and all(0 < line["gap/max"] < 1e-4 for line in lines)
    trained = {name: torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in jobs}
    start = plain_weights(tiny_model_dir)
    assert moved_apart(trained["zero3"], trained["plain"], start) < 1e-2
    assert moved_apart(trained["lora zero3"], trained["lora"], start) < 1e-2


@pytest.mark.deepspeed
def test_the_shipped_accelerate_configuration_shards_the_policy(tmp_path, tiny_model_dir):
    """`accelerate launch --config_file zero3.yaml`, with two processes and no bf16; the recipe says nothing of it."""
    shipped = yaml.safe_load((SHIPPED / "zero3.yaml").read_text())
    (tmp_path / "zero3.yaml").write_text(yaml.safe_dump(shipped | {"num_processes": 2, "mixed_precision": "no"}))
    launcher = ["accelerate.commands.launch", "--config_file", str(tmp_path / "zero3.yaml"), "--main_process_port", "0"]
    launch(tmp_path, {"shipped": {"recipe": tiny_recipe(tiny_model_dir, tmp_path, engine=ENGINE)}}, launcher)
    assert {(r["error"], r["engine"]) for r in records(tmp_path, "shipped")} == {(None, "DeepSpeedEngine")}
