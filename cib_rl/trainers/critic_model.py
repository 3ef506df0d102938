"""Loading the critic's model, and its weights' way into a checkpoint and back."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer
from transformers.utils import logging
from trl.trainer.utils import disable_dropout_in_model

from cib_rl.errors import UserError
from cib_rl.models import resolve_model, with_adapter
from cib_rl.recipe import Recipe

ADAPTER = "adapter"


def load_critic(recipe: Recipe, policy: str, base_dir: Path, tokenizer: Any) -> Any:
    """A token classifier with one label on the backbone that `critic.model` names (default: `policy`, resolved).

    A folder without a value head gets one of zeros: all values are 0 at first, whatever the token (ours; a random head
    would give noise for advantages). There is no dropout. Raises UserError when it cannot be loaded, its architecture
    has no token classifier, or it reads another vocabulary than the policy's.
    """
    section = recipe.critic
    assert section is not None
    reference = resolve_model(section.model, base_dir, "critic.model") if section.model else policy
    check_vocabulary(reference, tokenizer)
    dtype = getattr(torch, section.dtype or recipe.trainer.dtype)
    try:
        config = AutoConfig.from_pretrained(reference, num_labels=1)
        config.classifier_dropout = 0.0
        with _without_load_report():
            model, found = AutoModelForTokenClassification.from_pretrained(
                reference, config=config, dtype=dtype, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"critic.model: cannot load {reference!r} as a token classifier: {error}") from error
    head = [name for name in found["missing_keys"] if name.startswith(("score", "classifier"))]
    if rest := sorted(set(found["missing_keys"]) - set(head)):
        raise UserError(f"critic.model: {reference!r} lacks weights of the backbone: {', '.join(rest[:3])} …")
    disable_dropout_in_model(model)
    with torch.no_grad():
        for name in head:
            model.get_parameter(name).zero_()
    if section.lora is None:
        return model
    with warnings.catch_warnings():
        # PEFT takes the head out of `all-linear` first, and then misses it.
        warnings.filterwarnings("ignore", message="You have passed exclude_modules")
        # The head is trained as a whole and saved with the adapter.
        return with_adapter(model, section.lora, recipe.seed, "TOKEN_CLS", exclude_modules=["score", "classifier"])


@contextmanager
def _without_load_report() -> Iterator[None]:
    """transformers warns of a head that is not in the folder: here that is the rule."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def check_vocabulary(reference: str, tokenizer: Any) -> None:
    """The critic reads the policy's token ids. Raises UserError when they would mean other tokens to it."""
    try:
        size = AutoConfig.from_pretrained(reference).get_text_config().vocab_size
    except (OSError, ValueError) as error:
        raise UserError(f"critic.model: cannot read {reference!r}: {error}") from error
    mend = "it reads the policy's token ids; take a model of the same family"
    if size < len(tokenizer):
        raise UserError(
            f"critic.model: {reference!r} has {size:,} embeddings for the policy's {len(tokenizer):,} tokens: {mend}"
        )
    try:
        found = AutoTokenizer.from_pretrained(reference)
    except (OSError, ValueError):  # a critic without a tokenizer of its own
        return
    if not found.encode("1 + 1 = 2", add_special_tokens=False):  # nor here: transformers makes an empty one
        return
    own = found.get_vocab()
    for token, number in tokenizer.get_vocab().items():
        if own.get(token) != number:
            raise UserError(
                f"critic.model: {reference!r} has another vocabulary than the policy: {token!r} is token {number} of "
                f"the policy's and {'unknown' if token not in own else f'token {own[token]}'} there; {mend}"
            )


def save_weights(model: Any, folder: Path) -> None:
    """As transformers saves a model, or PEFT an adapter.

    An adapter goes a folder deeper: transformers takes any folder in a checkpoint that holds one for the policy's.
    """
    model.save_pretrained(folder / ADAPTER if hasattr(model, "peft_config") else folder)


def load_weights(model: Any, folder: Path) -> None:
    """The weights that `save_weights` wrote, into a model of the same kind."""
    if hasattr(model, "peft_config"):
        from peft import load_peft_weights, set_peft_model_state_dict

        set_peft_model_state_dict(model, load_peft_weights(str(folder / ADAPTER)))
        return
    saved = type(model).from_pretrained(folder, dtype=model.dtype)
    model.load_state_dict(saved.state_dict())
