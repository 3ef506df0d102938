"""The engine a recipe asks for."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cib_rl.engines.base import Engine
from cib_rl.recipe import Recipe


def make_engine(
    recipe: Recipe, reference: str, model: PreTrainedModel | torch.nn.Module, tokenizer: PreTrainedTokenizerBase
) -> Engine:
    """Build `recipe.engine`.

    Args:
        reference: folder or hub id the policy was loaded from; vLLM starts from it and gets the policy's present
            weights at the first sync.
        model: the policy; the transformers engine samples from this very object.
    """
    section = recipe.engine
    if section.name == "transformers":
        from cib_rl.engines.transformers import TransformersEngine

        return TransformersEngine(
            model,
            tokenizer,
            max_num_seqs=section.max_num_seqs,
            max_model_len=section.max_model_len,
            deterministic=recipe.deterministic,
            threads=section.threads,
            autocast=torch.bfloat16 if recipe.trainer.autocast_bf16 else None,
        )
    from cib_rl.engines.vllm import VLLMEngine

    dtype = section.dtype or str(next(model.parameters()).dtype).removeprefix("torch.")
    return VLLMEngine(
        reference,
        tokenizer,
        section.model_copy(update={"dtype": dtype}),
        deterministic=recipe.deterministic,
        seed=recipe.seed,
    )
