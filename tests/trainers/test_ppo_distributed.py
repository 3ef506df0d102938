"""PPO over two processes: DDP, ZeRO-2 and ZeRO-3, policy and critic each in a wrapper of their own."""

from __future__ import annotations

import pytest
import torch

from cib_rl.run_folder import RunFolder
from cib_rl.trainers import run
from tests.environments.scripted import NAME as TWO_TURNS
from tests.trainers.jobs_worker import critic_weights, policy_weights
from tests.trainers.support import RandomEngine, tiny_recipe
from tests.trainers.test_deepspeed import _config
from tests.trainers.test_distributed import launch, moved_apart, records

pytestmark = [pytest.mark.trl, pytest.mark.deepspeed, pytest.mark.slow]

# Four windows, each used twice, of several micro-batches and passes. A step takes all rows of its window: which rows a
# smaller step would take is drawn on each process.
TRAIN = {
    "trainer.name": "ppo", "critic": {"learning_rate": 1e-3, "max_grad_norm": 0.5}, "trainer.steps": 8,
    "trainer.prompts_per_step": 4, "trainer.num_iterations": 2,
    "trainer.micro_batch_size": 4, "trainer.token_budget": 60, "trainer.kl": 0.05, "trainer.kl_in": "reward",
    "trainer.epsilon": 0.05, "deterministic": True,
    "environment": {"name": TWO_TURNS, "max_completion_length": 16, "max_turn_length": 8},
}  # fmt: skip
SKIPPING = TRAIN | {
    "trainer.steps": 7, "trainer.num_iterations": 3, "trainer.max_kl": 1e-9,
    "critic": TRAIN["critic"] | {"warmup_steps": 1},
}  # fmt: skip
HEAD = TRAIN | {"critic": {"learning_rate": 1e-2, "backbone": "policy", "detach": False}}
WRAPPERS = {"ddp": "DistributedDataParallel", "zero2": "DeepSpeedEngine", "zero3": "DeepSpeedEngine"}


@pytest.fixture(scope="module")
def done(tmp_path_factory, tiny_model_dir):
    folder = tmp_path_factory.mktemp("ppo-two")

    def recipe(name, changes, **more):
        (folder / name).mkdir(exist_ok=True)
        return tiny_recipe(tiny_model_dir, folder / name, **changes, **more)

    jobs = {}
    for name, stage in (("ddp", 0), ("zero2", 2), ("zero3", 3)):
        zero = {"trainer.deepspeed": _config(folder, stage)} if stage else {}
        whole = recipe(name, TRAIN, **zero, **{"trainer.save_every": 5})
        jobs[name] = {"recipe": whole, "random": True}
        drop = folder / name / "runs" / "run" / "checkpoints" / "step-000008"
        jobs[f"{name} resumed"] = {"recipe": whole, "random": True, "resume": str(drop.parents[1]), "drop": str(drop)}
        three = recipe(f"{name}-nan", TRAIN | {"trainer.steps": 3}, **zero)
        jobs[f"{name} nan"] = {"recipe": three, "random": True, "nan_rank": 1}
        jobs[f"{name} skipping"] = {"recipe": recipe(f"{name}-skipping", SKIPPING, **zero), "random": True}
    for name, stage in (("head", 0), ("head zero2", 2), ("head zero3", 3)):
        zero = {"trainer.deepspeed": _config(folder, stage)} if stage else {}
        jobs[name] = {"recipe": recipe(name.replace(" ", "-"), HEAD, **zero), "random": True}
    # KL in the loss, an own backbone.
    in_loss = TRAIN | {"trainer.kl_in": "loss"}
    jobs["kl in the loss"] = {"recipe": recipe("loss", in_loss), "random": True}
    launch(folder, jobs)
    return folder


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, tiny_model_dir):
    """Final weights, those at the start, and the lines of metrics."""
    folder = tmp_path_factory.mktemp("ppo-one")
    return *_one_process(tiny_recipe(tiny_model_dir, folder, **TRAIN)), RunFolder(
        folder / "runs" / "run"
    ).read_metrics()


