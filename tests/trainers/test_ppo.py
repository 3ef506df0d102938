"""PPO with a critic: its gradients against plain torch, what it skips, and how it resumes."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, TrainerCallback

from cib_rl.errors import UserError
from cib_rl.recipe import Recipe
from cib_rl.run_folder import RunFolder
from cib_rl.trainers import critic_model, grpo, run, value_head
from cib_rl.trajectory_io import read_trajectories
from tests.environments.scripted import NAME as TWO_TURNS
from tests.trainers.naive_ppo import NaivePPO, Settings
from tests.trainers.support import HERE, RandomEngine, tiny_recipe

pytestmark = [pytest.mark.trl]

PPO = {"trainer.name": "ppo", "critic": {"learning_rate": 2e-3, "max_grad_norm": 1e9, "value_clip": 0.1}}


@pytest.fixture
def random_engine(monkeypatch):
    monkeypatch.setattr(run, "make_engine", lambda *_: RandomEngine(longest=8))


class _Watch(TrainerCallback):
    """Keeps, at every optimizer step, the rows it was made of, both gradients and, after it, both models' weights."""

    def __init__(self, monkeypatch):
        self.rows, self.gradients, self.of_critic, self.weights, self.trainer = [[]], [], [], [], None
        real = grpo.take

        def take(batch, rows):
            self.rows[-1] += rows.tolist()
            return real(batch, rows)

        monkeypatch.setattr(grpo, "take", take)

    def watch(self, trainer):
        self.trainer = trainer
        if hasattr(trainer.critic, "_step"):
            real = trainer.critic._step

            def step():
                named = trainer.critic.model.named_parameters()
                self.of_critic.append({n: p.grad.clone() for n, p in named if p.grad is not None})
                return real()

            trainer.critic._step = step

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        # The critic has made its step by then: it is the last thing of a training step.
        own = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        self.gradients.append((own, *self.of_critic[-1:]))

    def on_step_end(self, args, state, control, model=None, **_):
        critic = self.trainer.critic
        parts = model, critic.model if hasattr(critic, "model") else critic.head
        self.weights.append(tuple({n: p.detach().clone() for n, p in part.named_parameters()} for part in parts))
        self.rows.append([])


def _train(recipe, monkeypatch, resume=None):
    watch = _Watch(monkeypatch)
    with run.prepare(recipe, checkpoint=resume, callbacks=[watch]) as trainer:
        watch.watch(trainer)
        start = tuple(
            {n: p.detach().clone() for n, p in part.named_parameters()}
            for part in (trainer.model, getattr(trainer.critic, "model", None) or trainer.critic.head)
        )
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        watch.weights.insert(0, start)
        watch.folder = trainer.run_folder
    return watch


def _critic_of(model_dir):
    critic = AutoModelForTokenClassification.from_pretrained(model_dir, num_labels=1, dtype=torch.float32)
    torch.nn.init.zeros_(critic.score.weight)
    torch.nn.init.zeros_(critic.score.bias)
    return critic.eval()


CASES = {
    "plain": {},
    "lambda and gamma": {"credit": [{"name": "gae", "gamma": 0.98, "lam": 0.9}]},
    "documents": {"environment": {"name": TWO_TURNS, "max_completion_length": 16, "max_turn_length": 8}},
    "two contexts": {
        "environment": {"name": TWO_TURNS, "max_completion_length": 16, "max_turn_length": 8, "fresh_segment": True}
    },
    "kl in the loss": {"trainer.kl": 0.3},
    "kl in the reward": {"trainer.kl": 0.3, "trainer.kl_in": "reward"},
    "k3 in the reward": {"trainer.kl": 0.3, "trainer.kl_in": "reward", "trainer.kl_estimator": "k3"},
    "token rewards": {"rewards": [{"name": f"{HERE}:even_length"}, {"name": f"{HERE}:every_token", "weight": 0.2}]},
    "gradient checkpointing": {
        "trainer.gradient_checkpointing": True,
        "critic": {**PPO["critic"], "gradient_checkpointing": True},
    },
    "rows out of the loss": {
        "trainer.mask_truncated": True,
        "rewards": [{"name": f"{HERE}:even_length"}, {"name": f"{HERE}:first_token", "weight": 0.3}],
    },
    # TRL's mean is over a micro-batch: here each optimizer step is one.
    "entropy bonus": {"trainer.entropy": 0.2, "trainer.micro_batch_size": None},
    "groups of one": {"sampling": {"group_size": 1}, "trainer.prompts_per_step": 8},
}


