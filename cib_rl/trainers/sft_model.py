"""Model, tokenizer and optimizers of supervised training, by its settings."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, Qwen3Config

from cib_rl.errors import UserError
from cib_rl.models import load_policy, load_tokenizer, resolve_model
from cib_rl.trainers.sft_data import train_bpe
from cib_rl.trainers.sft_generators import GENERATORS
from cib_rl.trainers.sft_rows import Data
from cib_rl.trainers.sft_settings import ModelShape, SFTModel


def new_config(shape: ModelShape, tokenizer: PreTrainedTokenizerBase) -> Qwen3Config:
    """A Qwen3 with tied embeddings for this tokenizer."""
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=shape.hidden_size // shape.heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=shape.max_positions,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def new_model(shape: ModelShape, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A freshly initialised model of `new_config`."""
    model: PreTrainedModel = AutoModelForCausalLM.from_config(new_config(shape, tokenizer), dtype=torch.float32)
    return model


def model_reference(settings: SFTModel) -> str | None:
    """What the model is loaded from, as in recipes of reinforcement learning; None: a new one. Raises UserError."""
    return resolve_model(settings.model, Path.cwd()) if settings.model else None


def tokenizer_reference(settings: SFTModel) -> str | None:
    """What the tokenizer is loaded from; None: a new one, for the data. Raises UserError."""
    source = settings.tokenizer or settings.model
    # A folder may hold a tokenizer alone; a run folder holds its tokenizer in a checkpoint.
    if source is None or any((Path(source) / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return source
    return resolve_model(source, Path.cwd(), "tokenizer" if settings.tokenizer else "model")


def make_tokenizer(settings: SFTModel, data: Data | None) -> PreTrainedTokenizerBase:
    """The tokenizer that is named, else the model's, else the generator's, or a BPE of the file's rows; with the chat
    template of the settings where they have one. Raises UserError."""
    reference = tokenizer_reference(settings)
    if reference is not None:
        tokenizer = load_tokenizer(reference)
    elif data is not None:
        tokenizer = train_bpe(data.rows, settings.vocab_size, settings.chat_template)
    else:
        tokenizer = GENERATORS[settings.data].tokenizer(settings)
    if settings.chat_template:
        tokenizer.chat_template = settings.chat_template
    return tokenizer


def check_fit(settings: SFTModel, vocabulary: int, positions: int, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises UserError where a model that goes on has no embedding for a token, or no place for the longest row."""
    if len(tokenizer) > vocabulary:
        raise UserError(f"sft: the tokenizer has {len(tokenizer):,} tokens, the model embeddings for {vocabulary:,}")
    if positions and settings.max_length > positions:
        raise UserError(f"sft: max_length {settings.max_length:,} exceeds the {positions:,} positions of the model")


def make_model(settings: SFTModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The model to go on from, or a new one; its weights in float32. Raises UserError."""
    reference = model_reference(settings)
    if reference is None:
        return new_model(settings.shape, tokenizer)
    model = load_policy(reference)
    text = model.config.get_text_config()
    check_fit(settings, text.vocab_size, getattr(text, "max_position_embeddings", 0) or 0, tokenizer)
    return model


def make_optimizers(model: PreTrainedModel, settings: SFTModel) -> list[torch.optim.Optimizer]:
    """AdamW for all, or Muon for the layers' matrices and AdamW for embeddings and norms."""
    matrices: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, weight in model.named_parameters():
        is_matrix = settings.optimizer == "muon" and weight.ndim == 2 and ".layers." in name
        (matrices if is_matrix else rest).append(weight)
    decay = settings.weight_decay
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=decay)
    ]
    if matrices:
        found.append(torch.optim.Muon(matrices, lr=settings.muon_learning_rate, weight_decay=decay))
    return found


def rate(step: int, settings: SFTModel) -> float:
    """Share of the full learning rate at `step` (from 0): linear warm-up, flat, linear fall to 0."""
    falling = (settings.steps - step) / (settings.decay_share * settings.steps)
    return min(1.0, (step + 1) / max(1, settings.warmup_steps), falling)
