"""A frozen causal language model as the prior: the paper's blind prior Q_φ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from cib_rl.errors import UserError
from cib_rl.logprobs import check_split, score_sequences
from cib_rl.models import load_policy, load_tokenizer, resolve_model
from cib_rl.plugin import RewardContext
from cib_rl.priors.base import FloatArray, Prior, PriorRequest
from cib_rl.priors.retokenize import Environment, Translation, Translator, Unknown


class LanguageModelPrior(Prior):
    """−log Q(z_t | z_<t) under a frozen language model that never sees the prompt (arXiv 2603.08462, eq. 12).

    The paper gives neither how the first token is scored nor how special tokens are: the keys below are our choices.

    Args:
        model: hub id, folder, run, checkpoint or `shipped:NAME` (or a model in memory).
        tokenizer: default: the model's. If it is not the policy's, the text is encoded anew and the costs are carried
            back to the policy's tokens.
        dtype: `auto` is bfloat16 on GPUs and float32 on CPUs.
        token_budget: padded tokens per forward pass.
        first_token: what the first token is scored after. `bos`, `eos`: after that token of the prior; `uniform`: it
            costs log|V| of the policy's tokenizer; `skip`: it costs nothing. `auto`: after the tokenizer's bos, else
            the bos in the model's configuration, else eos (families without bos separate documents by it).
        unknown: special tokens of the policy that the prior does not know: `encode` (it reads and prices their text),
            `uniform` (log|V|, not read) or `skip` (0, not read).
        environment: tokens the environment wrote are `context` for the prior or `hidden` from it; never scored.

    Raises UserError when model or tokenizer cannot be loaded, lack what `first_token` asks for, or when completions can
    be longer than the prior's context.
    """

    def __init__(
        self,
        *,
        model: str | torch.nn.Module,
        tokenizer: str | Any = None,
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        token_budget: int = 16_384,
        first_token: Literal["auto", "bos", "eos", "uniform", "skip"] = "auto",
        unknown: Unknown = "encode",
        environment: Environment = "context",
        context: RewardContext,
    ) -> None:
        device = context.device or torch.device("cpu")
        self.model, self.tokenizer = _load(model, tokenizer, dtype, device, Path(context.base_dir))
        self.token_budget = token_budget
        check_split(self.model)
        self.translator = Translator(
            context.tokenizer,
            self.tokenizer,
            self.model.get_input_embeddings().weight.shape[0],
            unknown=unknown,
            environment=environment,
        )
        config = self.model.config.get_text_config()
        self.window: int | None = getattr(config, "max_position_embeddings", None)
        self.start_ids = _start_ids(first_token, self.tokenizer, config)
        self.unread_first_nats = self.translator.nats if first_token == "uniform" else 0.0
        if self.window is not None and self.translator.same_ids and context.max_completion_length >= self.window:
            raise UserError(
                f"prior: completions may have {context.max_completion_length} tokens, but the prior reads at most "
                f"{self.window}; lower environment.max_completion_length or take another prior"
            )

    def surprisal(self, requests: Sequence[PriorRequest]) -> list[FloatArray]:
        translations = self.translator(requests)
        sequences = [self.start_ids + translation.ids for translation in translations]
        for sequence in sequences:
            if self.window is not None and len(sequence) > self.window:
                raise ValueError(
                    f"a completion has {len(sequence)} of the prior's tokens; it reads at most {self.window}"
                )
        scores = score_sequences(self.model, sequences, token_budget=self.token_budget)
        return [t.costs(self._per_prior_token(t, logp)) for t, logp in zip(translations, scores, strict=True)]

    def _per_prior_token(self, translation: Translation, logp: FloatArray) -> FloatArray:
        """Nats for each of the prior's tokens: log-probabilities start at the second id it reads."""
        nats = np.maximum(-logp, 0.0)  # rounding can put a probability just above 1
        if self.start_ids or not translation.ids:
            return nats
        return np.concatenate([[self.unread_first_nats], nats])


def _load(
    model: str | torch.nn.Module, tokenizer: Any, dtype: str, device: torch.device, base_dir: Path
) -> tuple[Any, Any]:
    """The frozen model on its device, in evaluation mode, and its tokenizer."""
    if isinstance(model, str):
        try:
            reference = resolve_model(model, base_dir)
            tokenizer = load_tokenizer(reference) if tokenizer is None else tokenizer
            if dtype == "auto":
                dtype = "bfloat16" if device.type == "cuda" else "float32"
            model = load_policy(reference, dtype)
        except UserError as error:
            raise UserError(f"prior: {error}") from error
    if isinstance(tokenizer, str):
        tokenizer = load_tokenizer(resolve_model(tokenizer, base_dir))
    if tokenizer is None:
        raise UserError("prior: a model in memory needs its tokenizer too")
    return model.to(device).eval().requires_grad_(False), tokenizer


def _start_ids(rule: str, tokenizer: Any, config: Any) -> list[int]:
    """What the prior reads before the completion: one id or none."""
    if rule in ("uniform", "skip"):
        return []
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else getattr(config, "bos_token_id", None)
    found = {"auto": bos if bos is not None else tokenizer.eos_token_id, "bos": bos, "eos": tokenizer.eos_token_id}[
        rule
    ]
    if found is None:
        raise UserError(f"prior: its tokenizer has no token for first_token: {rule}; use uniform or skip")
    return [int(found)]
