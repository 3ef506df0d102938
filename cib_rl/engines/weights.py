"""The policy's weights by the names of the plain transformers model: unwrapped, LoRA merged, shards gathered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from cib_rl.errors import UserError

# Names, not classes: importing DeepSpeed to compare a type costs seconds and starts its logging.
_WRAPPERS = {"DistributedDataParallel", "DataParallel", "DeepSpeedEngine", "FullyShardedDataParallel"}


def unwrap(model: torch.nn.Module) -> Any:
    """The model inside torch.compile, DDP, DeepSpeed and the like. A PeftModel stays one."""
    while True:
        if type(model).__name__ in _WRAPPERS:
            model = model.module  # type: ignore[assignment]
        elif type(model).__name__ == "OptimizedModule":
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


@dataclass(frozen=True)
class _Entry:
    """A name of the plain model, the tensor it comes from, and the LoRA layer that adds to it (or None)."""

    name: str
    tensor: torch.Tensor
    layer: Any = None


def policy_tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """All weights of the policy, name by name, as the plain transformers model's `state_dict` names them.

    Tied weights come under each of their names (`lm_head.weight` too). LoRA is merged out of place, in fp32 and then
    rounded to the base's type: the base weights are read and never written. With ZeRO-3 each parameter is gathered
    when its turn comes, so every rank must go through the whole iterator.

    Tensors are views of the training weights, on their device: copy what has to outlive the next optimizer step.
    Raises UserError for adapters that cannot be written as a plain model.
    """
    inner = unwrap(model)
    for entry in _entries(inner):
        adapters = [] if entry.layer is None else _adapter_parameters(entry.layer)
        with torch.no_grad(), _gathered([entry.tensor, *adapters]) as gathered:
            tensor = entry.tensor.detach()
            if entry.layer is not None:
                tensor = _merged(entry.layer, tensor, entry.name)
            elif gathered:
                tensor = tensor.clone()  # the shard's full size lasts only as long as this block
            yield entry.name, tensor


def policy_names(model: torch.nn.Module) -> list[str]:
    """The names that `policy_tensors` gives, without making the tensors."""
    return [entry.name for entry in _entries(unwrap(model))]


def collect(
    named_tensors: Iterable[tuple[str, torch.Tensor]], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, torch.Tensor]:
    """All tensors by name, as references. ValueError unless names and shapes are exactly these, each name once."""
    listed = list(named_tensors)
    tensors = dict(listed)
    check_names(list(shapes), [name for name, _ in listed])
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes[name]:
            raise ValueError(
                f"the weights do not fit the engine's model: {name} has shape {tuple(tensor.shape)}, "
                f"the engine's {shapes[name]}. Nothing was loaded."
            )
    return tensors


def check_names(expected: Sequence[str], given: Sequence[str]) -> None:
    """ValueError unless both have the same names, each once."""
    missing, unknown = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    twice = sorted(name for name, count in Counter(given).items() if count > 1)
    parts = [
        f"{len(names)} {what}: {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
        for what, names in (("missing", missing), ("unknown to the engine's model", unknown), ("given twice", twice))
        if names
    ]
    if parts:
        raise ValueError(f"the weights do not fit the engine's model: {'; '.join(parts)}. Nothing was loaded.")


def _entries(inner: Any) -> list[_Entry]:
    if not hasattr(inner, "peft_config"):
        return [_Entry(name, tensor) for name, tensor in inner.state_dict(keep_vars=True).items()]
    base = inner.get_base_model()
    entries: list[_Entry] = []
    changed: set[str] = set()  # names whose values differ from the base model's
    for key, tensor in base.state_dict(keep_vars=True).items():
        name, layer = _plain_name(base, key)
        if name is None:
            continue
        entries.append(_Entry(name, tensor, layer))
        if layer is not None or ".modules_to_save." in key:
            changed.add(name)
    _check_tied(base, changed)
    return entries


def _plain_name(base: Any, key: str) -> tuple[str | None, Any]:
    """The plain model's name for a key of a model with adapters (None: belongs to the adapter), and its LoRA layer."""
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    owner_path, owner = "", base
    for part in key.split(".")[:-1]:
        owner_path = f"{owner_path}.{part}".lstrip(".")
        owner = getattr(owner, part)
        if isinstance(owner, ModulesToSaveWrapper):
            rest = key[len(owner_path) + 1 :]
            saved = f"modules_to_save.{owner.active_adapters[0]}."
            return (f"{owner_path}.{rest.removeprefix(saved)}", None) if rest.startswith(saved) else (None, None)
        if isinstance(owner, BaseTunerLayer):
            if not isinstance(owner, LoraLayer):
                raise UserError(f"{owner_path}: adapters of type {type(owner).__name__} cannot be merged; use LoRA")
            rest = key[len(owner_path) + 1 :]
            if not rest.startswith("base_layer."):
                return None, None
            rest = rest.removeprefix("base_layer.")
            return f"{owner_path}.{rest}", owner if rest == "weight" else None
    return key, None


def _check_tied(base: Any, changed: set[str]) -> None:
    if not getattr(base.config.get_text_config(), "tie_word_embeddings", False):
        return
    tied = {name for name in changed if name.endswith(("embed_tokens.weight", "wte.weight", "lm_head.weight"))}
    if tied:
        raise UserError(
            f"the adapter changes {', '.join(sorted(tied))}, but this model ties its head to its embedding: the "
            "merged policy is no plain model any more. Leave both out of lora.target_modules."
        )


def _active(layer: Any) -> list[str]:
    return [a for a in layer.active_adapters if a in layer.lora_A or a in layer.lora_embedding_A]


def _adapter_parameters(layer: Any) -> list[torch.Tensor]:
    return [p for name, p in layer.named_parameters() if "lora_" in name]


def _merged(layer: Any, weight: torch.Tensor, name: str) -> torch.Tensor:
    """W + ΔW, a new tensor of W's type."""
    if layer.disable_adapters:
        raise UserError(f"{name}: the adapter is switched off, so the weights would be the reference's")
    if layer.merged:
        raise UserError(f"{name}: the adapter is merged into the base weights; unmerge it first")
    if not weight.is_floating_point():
        raise UserError(f"{name}: LoRA on quantized weights ({weight.dtype}) cannot be merged without loss")
    total = weight.float()
    for adapter in _active(layer):
        if adapter in getattr(layer, "lora_variant", {}) or layer.lora_bias.get(adapter):
            raise UserError(f"{name}: only plain LoRA can be merged (no DoRA or other variant, no lora_bias)")
        total = total + layer.get_delta_weight(adapter).float()
    return total.to(weight.dtype) if total is not weight else weight.clone()


def _gathered(tensors: Sequence[torch.Tensor]) -> AbstractContextManager[Any]:
    """Under ZeRO-3, the whole parameters within the block (True); else nothing to do (None)."""
    sharded = [t for t in tensors if hasattr(t, "ds_id")]
    if not sharded:
        return nullcontext(None)
    return _GatherShards(sharded)


class _GatherShards(AbstractContextManager[bool]):
    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        from deepspeed import zero

        self._inner = zero.GatheredParameters(list(tensors))

    def __enter__(self) -> bool:
        self._inner.__enter__()
        return True

    def __exit__(self, *exception: Any) -> None:
        self._inner.__exit__(*exception)