@pytest.mark.parametrize("case", CASES)
def test_both_gradients_equal_a_plain_implementation_over_epochs_and_mini_batches(
    tmp_path, tiny_model_dir, monkeypatch, random_engine, case
):
    """Two windows of two optimizer steps, each window used twice: eight steps, the later ones off-policy."""
    recipe = tiny_recipe(
        tiny_model_dir,
        tmp_path,
        **{
            **PPO, "trainer.steps": 8, "trainer.steps_per_window": 2, "trainer.num_iterations": 2,
            "trainer.micro_batch_size": 4, "trainer.token_budget": 64, "trainer.epsilon": 0.05, **CASES[case],
        },
    )  # fmt: skip
    watch = _train(recipe, monkeypatch)
    trainer, gae = recipe.trainer, recipe.credit[0].kwargs
    naive = NaivePPO(
        AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32),
        _critic_of(tiny_model_dir),
        Settings(
            trainer.learning_rate, recipe.critic.learning_rate, gae.get("gamma", 1.0), gae.get("lam", 1.0),
            clip=0.05, value_clip=recipe.critic.value_clip, kl=trainer.kl, kl_in=trainer.kl_in,
            estimator=trainer.kl_estimator, steps_per_window=2, entropy=trainer.entropy,
        ),
    )  # fmt: skip
    orders = []
    for step in range(8):
        if step % 4 == 0:
            path = watch.folder.trajectories / f"step-{step:06d}-rank0.parquet"
            trajectories = read_trajectories(path)
            assert len(trajectories) == 16
            rewards, per_token = _rewards(trajectories, case)
            kept = [not (t.truncated and trainer.mask_truncated) for t in trajectories]
            assert all(kept) != (case == "rows out of the loss")
            naive.window(trajectories, rewards, per_token, kept)
        naive.step(watch.rows[step])
        orders.append(tuple(sorted(watch.rows[step])))
        for number, (got, wanted) in enumerate(zip(watch.gradients[step], naive.gradients[step], strict=True)):
            assert set(got) == set(wanted)
            apart = sum(((got[n] - wanted[n]) ** 2).sum() for n in got) ** 0.5
            size = sum((wanted[n] ** 2).sum() for n in got) ** 0.5
            assert size > 1e-4 and apart / size < 2e-3, (step, ("policy", "critic")[number])
    # The four steps over a window are two partitions of its rows, and not the same one twice.
    rows = len(naive.rows)
    assert sorted(orders[0] + orders[1])[:rows] == sorted(orders[2] + orders[3])[:rows] == list(range(rows))
    assert {orders[0], orders[1]} != {orders[2], orders[3]}
    line = {name: value for line in watch.folder.read_metrics()[4:6] for name, value in line.items()}
    assert {"critic/loss", "critic/clip_share", "critic/explained_variance", "critic/grad_norm"} <= set(line)
    assert max(line["critic/clip_share"] for line in watch.folder.read_metrics()) > 0
    assert "kl_old_new" in line and ("kl_reward" in line) == (trainer.kl_in == "reward")


def _rewards(trajectories, case):
    even = np.array([float(t.num_tokens % 2 == 0) for t in trajectories])
    if case == "token rewards":
        return even, [[0.2 * math.sin(i) for i in t.policy_ids] for t in trajectories]
    return even + 0.3 * np.array([(t.policy_ids[0] % 7) / 7 for t in trajectories]), None


