"""PPO over two processes, further: what resumes (adapters, bfloat16, a wait), and updates that overflow."""

from __future__ import annotations

import pytest
import torch

from cib_rl.run_folder import RunFolder
from tests.trainers.support import tiny_recipe
from tests.trainers.test_deepspeed import _config
from tests.trainers.test_distributed import launch, moved_apart, plain_weights, records
from tests.trainers.test_ppo_distributed import TRAIN, WRAPPERS, _one_process, _weights

pytestmark = [pytest.mark.trl, pytest.mark.deepspeed, pytest.mark.slow]

# The policy's updates are steps 4 and 5. Adam's second moment forgets fast, so that what it knew before would show.
WAITING = TRAIN | {
    "trainer.steps": 5, "trainer.num_iterations": 1, "trainer.adam_beta2": 0.9, "trainer.schedule": "linear",
    "critic": TRAIN["critic"] | {"warmup_steps": 3}, "trainer.save_every": 3,
}  # fmt: skip
ADAPTERS = TRAIN | {
    "trainer.steps": 4, "trainer.save_every": 2, "lora": {"r": 4}, "critic": TRAIN["critic"] | {"lora": {"r": 4}},
}  # fmt: skip
BF16 = TRAIN | {"trainer.steps": 4, "trainer.save_every": 3}


@pytest.fixture(scope="module")
def done(tmp_path_factory, tiny_model_dir):
    folder = tmp_path_factory.mktemp("ppo-cases")
    zero = {stage: {"trainer.deepspeed": _config(folder, stage)} for stage in (2, 3)}
    wrappers = {"ddp": {}, "zero2": zero[2], "zero3": zero[3]}
    jobs = {}

    def add(name, changes, *, resumed=False, **job):
        """The job, and one that goes on from its last checkpoint but one."""
        (folder / name).mkdir()
        recipe = tiny_recipe(tiny_model_dir, folder / name, **changes)
        jobs[name] = job = {"recipe": recipe, "random": True, **job}
        if resumed:
            drop = folder / name / "runs" / "run" / "checkpoints" / f"step-{recipe.trainer.steps:06d}"
            jobs[f"{name} resumed"] = job | {"resume": str(drop.parents[1]), "drop": str(drop)}

    for name, wrapper in wrappers.items():
        add(f"{name}-waiting", WAITING | wrapper, resumed=True)
        add(f"{name}-overflow", TRAIN | {"trainer.steps": 3} | wrapper, overflow_rank=1)
        add(f"{name}-adapters", ADAPTERS | wrapper, resumed=True)
        if wrapper:
            # Passes in bfloat16 (policy and critic), and a critic whose own weights are.
            add(f"{name}-autocast", BF16 | {"trainer.autocast_bf16": True} | wrapper, resumed=True)
            critic = {"critic": TRAIN["critic"] | {"dtype": "bfloat16"}}
            add(f"{name}-bfloat16", BF16 | critic | wrapper)
    launch(folder, jobs)
    return folder


@pytest.mark.parametrize(
    "name",
    [f"{wrapper}-{case}" for case in ("adapters", "waiting") for wrapper in WRAPPERS]
    + ["zero2-autocast", "zero3-autocast"],
)
def test_a_resumed_run_is_the_run_that_was_not_stopped(done, name):
    """Adapters of both, policy and critic. The wait ends with the step after the checkpoint."""
    for whole, resumed in zip(_weights(done, name), _weights(done, f"{name} resumed"), strict=True):
        for key, tensor in whole.items():
            assert torch.equal(resumed[key], tensor), key


