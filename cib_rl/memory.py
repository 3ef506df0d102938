"""An estimate of memory per device, made from the recipe and the models' shapes alone. It is no measurement.

Sizes in bytes; b is the size of one number (4 for float32, 2 for bfloat16), P the parameters of the policy, P' those
that are trained, L layers, h hidden size, q and k the widths of queries and of keys, f the width of the MLP, V the
vocabulary, M the tokens of a micro-batch and N those of one of its passes (`token_budget`; the graphs of all passes are
kept until the micro-batch's backward), R and S the completions sampled at once and their longest length.

* weights b·P; gradients b·P'; Adam 2b·P' (its states have the parameters' dtype; DeepSpeed with bf16 keeps the states
  and a master copy in float32: 12·P')
* activations kept for the backward pass (b is 2 with `autocast_bf16`), per layer b·M·(6h + 2q + 2k + 4f): inputs of
  the two norms and their upcasts, q, k, v, the attention's output, and gate, up, activation and product of a gated MLP;
  attention itself is assumed to keep no (N, N) matrix. With gradient checkpointing each layer's input, M·h numbers in
  the type of the weights (autocast leaves the residual stream in it), and of one pass one layer whole, b·N·(…).
* logits exist in tiles only: 4·min(N, 4096)·min(V, 32768), twice
* KV cache of the transformers engine: 2b·L·k·R·S; the vLLM engine takes what the recipe's share of the device says
* reference (with kl > 0 and no LoRA) b·P; each model prior b·P of its own
* a critic of its own (PPO): weights, gradients and Adam states like a policy's; its activations come after the policy's
  backward pass and are no more than those
* supervised training: all in float32, the optimizers' numbers as they are (Adam two per parameter, Muon one), and the
  logits of a whole pass, their log-probabilities and gradients: 12·N·V, 10·N·V with `autocast_bf16`

ZeRO divides Adam (stage ≥ 1), gradients (≥ 2) and weights (3) by the number of devices.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cib_rl.recipe import LoraSection, Recipe

ASSUMED_PROMPT = 512  # tokens, where the prompts cannot be read
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Shape:
    """What the estimate needs to know of a model. 0 means unknown: widths where only the parameter count is known, and
    what is trained of a model with adapters."""

    parameters: int
    trainable: int
    layers: int = 0
    hidden: int = 0
    query: int = 0
    key: int = 0
    mlp: int = 0
    vocabulary: int = 0
    max_positions: int = 0


@dataclass(frozen=True)
class Item:
    """One line of the estimate."""

    name: str
    size: float
    note: str = ""


def shape_of(reference: str, lora: LoraSection | None = None) -> Shape:
    """Read a model's config (a folder or the local hub cache) and count its parameters on the meta device.

    Raises OSError or ValueError when there is no readable config.
    """
    from transformers import AutoConfig

    return shape_of_config(AutoConfig.from_pretrained(reference, local_files_only=True), lora)


def shape_of_config(config: Any, lora: LoraSection | None = None) -> Shape:
    """Count the parameters that a causal language model of this config has, on the meta device."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    parameters = sum(weight.numel() for weight in model.parameters())  # a tied head is counted once
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    return Shape(
        parameters=parameters,
        trainable=parameters if lora is None else _adapter_parameters(model, lora),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        query=heads * head_dim,
        key=(getattr(text, "num_key_value_heads", None) or heads) * head_dim,
        mlp=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        vocabulary=text.vocab_size,
        max_positions=getattr(text, "max_position_embeddings", 0) or 0,
    )


def shape_from_name(reference: str) -> Shape | None:
    """The parameter count that a hub id states, as in `Qwen2.5-1.5B`; None when it states none."""
    match = re.search(r"(\d+(?:\.\d+)?)([BM])(?![A-Za-z])", reference)
    if not match:
        return None
    count = int(float(match[1]) * {"B": 1e9, "M": 1e6}[match[2]])
    return Shape(count, count)


