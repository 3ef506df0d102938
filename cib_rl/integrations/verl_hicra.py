"""HICRA in verl: an advantage estimator on top of one of verl's own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from cib_rl.credit.hicra import check_alpha, hicra
from cib_rl.errors import UserError
from cib_rl.grams import GramMatcher, load_grams
from cib_rl.integrations.trl_hicra import planning_tokens
from cib_rl.integrations.verl_scoring import import_verl
from cib_rl.models import load_tokenizer, resolve_model


def register_verl_hicra(
    grams: str | Path | Sequence[str], *, tokenizer: Any, base: str = "grpo", alpha: float = 0.2, name: str = "hicra"
) -> None:
    """Make `algorithm.adv_estimator=hicra` known to verl: the advantages of `base`, with A + α·|A| on planning tokens.

    verl hands an estimator rewards and masks but no token ids, and grams are found in text. So beside registering the
    name this replaces `verl.trainer.ppo.ray_trainer.compute_advantage` by one that does what it did, and for this name
    calls it with `base` and changes `data.batch["advantages"]` where `data.batch["responses"]` hold a gram. Call it in
    a module that verl imports in every process before its trainer: `VERL_USE_EXTERNAL_MODULES=MODULE`.

    Args:
        grams: a file (JSON or one phrase per line), or the phrases (see `cib_rl.grams.load_grams`).
        tokenizer: the policy's, or the model to take it from (hub id or folder).
        base: verl's estimator whose advantages are changed: grpo, rloo, reinforce_plus_plus, gae, ...
        alpha: see `cib_rl.credit.hicra.Hicra`.
        name: what the estimator is called.

    Raises:
        UserError: verl cannot be imported, `base` is none of its estimators, grams cannot be read, or α is not within 0
            to 1. While training: verl's trainer gives no `responses` (its v1 trainer does not).
    """
    algorithms = import_verl("verl.trainer.ppo.core_algos", "register_verl_hicra")
    trainer: Any = import_verl("verl.trainer.ppo.ray_trainer", "register_verl_hicra")
    try:
        algorithms.get_adv_estimator_fn(base)
    except ValueError as error:
        raise UserError(f"register_verl_hicra: base={base!r}: {error}") from error
    if isinstance(tokenizer, str | Path):
        tokenizer = load_tokenizer(resolve_model(str(tokenizer), Path.cwd()))
    matcher, alpha = GramMatcher(load_grams(grams)), check_alpha(alpha)

    @algorithms.register_adv_est(name)
    def without_ids(token_level_rewards: Any, response_mask: Any, *args: Any, **kwargs: Any) -> Any:
        """Called by a trainer that took verl's `compute_advantage` before it was replaced."""
        raise UserError(
            f"{name}: this trainer's estimators get no token ids: call register_verl_hicra in a module that "
            "VERL_USE_EXTERNAL_MODULES names, so that it runs before verl's trainer is imported"
        )

    plain = trainer.compute_advantage

    @wraps(plain)
    def compute_advantage(data: Any, adv_estimator: Any, *args: Any, **kwargs: Any) -> Any:
        if adv_estimator != name:
            return plain(data, adv_estimator, *args, **kwargs)
        if "responses" not in data.batch.keys():  # noqa: SIM118 (a TensorDict does not take `in`)
            raise UserError(
                f"{name}: verl's trainer gives no `responses` to its advantages: use the one in ray_trainer"
            )
        data = plain(data, base, *args, **kwargs)
        planning_BR = planning_tokens(data.batch["responses"], data.batch["response_mask"], tokenizer, matcher)
        data.batch["advantages"] = hicra(data.batch["advantages"], planning_BR, alpha)
        return data

    trainer.compute_advantage = compute_advantage
