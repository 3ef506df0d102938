"""The trainer's gradient is the method's: checked against GRPO written by hand in plain torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from cib_rl.errors import UserError
from cib_rl.grading.selfcheck import Report, Ungradable
from cib_rl.trainers import run
from cib_rl.trainers.grpo import LOSS_KEYS, completions_per_process
from cib_rl.trainers.trl_arguments import trl_arguments
from cib_rl.trajectory_io import read_trajectories
from tests.trainers.support import HERE, RandomEngine, tiny_recipe

pytestmark = [pytest.mark.trl]


class _Gradients(TrainerCallback):
    """Keeps the gradient of the first optimizer step."""

    def __init__(self):
        self.first = None

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if self.first is None:
            self.first = {n: p.grad.detach().clone() for n, p in model.named_parameters() if p.grad is not None}


def _first_gradient(recipe, monkeypatch, engine=None):
    engine = engine or RandomEngine()
    monkeypatch.setattr(run, "make_engine", lambda *_: engine)
    gradients = _Gradients()
    with run.prepare(recipe, callbacks=[gradients]) as trainer:
        trainer.train()
        return gradients.first, trainer


def _group_advantages(members, beta):
    """One number per completion, on all its tokens."""
    outcome = np.array([float(len(t.completion_ids) % 2 == 0) for t in members])
    total = outcome + beta * np.array([(t.completion_ids[0] % 7) / 7 for t in members])
    advantages = (total - total.mean()) / (outcome.std(ddof=1) + 0.2)
    return [np.full(len(t.completion_ids), a) for t, a in zip(members, advantages, strict=True)]


def _advantages_to_go(members, beta):
    """The outcome, and what each token and those after it earn, minus the group's mean at the same place."""
    outcome = np.array([float(len(t.completion_ids) % 2 == 0) for t in members])
    earned = [[np.sin(t.completion_ids[k:]).sum() for k in range(len(t.completion_ids))] for t in members]
    return [
        np.array(
            [
                (outcome[i] - outcome.mean() + beta * (own - np.mean([e[k] if k < len(e) else 0.0 for e in earned])))
                / (outcome.std(ddof=1) + 0.2)
                for k, own in enumerate(earned[i])
            ]
        )
        for i in range(len(members))
    ]