def _same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_critic_can_learn_alone_first(tmp_path, tiny_model_dir, monkeypatch, random_engine):
    recipe = tiny_recipe(
        tiny_model_dir,
        tmp_path,
        **PPO | {"critic": {"learning_rate": 1e-3, "warmup_steps": 2}, "trainer.steps": 4, "trainer.weight_decay": 0.1},
    )
    watch = _train(recipe, monkeypatch)
    policy, critic = zip(*watch.weights, strict=True)
    # Adam's moments learn nothing from a skipped step, either.
    assert [any(g.any() for g in own.values()) for own, _ in watch.gradients] == [False, False, True, True]
    assert [_same(policy[k], policy[k + 1]) for k in range(4)] == [True, True, False, False]
    assert not any(_same(critic[k], critic[k + 1]) for k in range(4))
    lines = RunFolder(tmp_path / "runs" / "run").read_metrics()
    assert [line["policy_skipped"] for line in lines] == [1, 1, 0, 0]


@pytest.mark.parametrize("trainer", ["grpo", "ppo"])
def test_above_the_kl_limit_the_rest_of_the_window_leaves_the_policy_as_it_is(
    tmp_path, tiny_model_dir, monkeypatch, random_engine, trainer
):
    """Adam has momentum by then, and there is weight decay: a gradient of 0 alone would not keep the weights."""
    changes = {
        "trainer.name": trainer, "trainer.steps": 8, "trainer.num_iterations": 4, "trainer.max_kl": 1e-9,
        "trainer.weight_decay": 0.1, "trainer.schedule": "cosine",
    }  # fmt: skip
    watch = _Watch(monkeypatch)
    with run.prepare(tiny_recipe(tiny_model_dir, tmp_path, **changes), callbacks=[watch]) as made:
        watch.trainer = made
        made.critic = getattr(made, "critic", None) or type("None", (), {"head": torch.nn.Linear(1, 1)})
        watch.weights = [({n: p.detach().clone() for n, p in made.model.named_parameters()}, None)]
        made.train()
    policy = [weights[0] for weights in watch.weights]
    lines = RunFolder(tmp_path / "runs" / "run").read_metrics()
    # The first update of a window is on-policy (KL 0); the second is judged after it was made.
    assert [line["policy_skipped"] for line in lines] == [0, 0, 1, 1] * 2
    assert [_same(policy[k], policy[k + 1]) for k in range(8)] == [False, False, True, True] * 2
    assert all(line["learning_rate"] > 0 for line in lines[:-1])


@pytest.mark.parametrize("micro", [4, None])
@pytest.mark.parametrize("critic", [{}, {"backbone": "policy"}, {"backbone": "policy", "detach": False}])
def test_a_loss_that_is_no_number_is_left_out(tmp_path, tiny_model_dir, monkeypatch, random_engine, critic, micro):
    """One of two micro-batches of a step, and the only one."""
    real, micro_batch = grpo.take, micro
    calls = []

    def take(batch, rows):
        micro = real(batch, rows)
        calls.append(1)
        if len(calls) == (2 if micro_batch else 1):
            micro["advantages"] = micro["advantages"] * math.nan
            micro["returns"] = micro["returns"] * math.nan
        return micro

    monkeypatch.setattr(grpo, "take", take)
    changes = {"trainer.steps": 3, "trainer.micro_batch_size": micro, "critic": PPO["critic"] | critic}
    with run.prepare(tiny_recipe(tiny_model_dir, tmp_path, **PPO | changes)) as trainer:
        trainer.train()
        for model in (trainer.model, trainer.critic.head if critic else trainer.critic.model):
            assert all(p.isfinite().all() for p in model.parameters())
    lines = RunFolder(tmp_path / "runs" / "run").read_metrics()
    assert [line.get("nonfinite_losses", 0) > 0 for line in lines] == [True, False, False]


