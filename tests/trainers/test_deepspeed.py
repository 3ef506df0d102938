"""ZeRO over two CPU processes, by the recipe key `trainer.deepspeed`, against plain data parallelism."""

import json

import pytest
import torch
import yaml

from tests.trainers.support import HERE, tiny_recipe
from tests.trainers.test_distributed import launch, moved_apart, plain_weights, records

pytestmark = [pytest.mark.trl, pytest.mark.deepspeed, pytest.mark.slow]


def _config(folder, stage):
    path = folder / f"zero{stage}.json"
    # Buffers of the default size, 5e8 numbers, would take 2 GB for each engine that was ever made.
    buffers = dict.fromkeys(("reduce_bucket_size", "allgather_bucket_size", "stage3_prefetch_bucket_size"), 10**5)
    settings = {"stage": stage, "contiguous_gradients": True, "overlap_comm": False, **buffers}
    auto = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    path.write_text(
        json.dumps({**dict.fromkeys(auto, "auto"), "bf16": {"enabled": "auto"}, "zero_optimization": settings})
    )
    return str(path)


@pytest.fixture(scope="module")
def done(tmp_path_factory, tiny_model_dir):
    folder = tmp_path_factory.mktemp("zero")

    def recipe(name, **changes):
        (folder / name).mkdir(exist_ok=True)
        steps = {"trainer.steps": 2, "trainer.save_every": 1, "trainer.prompts_per_step": 4}
        common = {"trainer.micro_batch_size": 4, "trainer.token_budget": 60, "deterministic": True}
        engine = {"max_logprob_gap": 1e-4}
        return tiny_recipe(tiny_model_dir, folder / name, **steps, **common, engine=engine, **changes)

    two, three = ({"trainer.deepspeed": _config(folder, stage)} for stage in (2, 3))
    run = folder / "zero2" / "runs" / "run"
    jobs = {
        "plain": {"recipe": recipe("plain")},
        "zero2": {"recipe": recipe("zero2", **two)},
        "resumed": {
            "recipe": recipe("zero2", **two), "resume": str(run), "drop": str(run / "checkpoints" / "step-000002"),
        },
        "zero2 and lora": {"recipe": recipe("lora", lora={"r": 4}, **two)},
        "zero3": {"recipe": recipe("zero3", **three)},
    }  # fmt: skip
    launch(folder, jobs)
    return folder


def _weights(folder, name):
    assert [r["error"] for r in records(folder, name)] == [None, None]
    return torch.load(folder / f"{name}.pt", weights_only=True)


def test_zero2_trains_what_plain_data_parallelism_trains(done, tiny_model_dir):
    plain, zero2 = _weights(done, "plain"), _weights(done, "zero2")
    assert {r["engine"] for r in records(done, "zero2")} == {"DeepSpeedEngine"}
    assert {r["distributed_type"] for r in records(done, "zero2")} == {"DistributedType.DEEPSPEED"}
    # Another optimizer (DeepSpeed's own AdamW) and another order of sums.
    assert moved_apart(zero2, plain, plain_weights(tiny_model_dir)) < 1e-2


def test_zero2_resumes(done):
    zero2, resumed = _weights(done, "zero2"), _weights(done, "resumed")
    for name, tensor in zero2.items():
        torch.testing.assert_close(resumed[name], tensor, atol=1e-6, rtol=1e-6)


def test_zero2_trains_adapters(done, tiny_model_dir):
    start = plain_weights(tiny_model_dir)
    adapted = _weights(done, "zero2 and lora")
    changed = {name for name, tensor in adapted.items() if not torch.equal(tensor, start[name])}
    assert changed and all("proj" in name for name in changed)


def test_sharded_parameters_are_refused_by_the_engine_that_shares_them(done):
    errors = {r["error"] for r in records(done, "zero3")}
    assert len(errors) == 1 and "sharded (ZeRO-3 or FSDP)" in errors.copy().pop()


def test_the_shipped_accelerate_config_starts_deepspeed(tmp_path, tiny_model_dir):
    """`accelerate launch --config_file zero2.yaml`, with two processes and no bf16; the recipe says nothing of it."""
    shipped = yaml.safe_load((HERE.parents[2] / "recipes" / "launch" / "zero2.yaml").read_text())
    (tmp_path / "zero2.yaml").write_text(yaml.safe_dump(shipped | {"num_processes": 2, "mixed_precision": "no"}))
    launcher = ["accelerate.commands.launch", "--config_file", str(tmp_path / "zero2.yaml"), "--main_process_port", "0"]
    launch(tmp_path, {"shipped": {"recipe": tiny_recipe(tiny_model_dir, tmp_path)}}, launcher)
    for record in records(tmp_path, "shipped"):
        assert (record["error"], record["engine"]) == (None, "DeepSpeedEngine")
