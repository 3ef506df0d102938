"""One process of a distributed test: runs the jobs of a folder one after the other, and writes down what it saw.

Usage (under torchrun or accelerate launch): jobs_worker.py FOLDER WORLD_SIZE

`FOLDER/jobs.json` maps names to {recipe, resume (run folder or null), drop (checkpoint to delete first, or null),
random (an engine without a model, which also serves sharded weights), nan_rank (the process whose third micro-batch has
no numbers), overflow_rank (the process on which the gradients of the second step are infinite)}. Each process writes
`NAME-rankR.json`; the main one also `NAME.pt`, the policy's final weights, and `NAME-critic.pt` where there is a critic
with a model.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import TrainerCallback, training_args

from cib_rl.engines.weights import policy_tensors
from cib_rl.errors import UserError
from cib_rl.recipe import Recipe
from cib_rl.trainers import grpo, run
from cib_rl.trainers.batch import take
from cib_rl.trainers.checkpoint import find_checkpoint
from cib_rl.trainers.processes import leave_processes
from cib_rl.trainers.run import make_engine
from tests.trainers.support import RandomEngine


class Watch(TrainerCallback):
    """After every step: the stream's cursor, whether the policy's update was skipped, this process's KL (sum, tokens)
    of old and new policy, and a sum over its share of the policy's weights."""

    def __init__(self, overflow=False):
        self.trainer, self.overflow, self.hooks = None, overflow, []
        self.seen = {"cursors": [], "skipped": [], "kl": [], "weights": []}

    def on_step_begin(self, args, state, control, **_):
        if self.overflow and state.global_step == 1:
            for model in (self.trainer.model, self.trainer.critic.model):
                parameter = next(p for p in model.parameters() if p.requires_grad)
                self.hooks.append(parameter.register_hook(lambda gradient: gradient * float("inf")))

    def on_step_end(self, args, state, control, **_):
        trainer = self.trainer
        while self.hooks:
            self.hooks.pop().remove()
        own = (getattr(p, "ds_tensor", p) for p in trainer.model.parameters())
        seen = {
            "cursors": trainer.collector.stream.cursor,
            "skipped": trainer._skipping,
            "kl": [trainer._kl_sum, trainer._kl_tokens],
            "weights": sum(float(p.detach().double().abs().sum()) for p in own),
        }
        for name, value in seen.items():
            self.seen[name].append(value)


def broken_take():
    """`take`, whose third micro-batch has advantages and returns that are no numbers."""
    calls = []

    def broken(batch, rows):
        micro = take(batch, rows)
        calls.append(1)
        if len(calls) == 3:
            micro |= {name: micro[name] * float("nan") for name in ("advantages", "returns")}
        return micro

    return broken


def policy_weights(model) -> dict:
    """As the plain model names them: unwrapped, merged, gathered (every process must call it)."""
    return {n: t.detach().clone() for n, t in policy_tensors(model)}


def critic_weights(model) -> dict:
    """By the critic's own names; what ZeRO-3 shards is gathered, and where an engine computes in bfloat16, the float32
    weights that it updates are taken (every process must call it)."""
    inner = getattr(model, "module", model)
    if hasattr(model, "bfloat16_enabled") and model.bfloat16_enabled():
        from deepspeed.utils import safe_get_full_fp32_param

        return {n: safe_get_full_fp32_param(p).clone() for n, p in inner.named_parameters()}
    if any(hasattr(p, "ds_id") for p in inner.parameters()):
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(inner.parameters())):
            return {n: t.detach().clone() for n, t in inner.state_dict().items()}
    return {n: t.detach().clone() for n, t in inner.state_dict().items()}


def run_job(folder: Path, name: str, job: dict, world: int) -> dict:
    rank = PartialState().process_index
    watch = Watch(overflow=job.get("overflow_rank") == rank)
    record: dict = {"error": None}
    grpo.take = broken_take() if job.get("nan_rank") == rank else take
    run.make_engine = (lambda *_: RandomEngine(longest=8)) if job.get("random") else make_engine
    try:
        recipe = Recipe.model_validate(job["recipe"])
        checkpoint = find_checkpoint(Path(job["resume"])) if job.get("resume") else None
        with run.prepare(recipe, checkpoint=checkpoint, callbacks=[watch]) as trainer:
            watch.trainer = trainer
            assert trainer.accelerator.num_processes == world
            record["distributed_type"] = str(trainer.accelerator.distributed_type)
            if not job.get("random"):
                record["first"] = {n: float(t.sum()) for n, t in policy_tensors(trainer.model)}
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            record["engine"] = type(trainer.model_wrapped).__name__
            weights = {name: policy_weights(trainer.model_wrapped)}
            if hasattr(critic := getattr(trainer, "critic", None), "wrapped"):
                weights[f"{name}-critic"] = critic_weights(critic.wrapped)
                record["critic"] = type(critic.wrapped).__name__
                record["dtypes"] = [str(next(m.parameters()).dtype) for m in (trainer.model, critic.wrapped)]
            if trainer.accelerator.is_main_process:
                for file, own in weights.items():
                    torch.save(own, folder / f"{file}.pt")
    except UserError as error:
        record["error"] = str(error)
    return record | watch.seen


def main() -> None:
    folder, world = Path(sys.argv[1]), int(sys.argv[2])
    state = PartialState(cpu=True)
    assert state.num_processes == world
    # transformers lets bfloat16 onto CPUs with `use_cpu` alone, which would switch DeepSpeed off.
    training_args.is_torch_bf16_gpu_available = lambda: True
    for name, job in json.loads((folder / "jobs.json").read_text()).items():
        if job.get("drop") and state.is_main_process:
            shutil.rmtree(job["drop"])
        state.wait_for_everyone()
        record = run_job(folder, name, job, world)
        (folder / f"{name}-rank{state.process_index}.json").write_text(json.dumps(record))
        state.wait_for_everyone()
    leave_processes()  # a live group of gloo's may abort a process that ends


if __name__ == "__main__":
    main()