def estimate(
    recipe: Recipe,
    policy: Shape,
    priors: dict[str, Shape],
    *,
    critic: Shape | None = None,
    devices: int = 1,
    prompt: int = ASSUMED_PROMPT,
) -> list[Item]:
    """Memory per device; `prompt` is the longest prompt in tokens, `priors` maps a reward's label to its model."""
    trainer = recipe.trainer
    b = _BYTES[trainer.dtype]
    stage = zero_stage(trainer.deepspeed)
    items = _learner("policy", policy, trainer.dtype, stage, trainer.deepspeed is not None, devices)
    if critic is not None and recipe.critic is not None:
        dtype = recipe.critic.dtype or trainer.dtype
        items += _learner("critic", critic, dtype, stage, trainer.deepspeed is not None, devices)
    if trainer.kl > 0 and recipe.lora is None:
        items.append(Item("reference: weights", b * policy.parameters / _share(stage >= 3, devices)))
    items += [
        Item(f"prior of {label}: weights", b * shape.parameters, _millions(shape.parameters))
        for label, shape in priors.items()
    ]

    completions = max(1, trainer.prompts_per_step * recipe.sampling.group_size // devices)
    length = prompt + recipe.environment.max_completion_length
    if policy.layers:
        items += _passes(recipe, policy, completions, length, b)
    if policy.layers or recipe.engine.name == "vllm":  # vLLM's share does not depend on the model
        items += _cache(recipe, policy, completions * trainer.steps_per_window, length, b)
    return items


def estimate_supervised(shape: Shape, *, states: int, tokens: int, autocast: bool) -> list[Item]:
    """Memory of supervised training in float32.

    Args:
        states: numbers that the optimizers keep.
        tokens: of one forward-backward pass, padding counted.
        autocast: passes in bfloat16.
    """
    weights, gradients, _ = _learner("model", shape, "float32", 0, False, 1)
    items = [weights, gradients, Item("model: optimizer states", 4 * states)]
    if shape.layers:
        logits = (10 if autocast else 12) * tokens * shape.vocabulary
        items += [
            _activations(shape, tokens, tokens, 2 if autocast else 4, 4, False),
            Item("logits", logits, "of a whole pass: themselves, log-probabilities and gradients"),
        ]
    return items


def _learner(name: str, shape: Shape, dtype: str, stage: int, deepspeed: bool, devices: int) -> list[Item]:
    b = _BYTES[dtype]
    adam_bytes = 12 if deepspeed and b == 2 else 2 * b
    return [
        Item(f"{name}: weights", b * shape.parameters / _share(stage >= 3, devices), _millions(shape.parameters)),
        Item(f"{name}: gradients", b * shape.trainable / _share(stage >= 2, devices), _millions(shape.trainable)),
        Item(f"{name}: Adam states", adam_bytes * shape.trainable / _share(stage >= 1, devices)),
    ]


def _passes(recipe: Recipe, policy: Shape, completions: int, length: int, b: int) -> list[Item]:
    trainer = recipe.trainer
    micro = min(trainer.micro_batch_size or completions, completions) * length
    one_pass = min(micro, max(trainer.token_budget or micro, length))
    tiles = 2 * 4 * min(one_pass, 4096) * min(policy.vocabulary, 32768)
    kept = _activations(policy, micro, one_pass, 2 if trainer.autocast_bf16 else b, b, trainer.gradient_checkpointing)
    return [kept, Item("logit tiles", tiles)]


def _activations(shape: Shape, micro: int, one_pass: int, passes: int, between: int, checkpointing: bool) -> Item:
    """Of a micro-batch that is made in passes; `passes` and `between`: bytes of a number in layers and between them."""
    layer = passes * (6 * shape.hidden + 2 * shape.query + 2 * shape.key + 4 * shape.mlp)
    if checkpointing:
        kept = shape.layers * between * micro * shape.hidden + layer * one_pass
    else:
        kept = shape.layers * layer * micro
    return Item("activations", kept, f"{micro:,} tokens per micro-batch, {one_pass:,} per pass")


def _cache(recipe: Recipe, policy: Shape, completions: int, length: int, b: int) -> list[Item]:
    engine = recipe.engine
    b = _BYTES.get(engine.dtype or "", b)
    if engine.name == "vllm":
        share = engine.gpu_memory_utilization
        note = f"{share:.0%} of the device (engine.gpu_memory_utilization)"
        memory = _device_memory()
        return [
            Item("vLLM: weights and KV cache", share * memory, note)
            if memory
            else Item("vLLM: weights", b * policy.parameters, f"on a GPU: {note}")
        ]
    rows = min(engine.max_num_seqs, completions)
    size = 2 * b * policy.layers * policy.key * rows * length
    return [Item("KV cache", size, f"{rows} completions of {length:,} tokens")]


def zero_stage(path: str | None) -> int:
    """The ZeRO stage of a DeepSpeed configuration file; 0 without one or when it cannot be read."""
    try:
        config: Any = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
        return int(config.get("zero_optimization", {}).get("stage", 0))
    except (OSError, ValueError, AttributeError):
        return 0


def _share(divided: bool, devices: int) -> int:
    return devices if divided else 1


def _device_memory() -> int:
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0


def _adapter_parameters(model: Any, lora: LoraSection) -> int:
    """Parameters of the adapters: r·(in + out) for each linear layer they are put on (never the head)."""
    from torch import nn

    wanted = lora.target_modules

    def chosen(name: str) -> bool:  # PEFT's rules: a string is a pattern for the whole name, a list holds its ends
        if isinstance(wanted, str):
            return wanted == "all-linear" or re.fullmatch(wanted, name) is not None
        return any(name == end or name.endswith(f".{end}") for end in wanted)

    head = model.get_output_embeddings()
    return sum(
        lora.r * (module.in_features + module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and chosen(name)
    )


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f} M parameters"