def test_weights_that_are_no_numbers_stop_the_run(tmp_path, tiny_model_dir, random_engine):
    class Break(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **_):
            if state.global_step == 1:
                next(iter(model.parameters())).data.fill_(math.nan)

    recipe = tiny_recipe(tiny_model_dir, tmp_path, **PPO | {"trainer.steps": 3, "engine.max_logprob_gap": 1e9})
    with (
        pytest.raises(UserError, match="neither is a pass over a single token"),
        run.prepare(recipe, callbacks=[Break()]) as trainer,
    ):
        trainer.train()


RESUMES = {
    "own backbone": {},
    "critic with adapters": {"critic": {"learning_rate": 2e-3, "lora": {"r": 4}}},
    "both with adapters": {"critic": {"learning_rate": 2e-3, "lora": {"r": 4}}, "lora": {"r": 4}},
    "head on the policy": {"critic": {"learning_rate": 1e-2, "backbone": "policy"}},
    "head, not detached": {"critic": {"learning_rate": 1e-2, "backbone": "policy", "detach": False}},
    "while the critic learns alone": {
        "critic": {"learning_rate": 2e-3, "warmup_steps": 6}, "trainer.schedule": "cosine", "trainer.warmup_ratio": 0.3,
    },
    "in a window whose updates are over": {"trainer.max_kl": 1e-9, "trainer.steps_per_window": 3},
}  # fmt: skip


@pytest.mark.parametrize("case", RESUMES)
def test_ten_steps_are_five_and_five_to_the_last_digit(tmp_path, tiny_model_dir, monkeypatch, case):
    """The real engine; the checkpoint of step 5 is in the middle of the second pass over a window."""
    changes = {
        **PPO, "trainer.steps": 10, "trainer.save_every": 5, "trainer.steps_per_window": 2,
        "trainer.num_iterations": 2, "deterministic": True, "trainer.kl": 0.1, "trainer.kl_in": "reward",
        "trainer.max_kl": 0.5, "critic.warmup_ratio": 0.5, **RESUMES[case],
    }  # fmt: skip
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = _train(tiny_recipe(tiny_model_dir, tmp_path / "whole", **changes), monkeypatch)
    run_folder = tmp_path / "parts" / "runs" / "run"
    shutil.copytree(tmp_path / "whole" / "runs" / "run", run_folder)
    shutil.rmtree(run_folder / "checkpoints" / "step-000010")
    parts = _train(
        tiny_recipe(tiny_model_dir, tmp_path / "parts", **changes),
        monkeypatch,
        resume=run_folder / "checkpoints" / "step-000005",
    )
    for one, other in zip(whole.weights[-1], parts.weights[-1], strict=True):
        assert [name for name in one if not torch.equal(one[name], other[name])] == []
    first, last = whole.weights[0], whole.weights[-1]
    assert not any(_same(a, b) for a, b in zip(first, last, strict=True))
    lines = [RunFolder(tmp_path / name / "runs" / "run").read_metrics() for name in ("whole", "parts")]
    for one, other in zip(*lines, strict=True):
        for name in one:
            if not name.startswith(("seconds", "time", "step_time")):
                assert one[name] == other[name] or (one[name] != one[name]), name