@pytest.mark.parametrize("wrapper", ["zero2", "zero3"])
def test_the_policys_first_update_after_a_wait_is_the_same_inside_of_deepspeed(done, tiny_model_dir, wrapper):
    """DeepSpeed made steps meanwhile, and DDP none: moments and schedule begin with the policy's first in both."""
    (ddp, critic), (zero, other) = _weights(done, "ddp-waiting"), _weights(done, f"{wrapper}-waiting")
    assert moved_apart(zero, ddp, plain_weights(tiny_model_dir)) < 1e-2
    for name, tensor in critic.items():
        torch.testing.assert_close(other[name], tensor, atol=2e-5, rtol=2e-3)
    lines = RunFolder(done / f"{wrapper}-waiting" / "runs" / "run").read_metrics()
    assert [line["policy_skipped"] for line in lines] == [1, 1, 1, 0, 0]
    assert [line["learning_rate"] for line in lines] == pytest.approx([1e-3] * 4 + [5e-4])


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_gradient_that_is_no_number_on_one_process_leaves_the_step_out_on_both(done, tiny_model_dir, wrapper):
    for rank in records(done, f"{wrapper}-overflow"):
        assert rank["error"] is None
        assert [a != b for a, b in zip(rank["weights"], rank["weights"][1:], strict=False)] == [False, True]
    policy, critic = _weights(done, f"{wrapper}-overflow")
    assert all(tensor.isfinite().all() for weights in (policy, critic) for tensor in weights.values())
    lines = RunFolder(done / f"{wrapper}-overflow" / "runs" / "run").read_metrics()
    assert [line.get("nonfinite_gradients", 0) for line in lines] == [0, 1, 0]
    assert [line.get("critic/grad_norm") is None for line in lines] == [False, True, False]
    # What DeepSpeed leaves out by itself is what is left out without it.
    wanted = _weights(done, "ddp-overflow")
    assert moved_apart(policy, wanted[0], plain_weights(tiny_model_dir)) < 1e-2
    for name, tensor in wanted[1].items():
        torch.testing.assert_close(critic[name], tensor, atol=2e-5, rtol=2e-3)


@pytest.mark.parametrize("wrapper", ["zero2", "zero3"])
def test_the_critics_engine_takes_bfloat16_from_the_run_or_from_its_own_weights(
    done, tmp_path, tiny_model_dir, wrapper
):
    bf16, float32 = "torch.bfloat16", "torch.float32"
    wanted = {"autocast": [bf16, bf16], "bfloat16": [float32, bf16]}
    one = _one_process(tiny_recipe(tiny_model_dir, tmp_path, **BF16))
    for kind, dtypes in wanted.items():
        name = f"{wrapper}-{kind}"
        assert {r["critic"] for r in records(done, name)} == {"DeepSpeedEngine"}
        assert [r["dtypes"] for r in records(done, name)] == [dtypes] * 2
        # What it updates is kept in float32, from a rounded start on: it goes where float32 goes, up to rounded passes.
        (_, critic), ((_, plain), (_, start)) = _weights(done, name), one
        assert {t.dtype for t in critic.values()} == {torch.float32}
        way = {n: critic[n] - start[n].bfloat16().float() for n in critic}
        straight = {n: plain[n] - start[n] for n in critic}
        apart = sum(((way[n] - straight[n]) ** 2).sum() for n in way) ** 0.5
        assert 1e-3 < apart / sum((w**2).sum() for w in straight.values()) ** 0.5 < 0.1


@pytest.mark.parametrize("wrapper", ["zero2", "zero3"])
def test_adapters_of_both_train_the_same_in_ddp_and_inside_of_deepspeed(done, wrapper):
    for ddp, zero in zip(_weights(done, "ddp-adapters"), _weights(done, f"{wrapper}-adapters"), strict=True):
        for name, tensor in ddp.items():
            torch.testing.assert_close(zero[name], tensor, atol=2e-5, rtol=2e-3)
    critic = _weights(done, "ddp-adapters")[1]
    moved = [name for name, tensor in critic.items() if "lora_B" in name and tensor.abs().max() > 0]
    head = [tensor for name, tensor in critic.items() if "score.modules_to_save" in name]
    assert moved and head and all(tensor.abs().max() > 0 for tensor in head)
