"""Loading the policy and its tokenizer: hub id, folder, run, checkpoint, or weights shipped with the package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from cib_rl.errors import UserError
from cib_rl.recipe import LoraSection

SHIPPED = Path(__file__).parent / "data"


def resolve_model(reference: str, base_dir: Path, key: str = "model") -> str:
    """What `from_pretrained` is to load for a recipe's `model`.

    `shipped:NAME` is a folder of the package's data; a run folder means its newest checkpoint; a path is taken relative
    to `base_dir`; anything else is a hub id. Raises UserError, with the recipe's `key`, for a folder that is no model.
    """
    if reference.startswith("shipped:"):
        path = SHIPPED / reference.removeprefix("shipped:")
        if not path.is_dir():
            raise UserError(
                f"{key}: no shipped weights {reference!r}; the package holds "
                + ", ".join(f"shipped:{p.parent.relative_to(SHIPPED)}" for p in sorted(SHIPPED.rglob("config.json")))
            )
        return str(path)
    path = base_dir / Path(reference).expanduser()
    if not path.exists():
        if reference.startswith((".", "/", "~")) or reference.count("/") > 1:
            raise UserError(f"{key}: no folder {path}")
        return reference
    if (path / "checkpoints").is_dir():
        from cib_rl.trainers.checkpoint import find_checkpoint

        path = find_checkpoint(path)
    if not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
        raise UserError(f"{key}: {path} is no model folder (it has neither config.json nor adapter_config.json)")
    return str(path)


@contextmanager
def unsharded() -> Iterator[None]:
    """Models made in this block are whole on every process. Under ZeRO-3, which is switched on globally, transformers
    shards every model it makes; only the policy and its reference have what gathers the shards again."""
    from transformers.integrations import deepspeed

    before = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = before


def load_tokenizer(reference: str) -> PreTrainedTokenizerBase:
    """The tokenizer of `reference` (resolved). A missing pad token becomes the end-of-sequence token.

    Raises UserError when there is no tokenizer, or neither a pad nor an end-of-sequence token.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(reference)
    except (OSError, ValueError) as error:
        if Path(reference).is_dir():
            raise UserError(f"tokenizer: cannot load one from {reference!r}: {error}") from error
        raise UserError(
            f"model: there is no folder {reference!r}, and as a hub id it cannot be loaded: {error}"
        ) from error
    # A folder without tokenizer files gives an empty tokenizer instead of an error.
    if not tokenizer.encode("1 + 1 = 2", add_special_tokens=False):
        raise UserError(f"tokenizer: cannot load one from {reference!r}: it encodes text to no tokens")
    if tokenizer.eos_token_id is None:
        raise UserError(f"tokenizer of {reference!r} has no end-of-sequence token: completions could never end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy(reference: str, dtype: str = "float32") -> PreTrainedModel:
    """The causal language model of `reference` (resolved), in `dtype`; a LoRA folder is merged into its base.

    Raises UserError when it cannot be loaded.
    """
    kwargs: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    try:
        if (Path(reference) / "adapter_config.json").is_file():
            from peft import AutoPeftModelForCausalLM

            merged: PreTrainedModel = AutoPeftModelForCausalLM.from_pretrained(reference, **kwargs).merge_and_unload()
            return merged.requires_grad_(True)  # peft froze the base
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(reference, **kwargs)
    except (OSError, ValueError) as error:
        raise UserError(f"model: cannot load {reference!r}: {error}") from error
    return model


def with_adapter(model: PreTrainedModel, section: LoraSection, seed: int, task_type: str, **more: Any) -> Any:
    """`model` in a fresh PEFT adapter as the recipe's `section` describes it; `more` goes to PEFT's LoraConfig."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)  # the adapter's random start is part of the run
    return get_peft_model(
        model,
        LoraConfig(
            r=section.r,
            lora_alpha=section.alpha,
            lora_dropout=section.dropout,
            target_modules=section.target_modules,
            task_type=task_type,
            **more,
        ),
    )
