"""TRL's configuration for a recipe, and the joining of processes that DeepSpeed on CPUs needs before it."""

from __future__ import annotations

import importlib.util
import math
import os
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, PartialState
from trl import GRPOConfig

from cib_rl.errors import UserError
from cib_rl.recipe import Recipe
from cib_rl.trackers import trackers
from cib_rl.trainers.grpo import completions_per_process


def trl_arguments(recipe: Recipe, processes: int, base_dir: Path) -> GRPOConfig:
    """TRL's configuration. What decides data, rewards and generation is ours; the optimisation is TRL's."""
    section = recipe.trainer
    share = completions_per_process(recipe, processes)
    micro = min(section.micro_batch_size or share, share)
    group = recipe.sampling.group_size
    own_steps = section.steps - (recipe.critic.warmup_steps if recipe.critic else 0)
    deepspeed = _deepspeed_file(section.deepspeed, base_dir)
    deepspeed_on_cpus = not torch.cuda.is_available() and (deepspeed is not None or launched_with_deepspeed())
    if deepspeed_on_cpus:
        _join_processes_for_deepspeed_on_cpus()
    arguments = GRPOConfig(
        output_dir=str(Path(recipe.output) / "unused"),
        seed=recipe.seed,
        max_steps=section.steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=share // micro,
        steps_per_generation=share // micro * section.steps_per_window,
        num_iterations=section.num_iterations,
        num_generations=max(group, 2),
        max_completion_length=recipe.environment.max_completion_length,
        temperature=recipe.sampling.temperature,
        loss_type=section.loss,
        importance_sampling_level=section.importance_level,
        epsilon=section.epsilon,
        epsilon_high=section.epsilon_high,
        beta=section.kl,
        entropy_coef=section.entropy,
        learning_rate=section.learning_rate,
        lr_scheduler_type=section.schedule,
        warmup_steps=math.ceil(section.warmup_ratio * own_steps),
        weight_decay=section.weight_decay,
        adam_beta2=section.adam_beta2,
        max_grad_norm=section.max_grad_norm,
        bf16=section.autocast_bf16,
        gradient_checkpointing=section.gradient_checkpointing,
        use_cpu=not torch.cuda.is_available() and not deepspeed_on_cpus,
        accelerator_config={"use_configured_state": deepspeed_on_cpus},
        deepspeed=deepspeed,
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,  # ranks may differ in the number of forward passes per step
        shuffle_dataset=False,
        ignore_data_skip=True,  # the loader is only a clock
        logging_steps=recipe.logging.every,
        logging_nan_inf_filter=False,  # a NaN loss must be seen
        save_strategy="steps" if section.save_every else "no",
        save_steps=section.save_every or 500,
        report_to=trackers(recipe.logging),
        disable_tqdm=True,
        full_determinism=False,
    )
    if arguments.device.type == "cpu":
        # accelerate numbers the CPU where there are several processes, and torch.load knows no "cpu:0".
        vars(arguments)["_setup_devices"] = torch.device("cpu")
    arguments.num_generations = group  # TRL refuses 1 in its constructor only
    return arguments


def _deepspeed_file(name: str | None, base_dir: Path) -> str | None:
    if name is None:
        return None
    path = base_dir / Path(name).expanduser()
    if not path.is_file():
        raise UserError(f"trainer.deepspeed: no file {path}")
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError('trainer.deepspeed: DeepSpeed is not installed: pip install "cib-rl[deepspeed]"')
    return str(path)


def launched_with_deepspeed() -> bool:
    """True under `accelerate launch` with a configuration of DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def _join_processes_for_deepspeed_on_cpus() -> None:
    """accelerate names no backend for DeepSpeed without a GPU and would leave each process alone, and `use_cpu` would
    switch DeepSpeed off without a word. So its state is made here, with gloo; DeepSpeed wants DS_ACCELERATOR=cpu."""
    before = os.environ.get("ACCELERATE_USE_DEEPSPEED")
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    try:
        PartialState(backend="gloo")
    finally:
        del os.environ["ACCELERATE_USE_DEEPSPEED"]
        if before is not None:
            os.environ["ACCELERATE_USE_DEEPSPEED"] = before