def _one_process(recipe):
    """Final weights of policy and critic, and those they started from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "make_engine", lambda *_: RandomEngine(longest=8))
        with run.prepare(recipe) as trainer:
            start = policy_weights(trainer.model), critic_weights(trainer.critic.model)
            trainer.train()
            return (policy_weights(trainer.model), critic_weights(trainer.critic.model)), start


def _weights(folder, name):
    assert [r["error"] for r in records(folder, name)] == [None, None]
    return tuple(torch.load(folder / f"{file}.pt", weights_only=True) for file in (name, f"{name}-critic"))


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_two_processes_train_the_policy_and_the_critic_that_one_trains(done, one_process, wrapper):
    assert {r["critic"] for r in records(done, wrapper)} == {WRAPPERS[wrapper]}
    assert {r["engine"] for r in records(done, wrapper)} == {WRAPPERS[wrapper]}
    ends, starts, lines = one_process
    for got, wanted, start in zip(_weights(done, wrapper), ends, starts, strict=True):
        assert set(got) == set(wanted)
        # Another order of sums; under ZeRO-2 and 3 DeepSpeed's clip, too.
        assert moved_apart(got, wanted, start) < 1e-2
    # A gradient that is too short or too long throughout leads to the same weights: Adam divides by its size.
    for name in ("grad_norm", "critic/grad_norm"):
        got = [line[name] for line in RunFolder(done / wrapper / "runs" / "run").read_metrics()]
        assert got == pytest.approx([line[name] for line in lines], rel=1e-2), name


def test_with_kl_in_the_loss_too(done, tmp_path, tiny_model_dir):
    ends, starts = _one_process(tiny_recipe(tiny_model_dir, tmp_path, **TRAIN | {"trainer.kl_in": "loss"}))
    for got, wanted, start in zip(_weights(done, "kl in the loss"), ends, starts, strict=True):
        assert moved_apart(got, wanted, start) < 1e-2


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_resumed_run_is_the_run_that_was_not_stopped(done, wrapper):
    """The same file names: what the resumed run saved stands beside what the whole one did."""
    for whole, resumed in zip(_weights(done, wrapper), _weights(done, f"{wrapper} resumed"), strict=True):
        for name, tensor in whole.items():
            torch.testing.assert_close(resumed[name], tensor, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_all_processes_skip_the_same_updates(done, wrapper):
    lines = RunFolder(done / f"{wrapper}-skipping" / "runs" / "run").read_metrics()
    # Step 1: the critic alone. Windows of three steps: what follows the second one, the first that is off-policy, is
    # left out; in the first window that judges step 3.
    skipped = [1, 0, 0, 0, 0, 1, 0]
    assert [line["policy_skipped"] for line in lines] == skipped
    ranks = records(done, f"{wrapper} skipping")
    for rank in ranks:
        assert (rank["error"], rank["skipped"]) == (None, [bool(x) for x in skipped])
        # A skipped step moves nothing, whatever steps the weights; another one does.
        moved = [a != b for a, b in zip(rank["weights"], rank["weights"][1:], strict=False)]
        assert moved == [not x for x in skipped[1:]]
    # What decides is the KL over both processes' tokens, not each one's own.
    (one, n), (other, m) = (rank["kl"][2] for rank in ranks)
    assert one / n != other / m and lines[2]["kl_old_new"] == pytest.approx((one + other) / (n + m), rel=1e-4)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_loss_that_is_no_number_on_one_process_is_left_out_on_both(done, wrapper):
    assert [r["error"] for r in records(done, f"{wrapper} nan")] == [None, None]
    for weights in _weights(done, f"{wrapper} nan"):
        assert all(tensor.isfinite().all() for tensor in weights.values())
    lines = RunFolder(done / f"{wrapper}-nan" / "runs" / "run").read_metrics()
    assert [line.get("nonfinite_losses", 0) > 0 for line in lines] == [False, True, False]


@pytest.mark.parametrize("name", ["head", "head zero2", "head zero3"])
def test_a_head_on_the_policy_learns_the_same_over_two_processes(done, tmp_path, tiny_model_dir, name):
    assert [r["error"] for r in records(done, name)] == [None, None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "make_engine", lambda *_: RandomEngine(longest=8))
        with run.prepare(tiny_recipe(tiny_model_dir, tmp_path, **HEAD)) as trainer:
            start = policy_weights(trainer.model)
            trainer.train()
            wanted, head = policy_weights(trainer.model), trainer.critic.head.state_dict()
    assert moved_apart(torch.load(done / f"{name}.pt", weights_only=True), wanted, start) < 1e-2
    checkpoint = done / name.replace(" ", "-") / "runs" / "run" / "checkpoints" / "step-000008"
    state = torch.load(checkpoint / "critic" / "learner.pt")
    for name, tensor in head.items():
        torch.testing.assert_close(state["head"][name], tensor, atol=1e-5, rtol=1e-3)