@pytest.mark.parametrize("detach", [True, False])
def test_a_head_on_the_policy_learns_from_the_policys_own_pass(
    tmp_path, tiny_model_dir, monkeypatch, random_engine, detach
):
    """Its values are a linear layer on the last hidden states; only when not detached they move the policy."""
    critic = {"learning_rate": 1e-2, "backbone": "policy", "detach": detach, "max_grad_norm": 1e9}
    if not detach:
        critic["coefficient"] = 0.7
    recipe = tiny_recipe(tiny_model_dir, tmp_path, **PPO | {"critic": critic, "trainer.steps": 2})
    head_gradients = []
    real = value_head.HeadOnPolicy.learn

    def learn(self, micro, *, last, scale, values_BT=None):
        step = self.optimizer.step

        def keep():
            head_gradients.append({n: p.grad.clone() for n, p in self.head.named_parameters()})
            step()

        self.optimizer.step = keep
        try:
            return real(self, micro, last=last, scale=scale, values_BT=values_BT)
        finally:
            self.optimizer.step = step

    monkeypatch.setattr(value_head.HeadOnPolicy, "learn", learn)
    watch = _train(recipe, monkeypatch)
    policy = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    # The second step: the head is no longer 0, the policy has moved.
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            parameter.copy_(watch.weights[1][0][name])
    weight, bias = (watch.weights[1][1][name].clone().requires_grad_() for name in ("weight", "bias"))
    trajectories = read_trajectories(watch.folder.trajectories / "step-000001-rank0.parquet")
    policy_loss = value_loss = 0.0
    tokens = sum(t.num_tokens for t in trajectories)
    for t in trajectories:
        (segment,) = t.segments
        output = policy(torch.tensor([segment.context_ids]), output_hidden_states=True)
        hidden = output.hidden_states[-1][0]
        values = (hidden.detach() if detach else hidden) @ weight[0] + bias
        logps = output.logits[0].log_softmax(-1)
        for i, token in enumerate(segment.completion_ids):
            place = len(segment.prompt_ids) + i - 1
            assert t.tracks["value"][i] == pytest.approx(values[place].item(), abs=1e-5)
            logp = logps[place, token]
            policy_loss = policy_loss - (logp - logp.detach()).exp() * t.tracks["advantage"][i]
            value_loss = value_loss + 0.5 * (values[place] - t.tracks["return"][i]) ** 2
    (policy_loss / tokens + (value_loss / tokens) * (1 if detach else 0.7)).backward()
    for name, parameter in policy.named_parameters():
        torch.testing.assert_close(watch.gradients[1][0][name], parameter.grad, atol=2e-6, rtol=2e-3)
    for name, wanted in (("weight", weight.grad), ("bias", bias.grad)):
        torch.testing.assert_close(head_gradients[1][name], wanted, atol=2e-6, rtol=2e-3)


# ---- bad input ------------------------------------------------------------------------------------------------------