def _by_hand(folder, model_dir, loss, *, beta, importance=None, max_length=12, credit=_group_advantages):
    """GRPO over the saved trajectories: rewards, baseline, weights and loss all written out."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    trajectories = read_trajectories(folder / "trajectories" / "step-000000-rank0.parquet")
    terms, tokens = [], 0
    for group in {t.group for t in trajectories}:
        members = [t for t in trajectories if t.group == group]
        for t, advantage_T in zip(members, credit(members, beta), strict=True):
            prompt, ids = t.segments[0].prompt_ids, t.completion_ids
            logits = model(torch.tensor([prompt + ids])).logits[0]
            logps = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(-1, torch.tensor(ids)[:, None])[:, 0]
            weight = 1.0
            if importance is not None:
                weight = (logps.detach() - torch.tensor(t.logprobs)).exp().clamp(max=importance)
            objective = (logps - logps.detach()).exp() * torch.tensor(advantage_T, dtype=torch.float32) * weight
            terms.append(objective)
            tokens += len(ids)
    if loss == "dapo":
        value = -sum(term.sum() for term in terms) / tokens
    elif loss == "grpo":
        value = -sum(term.mean() for term in terms) / len(terms)
    else:
        value = -sum(term.sum() for term in terms) / (len(terms) * max_length)
    value.backward()
    return {n: p.grad for n, p in model.named_parameters()}


def _assert_same(got, expected, atol=2e-6, rtol=2e-4):
    assert set(got) == set(expected)
    assert any(g.abs().max() > 1e-3 for g in expected.values()), "a gradient of zero proves nothing"
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], atol=atol, rtol=rtol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("loss", ["dapo", "grpo", "dr_grpo"])
@pytest.mark.parametrize("clip", [None, 1.3])
def test_gradient_equals_grpo_written_by_hand(tmp_path, tiny_model_dir, monkeypatch, loss, clip):
    importance = {"enabled": clip is not None, **({"clip_max": clip} if clip else {})}
    recipe = tiny_recipe(
        tiny_model_dir, tmp_path, **{"trainer.steps": 1, "trainer.loss": loss, "trainer.importance": importance}
    )
    got, trainer = _first_gradient(recipe, monkeypatch)
    expected = _by_hand(trainer.run_folder.path, tiny_model_dir, loss, beta=0.3, importance=clip)
    _assert_same(got, expected)


@pytest.mark.parametrize("loss", ["dapo", "grpo", "dr_grpo"])
def test_gradient_does_not_depend_on_the_accumulation_layout(tmp_path, tiny_model_dir, monkeypatch, loss):
    gradients = []
    for micro in (8, 4, 2):  # 1 × 8, 2 × 4, 4 × 2
        folder = tmp_path / str(micro)
        folder.mkdir()
        recipe = tiny_recipe(
            tiny_model_dir,
            folder,
            **{"trainer.steps": 1, "trainer.loss": loss, "trainer.micro_batch_size": micro, "trainer.token_budget": 40},
        )
        gradients.append(_first_gradient(recipe, monkeypatch)[0])
    _assert_same(gradients[1], gradients[0], atol=1e-6, rtol=1e-4)
    _assert_same(gradients[2], gradients[0], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("scale", "cancels"), [("outcome_std", False), ("reward_std", True)])
def test_beta_changes_the_gradient_of_all_right_groups_under_the_outcome_scaling_only(
    tmp_path, tiny_model_dir, monkeypatch, scale, cancels
):
    gradients = []
    for beta in (0.3, 0.6):
        folder = tmp_path / str(beta)
        folder.mkdir()
        recipe = tiny_recipe(
            tiny_model_dir,
            folder,
            **{
                "trainer.steps": 1,
                "rewards": [{"name": f"{HERE}:always_right"}, {"name": f"{HERE}:first_token", "weight": beta}],
                "credit": [{"name": "group", "scale": scale}],
            },
        )
        gradients.append(_first_gradient(recipe, monkeypatch)[0])
    expected = {name: g * (1 if cancels else 2) for name, g in gradients[0].items()}
    _assert_same(gradients[1], expected, atol=1e-4, rtol=2e-3)


def test_token_rewards_reach_the_loss_as_their_sum(tmp_path, tiny_model_dir, monkeypatch):
    recipe = tiny_recipe(
        tiny_model_dir,
        tmp_path,
        **{
            "trainer.steps": 1,
            "rewards": [{"name": f"{HERE}:even_length"}, {"name": f"{HERE}:every_token", "weight": 0.1}],
        },
    )
    _, trainer = _first_gradient(recipe, monkeypatch)
    for t in read_trajectories(trainer.run_folder.path / "trajectories" / "step-000000-rank0.parquet"):
        assert t.rewards["every_token"] == pytest.approx(float(np.sin(t.completion_ids).sum()), rel=1e-5)


def test_rewards_to_go_reach_the_loss_token_by_token(tmp_path, tiny_model_dir, monkeypatch):
    changes = {
        "trainer.steps": 1,
        "rewards": [{"name": f"{HERE}:even_length"}, {"name": f"{HERE}:every_token", "weight": 0.1}],
        "credit": [{"name": "group", "token_rewards": "reward_to_go"}],
    }
    gradient, trainer = _first_gradient(tiny_recipe(tiny_model_dir, tmp_path, **changes), monkeypatch)
    folder = trainer.run_folder.path
    _assert_same(gradient, _by_hand(folder, tiny_model_dir, "dapo", beta=0.1, credit=_advantages_to_go))


def test_each_reward_tells_its_weight_its_failures_and_its_time(tmp_path, tiny_model_dir, monkeypatch):
    rewards = [
        {"name": f"{HERE}:even_length"},
        {"name": f"{HERE}:first_token", "weight": 0.4, "weight_schedule": {0: 0.0, 2: 1.0}},
        {"name": f"{HERE}:fails_on_first_draws", "weight": 0.0},
    ]
    changes = {"trainer.steps": 3, "rewards": rewards, "trainer.prompts_per_step": 4}
    _, trainer = _first_gradient(tiny_recipe(tiny_model_dir, tmp_path, **changes), monkeypatch)
    lines = trainer.run_folder.read_metrics()
    assert [line["weight/first_token"] for line in lines] == pytest.approx([0.0, 0.2, 0.4])
    assert lines[1]["reward/shaping"] == pytest.approx(0.2 * lines[1]["reward/first_token"])
    assert [line["errors/fails_on_first_draws"] for line in lines] == [0.5, 0.0, 0.0]
    assert all(line["errors/even_length"] == 0 and line["seconds/reward/even_length"] > 0 for line in lines)


def test_what_rewards_attach_and_log_is_in_the_metrics_and_with_the_completions(
    tmp_path, tiny_model_dir, monkeypatch, capsys
):
    rewards = [
        {"name": f"{HERE}:even_length"},
        {"name": f"{HERE}:never_applies"},
        {"name": f"{HERE}:logging_for_trl", "kind": "shaping"},
    ]
    _, trainer = _first_gradient(tiny_recipe(tiny_model_dir, tmp_path, rewards=rewards), monkeypatch)
    for step, line in enumerate(trainer.run_folder.read_metrics()):
        saved = read_trajectories(trainer.run_folder.path / "trajectories" / f"step-{step:06d}-rank0.parquet")
        lengths = [t.num_tokens for t in saved]
        assert line["diagnostics/odd_tokens"] == pytest.approx(np.mean(lengths[1::2]))
        assert [t.diagnostics for t in saved[:2]] == [{}, {"odd_tokens": lengths[1]}]
        assert line["logged/longest"] == max(lengths)
        assert [t.extras for t in saved] == [{"first_id": t.completion_ids[0]} for t in saved]
        shares = [line[f"applies/{label}"] for label in ("even_length", "never_applies", "logging_for_trl")]
        assert shares == [1.0, 0.0, np.mean([n > 3 for n in lengths])] and 0 < shares[2] < 1
    said = [line for line in capsys.readouterr().out.splitlines() if "counted for none" in line]
    assert len(said) == 1 and "'never_applies'" in said[0]


def test_a_group_is_the_completions_of_one_draw_and_its_prompt(tmp_path, tiny_model_dir, monkeypatch):
    _, trainer = _first_gradient(tiny_recipe(tiny_model_dir, tmp_path), monkeypatch)
    files = sorted((trainer.run_folder.path / "trajectories").glob("*.parquet"))
    groups: dict = {}
    for t in [t for file in files for t in read_trajectories(file)]:
        groups.setdefault(t.group, []).append(t)
    assert sorted(groups) == [0, 1, 2, 3]  # two steps of two draws, none used twice
    prompt_of = {row["id"]: row["prompt"] for row in trainer.collector.stream.rows}
    for members in groups.values():
        assert [t.member for t in members] == [0, 1, 2, 3]
        (task,) = {t.task["id"] for t in members}
        (prompt,) = {tuple(t.segments[0].prompt_ids) for t in members}
        assert trainer.processing_class.decode(prompt) == prompt_of[task]
    assert len({members[0].task["id"] for members in groups.values()}) == 4


def test_groups_share_their_prompt_and_members_differ(tmp_path, tiny_model_dir, monkeypatch):
    engine = RandomEngine()
    recipe = tiny_recipe(tiny_model_dir, tmp_path, **{"trainer.steps": 2})
    _first_gradient(recipe, monkeypatch, engine)
    assert len({seed for _, seed in engine.requests}) == len(engine.requests) == 16
    prompts = [tuple(p) for p, _ in engine.requests]
    assert [prompts.count(p) for p in dict.fromkeys(prompts)] == [4, 4, 4, 4]


def test_weights_are_synced_once_per_update(tmp_path, tiny_model_dir, monkeypatch):
    engine = RandomEngine()
    recipe = tiny_recipe(tiny_model_dir, tmp_path, **{"trainer.steps": 4, "trainer.steps_per_window": 2})
    _first_gradient(recipe, monkeypatch, engine)
    assert engine.syncs == [0, 2]


@pytest.mark.parametrize(
    ("engine", "limit"),
    [({}, "largest; limit 0.001"), ({"name": "vllm", "dtype": "bfloat16"}, "99% quantile; limit 0.5")],
)
def test_an_engine_that_disagrees_with_the_trainer_stops_the_run(tmp_path, tiny_model_dir, monkeypatch, engine, limit):
    """In half precision on either side the tail is judged, and more leniently."""
    recipe = tiny_recipe(tiny_model_dir, tmp_path, **{"engine": engine})
    with pytest.raises(UserError, match=rf"engine and trainer disagree.*{limit}.*stale weights"):
        _first_gradient(recipe, monkeypatch)


def test_a_micro_batch_larger_than_a_process_share_is_the_share(tiny_model_dir, tmp_path):
    recipe = tiny_recipe(tiny_model_dir, tmp_path, **{"trainer.micro_batch_size": 64})
    assert completions_per_process(recipe, 1) == 8 and completions_per_process(recipe, 2) == 4
    assert trl_arguments(recipe, 1, tmp_path).per_device_train_batch_size == 8


def test_flat_groups_are_replaced_from_the_stream_up_to_the_cap(tmp_path, tiny_model_dir, monkeypatch):
    filtering = {"zero_variance": "outcome", "max_extra_groups": 3}
    recipe = tiny_recipe(
        tiny_model_dir,
        tmp_path,
        **{"sampling.group_size": 2, "trainer.prompts_per_step": 4, "trainer.steps": 3, "trainer.filter": filtering},
    )
    _, trainer = _first_gradient(recipe, monkeypatch)
    lines = [line for line in trainer.run_folder.read_metrics() if "groups/replaced" in line]
    assert sum(line["groups/replaced"] for line in lines) > 0
    assert sum(line["groups/all_right"] + line["groups/all_wrong"] for line in lines) > 0
    for path in sorted((trainer.run_folder.path / "trajectories").glob("*.parquet")):
        trajectories = read_trajectories(path)
        for group in {t.group for t in trajectories}:
            assert {t.rewards["even_length"] for t in trajectories if t.group == group} == {0.0, 1.0}


def test_nothing_left_to_learn_from_is_a_clear_error(tmp_path, tiny_model_dir, monkeypatch):
    recipe = tiny_recipe(
        tiny_model_dir,
        tmp_path,
        **{
            "rewards": [{"name": f"{HERE}:always_right"}],
            "trainer.filter": {"zero_variance": "outcome", "max_extra_groups": 1},
        },
    )
    with pytest.raises(UserError, match=r"nothing to learn from in this window: \d+ groups all right, 0 all wrong"):
        _first_gradient(recipe, monkeypatch)


def test_failed_completions_leave_baseline_and_loss_and_are_told_of(tmp_path, tiny_model_dir, monkeypatch, capsys):
    class Failing(RandomEngine):
        async def generate(self, prompt_ids, sampling):
            generation = await super().generate(prompt_ids, sampling)
            if len(self.requests) == 3:
                generation.error = "engine lost it"
            return generation

    recipe = tiny_recipe(tiny_model_dir, tmp_path, **{"trainer.steps": 1, "trainer.mask_truncated": False})
    _, trainer = _first_gradient(recipe, monkeypatch, Failing())
    trajectories = read_trajectories(trainer.run_folder.path / "trajectories" / "step-000000-rank0.parquet")
    (failed,) = [t for t in trajectories if t.errors]
    others = [t for t in trajectories if t.group == failed.group and not t.errors]
    assert set(failed.tracks["advantage"]) == {0.0}
    assert sum(t.tracks["advantage"][0] for t in others) == pytest.approx(0, abs=1e-5)
    assert trainer.run_folder.read_metrics()[0]["error_share"] == pytest.approx(1 / 8)
    said = capsys.readouterr().out
    assert (
        "1 of 8 completions failed" in said and f"the first: engine: engine lost it (row {failed.task['id']!r})" in said
    )


def test_trl_reads_from_a_batch_what_we_think_it_reads():
    """Fails when a TRL release makes `_compute_loss` read another key (then look at what it means)."""
    import ast
    import inspect
    import textwrap

    from trl import GRPOTrainer

    tree = ast.parse(textwrap.dedent(inspect.getsource(GRPOTrainer._compute_loss)))
    read = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "inputs":
            read.add(node.slice.value)
        is_get = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get"
        if is_get and getattr(node.func.value, "id", "") == "inputs":
            read.add(node.args[0].value)
    multimodal = {
        "pixel_values",
        "image_grid_thw",
        "num_images",
        "pixel_attention_mask",
        "spatial_shapes",
        "num_tiles",
        "image_sizes",
        "token_type_ids",
        "mm_token_type_ids",
        "image_position_ids",
    }
    # Only with TRL's own vLLM, which is never switched on here.
    engine = {"importance_sampling_ratio", "sampling_per_token_logps"}
    assert read - multimodal - engine == set(LOSS_KEYS)


def test_rows_whose_gold_may_be_ungradable_are_not_trained_on(tmp_path, tiny_model_dir, monkeypatch):
    monkeypatch.setattr(run, "make_engine", lambda *_: RandomEngine())
    monkeypatch.setattr(run, "check_rows", lambda *_, **__: [Report(16, [Ungradable(3, "3", "x", "no gold")])])
    with run.prepare(tiny_recipe(tiny_model_dir, tmp_path)) as trainer:
        assert [row["id"] for row in trainer.collector.stream.rows] == [str(i) for i in range(16) if i != 3]


def test_groups_that_processes_would_split_are_refused(tmp_path, tiny_model_dir):
    from cib_rl.trainers.grpo import completions_per_process

    recipe = tiny_recipe(tiny_model_dir, tmp_path, **{"trainer.prompts_per_step": 3})
    with pytest.raises(UserError, match="prompts_per_step: 3 groups cannot be shared whole among 2"):
        completions_per_process(recipe, 2)
    recipe = tiny_recipe(tiny_model_dir, tmp_path, **{"trainer.micro_batch_size": 3})
    with pytest.raises(UserError, match="micro_batch_size: 3 does not divide the 8"):
        completions_per_process(recipe, 1)


def _launch(folder: Path, processes: int, recipe, *extra: str) -> dict[str, torch.Tensor]:
    """Run tests/trainers/worker.py under torchrun and return what rank 0 saved."""
    (folder / "recipe.json").write_text(json.dumps(recipe.model_dump(mode="json")))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", "0"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    command += [str(HERE.with_name("worker.py")), str(folder), str(processes), *extra]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(HERE.parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return torch.load(folder / "result.pt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["dapo", "grpo"])
def test_two_processes_give_the_gradient_of_one(tmp_path, tiny_model_dir, monkeypatch, loss):
    results = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        recipe = tiny_recipe(
            tiny_model_dir, folder, **{"trainer.steps": 1, "trainer.loss": loss, "trainer.token_budget": 40}
        )
        if processes == 1:
            results.append(_first_gradient(recipe, monkeypatch)[0])
        else:
            saved = _launch(folder, 2, recipe)
            assert saved.pop("world_size") == 2
            results.append(saved)
    _assert_same(results[1], results[0], atol=1e-6, rtol=1e-4)
