"""The critic's DeepSpeed configuration, made from the run's."""

from __future__ import annotations

import copy
from typing import Any


def critic_config(
    config: dict[str, Any], *, max_grad_norm: float, micro_batch_size: int, bf16: bool, hidden: int
) -> dict[str, Any]:
    """The run's DeepSpeed configuration for a second engine: same ZeRO section, the critic's clip and dtype, no
    optimizer or scheduler of DeepSpeed's. What stands at `auto` is filled here (transformers does it for the policy
    alone, with the same rules); `hidden` is the critic's width."""
    own = copy.deepcopy(config)
    for section in ("optimizer", "scheduler", "train_batch_size", "fp16"):
        own.pop(section, None)
    own |= {
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": 1,  # boundaries are set by hand
        "gradient_clipping": max_grad_norm,
        "bf16": {"enabled": bf16},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # with offload: torch's AdamW does, on the CPU
        "steps_per_print": 10**9,
    }
    zero = own.get("zero_optimization", {})
    sizes = {
        "reduce_bucket_size": hidden * hidden,
        "stage3_prefetch_bucket_size": int(0.9 * hidden * hidden),
        "stage3_param_persistence_threshold": 10 * hidden,
    }
    for key, size in sizes.items():
        if zero.get(key) == "auto":
            zero[key] = size
    without: dict[str, Any] = _without_auto(own)
    return without


def _without_auto(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_auto(item) for key, item in value.items() if item != "auto"}
    return value