def test_grpo_to_ppo_is_one_key(tiny_model_dir, tmp_path):
    recipe = tiny_recipe(tiny_model_dir, tmp_path, **{"trainer.name": "ppo"})
    assert [s.name for s in recipe.credit] == ["gae"] and recipe.critic is not None
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    plain = tiny_recipe(tiny_model_dir, tmp_path)
    assert [s.name for s in plain.credit] == ["group"] and plain.critic is None
    assert Recipe.model_validate(plain.model_dump(mode="json")) == plain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer.name": "ppo", "credit": [{"name": "group"}]}, "group does not look at the critic"),
        ({"credit": [{"name": "gae"}]}, "gae needs a critic's values: set trainer.name: ppo"),
        ({"critic": {}}, "trainer grpo has none"),
        ({"trainer.kl_in": "reward"}, "trainer.kl, its coefficient, is 0"),
        ({"trainer.max_kl": 0.1}, "used for one update has no KL"),
        ({"trainer.name": "ppo", "critic": {"backbone": "policy", "model": "x"}}, "critic.model means nothing with"),
        ({"trainer.name": "ppo", "critic": {"detach": False}}, "critic.detach means nothing with critic.backbone: own"),
        ({"trainer.name": "ppo", "critic": {"warmup_steps": 2}}, "the policy would never learn"),
        (
            {"trainer.name": "ppo", "sampling.group_size": 1, "trainer.filter": {"zero_variance": "total"}},
            "every group is the same throughout",
        ),
    ],
)
def test_recipes_that_make_no_sense_are_refused(tiny_model_dir, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_recipe(tiny_model_dir, tmp_path, **changes)


def test_a_critic_that_reads_other_tokens_is_refused(tiny_model_dir, tmp_path, random_engine):
    other = tmp_path / "other"
    shutil.copytree(tiny_model_dir, other)
    text = (other / "tokenizer.json").read_text()
    assert '"a": ' in text and '"b": ' in text
    swapped = text.replace('"a": ', '"@@": ').replace('"b": ', '"a": ').replace('"@@": ', '"b": ')
    (other / "tokenizer.json").write_text(swapped)
    recipe = tiny_recipe(tiny_model_dir, tmp_path, **PPO | {"critic": {"model": str(other)}})
    with pytest.raises(UserError, match=r"critic.model: .* another vocabulary than the policy: '[ab]' is token"):
        run.train(recipe, progress=False)
    assert not (tmp_path / "runs" / "run").exists()


def test_a_critic_that_is_not_there_or_no_model_is_refused(tiny_model_dir, tmp_path, random_engine):
    for model, message in (("./nowhere", "critic.model: no folder"), (str(tmp_path), "is no model folder")):
        recipe = tiny_recipe(tiny_model_dir, tmp_path, **PPO | {"critic": {"model": model}})
        with pytest.raises(UserError, match=message):
            run.train(recipe, progress=False)


def test_a_checkpoint_of_grpo_has_no_critic_to_go_on_with(tiny_model_dir, tmp_path, random_engine):
    folder = run.train(tiny_recipe(tiny_model_dir, tmp_path, **{"trainer.steps": 1}), progress=False)
    recipe = tiny_recipe(tiny_model_dir, tmp_path, **PPO | {"trainer.steps": 2})
    with pytest.raises(UserError, match="has no critic: it was not written by trainer ppo"):
        run.train(recipe, resume=folder, progress=False)


def test_a_checkpoint_of_another_kind_of_critic_is_refused(tiny_model_dir, tmp_path, random_engine):
    changes = {"trainer.name": "ppo", "trainer.steps": 1, "critic": {"backbone": "policy"}}
    folder = run.train(tiny_recipe(tiny_model_dir, tmp_path, **changes), progress=False)
    recipe = tiny_recipe(tiny_model_dir, tmp_path, **PPO | {"trainer.steps": 2})
    with pytest.raises(UserError, match=r"another kind \(head on the policy\) than the recipe's \(own backbone\)"):
        run.train(recipe, resume=folder, progress=False)


def test_after_the_critic_learned_alone_the_policys_first_update_is_adams_first(
    tmp_path, tiny_model_dir, monkeypatch, random_engine
):
    """Adam's first step is lr · sign(gradient), however many steps were skipped before it."""
    recipe = tiny_recipe(
        tiny_model_dir,
        tmp_path,
        **PPO | {"critic": {"learning_rate": 1e-3, "warmup_steps": 5}, "trainer.steps": 6, "trainer.adam_beta2": 0.9},
    )
    watch = _train(recipe, monkeypatch)
    before, after = (weights[0] for weights in watch.weights[5:7])
    for name, gradient in watch.gradients[5][0].items():
        moved, large = after[name] - before[name], gradient.abs() > 1e-5
        torch.testing.assert_close(moved[large], -1e-3 * gradient[large].sign(), atol=3e-6, rtol=1e-2)


def test_kl_in_the_reward_is_paid_by_completions_that_are_out_of_the_loss_too(
    tmp_path, tiny_model_dir, monkeypatch, random_engine
):
    """GRPO with `mask_truncated`: cut-off completions do not train, but stay in their group's mean, KL and all."""
    changes = {
        "trainer.kl": 0.5, "trainer.kl_in": "reward", "trainer.mask_truncated": True, "trainer.steps": 3,
        "trainer.learning_rate": 0.02, "credit": [{"name": "group", "scale": "none"}],
    }  # fmt: skip
    watch = _Watch(monkeypatch)
    watch.trainer = type("None", (), {"critic": type("None", (), {"head": torch.nn.Linear(1, 1)})})
    with run.prepare(tiny_recipe(tiny_model_dir, tmp_path, **changes), callbacks=[watch]) as trainer:
        trainer.train()
        folder = trainer.run_folder
    policy, start = (AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32) for _ in range(2))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            parameter.copy_(watch.weights[1][0][name])
    trajectories = read_trajectories(folder.trajectories / "step-000002-rank0.parquet")
    assert any(t.truncated for t in trajectories) and not all(t.truncated for t in trajectories)
    totals, _ = _rewards(trajectories, "plain")
    for k, t in enumerate(trajectories):
        (g,) = t.segments
        ids, labels = torch.tensor([g.context_ids]), torch.tensor(g.completion_ids)
        with torch.no_grad():
            of = [m(ids).logits[0].log_softmax(-1)[len(g.prompt_ids) - 1 : -1] for m in (policy, start)]
        totals[k] -= 0.5 * float((of[0] - of[1]).gather(-1, labels[:, None]).sum())
    for group in {t.group for t in trajectories}:
        rows = [k for k, t in enumerate(trajectories) if t.group == group]
        for k in rows:
            assert trajectories[k].tracks["advantage"][0] == pytest.approx(totals[k] - totals[rows].mean(), abs=1e-4)


def test_hicra_with_alpha_0_changes_nothing_under_ppo(tmp_path, tiny_model_dir, monkeypatch, random_engine):
    ends = []
    for name, more in (("plain", []), ("hicra", [{"name": "hicra", "grams": list("abcdefgh"), "alpha": 0.0}])):
        (tmp_path / name).mkdir()
        credit = [{"name": "gae", "lam": 0.9}, *more]
        ends.append(_train(tiny_recipe(tiny_model_dir, tmp_path / name, **PPO, credit=credit), monkeypatch).weights[-1])
    assert all(_same(one, other) for one, other in zip(*ends, strict=True))


def test_a_critic_starts_from_the_merged_policy_where_the_policy_is_a_folder_of_adapters(
    tiny_model_dir, tmp_path, random_engine
):
    (tmp_path / "lora").mkdir()
    changes = {"lora": {"r": 4}, "trainer.steps": 1}
    adapters = run.train(tiny_recipe(tiny_model_dir, tmp_path / "lora", **changes), progress=False)
    with run.prepare(tiny_recipe(adapters, tmp_path, **PPO, lora=None)) as trainer:
        policy, critic = (dict(m.named_parameters()) for m in (trainer.model, trainer.critic.model))
        name = "model.layers.0.self_attn.q_proj.weight"
        assert torch.equal(policy[name], critic[name])
        trainer.train()
        earlier = next(trainer.run_folder.checkpoints.glob("step-*")) / "critic"
    # A critic that was trained before brings no tokenizer with it, either.
    (tmp_path / "again").mkdir()
    critic = PPO["critic"] | {"model": str(earlier)}
    with run.prepare(tiny_recipe(adapters, tmp_path / "again", **PPO | {"critic": critic}, lora=None)) as trainer:
        assert trainer.critic.model.score.weight.abs().max() > 0


def test_the_vocabulary_of_a_critic_from_the_hub_is_compared_too(tiny_tokenizer, monkeypatch):
    other = type("Other", (), {"get_vocab": lambda self: {"a": 10**6}, "encode": lambda self, *_, **__: [1]})()
    text = type("Text", (), {"vocab_size": 10**6})()
    made = type("Config", (), {"get_text_config": lambda self: text})()
    monkeypatch.setattr(critic_model.AutoConfig, "from_pretrained", lambda name: made)
    monkeypatch.setattr(critic_model.AutoTokenizer, "from_pretrained", lambda name: other)
    with pytest.raises(UserError, match="another vocabulary than the policy"):
        critic_model.check_vocabulary("some/model", tiny_tokenizer)
