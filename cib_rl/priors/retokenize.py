"""From the policy's tokens to what a prior reads, and from the prior's costs back to the policy's tokens.

With the same vocabulary ids are passed on. With another one the completion's text is encoded anew, and what each of the
prior's tokens costs is shared out over the policy tokens whose characters it covers, in proportion to the characters.
Special tokens never go through text unless the recipe says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

import numpy as np

from cib_rl.errors import UserError
from cib_rl.priors.base import FloatArray, PriorRequest
from cib_rl.spans import Span, decode, token_spans

Unknown = Literal["encode", "uniform", "skip"]
Environment = Literal["context", "hidden"]


@dataclass
class Translation:
    """One completion as the prior reads it.

    Attributes:
        ids: the prior's ids. Shape (N,).
        source, target, share: share k says that policy token target[k] bears share[k] of the cost of ids[source[k]]
            (`target` counts policy tokens only). The shares of one prior token sum to 1, or there are none (context).
        flat: nats of each policy token that need no model. Shape (num_tokens,).
    """

    ids: list[int]
    flat: FloatArray
    source: list[int] = field(default_factory=list)
    target: list[int] = field(default_factory=list)
    share: list[float] = field(default_factory=list)

    def bear(self, source: int, target: int, share: float = 1.0) -> None:
        """Let a policy token bear a share of a prior token's cost."""
        self.source.append(source)
        self.target.append(target)
        self.share.append(share)

    def costs(self, surprisal_N: FloatArray) -> FloatArray:
        """Nats per policy token from nats per prior token; the sum over all borne tokens is kept."""
        borne = np.asarray(surprisal_N)[self.source] * self.share if self.source else np.zeros(0)
        return self.flat + np.bincount(np.asarray(self.target, dtype=int), weights=borne, minlength=len(self.flat))


class Translator:
    """Translates completions of one policy's tokenizer for one prior.

    Ordinary tokens are those that are neither special nor added. When all of them have the same ids in both
    vocabularies, ids are reused (`same_ids`); the special ones may still differ (R1-Distill re-assigns some of Qwen's).

    Args:
        policy, prior: the two tokenizers.
        prior_size: number of ids the prior's model has embeddings for.
        unknown: special or added tokens of the policy that the prior does not know by the same name: `encode` (the
            prior reads and prices their text), `uniform` (log|V|, unseen by the prior) or `skip` (0, unseen). The
            policy's end-of-sequence token always counts as the prior's. Ids without any text cost log|V|.
        environment: tokens of the environment are `context` for the prior or `hidden` from it.

    Raises UserError when text must be encoded and the prior's tokenizer gives no offsets.
    """

    def __init__(
        self,
        policy: Any,
        prior: Any,
        prior_size: int,
        *,
        unknown: Unknown = "encode",
        environment: Environment = "context",
    ) -> None:
        self.policy, self.prior, self.prior_size = policy, prior, prior_size
        self.unknown, self.environment = unknown, environment
        self.nats = float(np.log(len(policy)))
        vocabulary, self._prior_vocabulary = policy.get_vocab(), prior.get_vocab()
        self._special = set(policy.get_added_vocab().values()) | set(policy.all_special_ids)
        ordinary = {token: i for token, i in vocabulary.items() if i not in self._special}
        self.same_ids = bool(ordinary) and all(self._prior_vocabulary.get(t) == i for t, i in ordinary.items())
        self._ordinary = set(ordinary.values())
        self._memo: dict[int, list[int] | float] = {}
        if not self.same_ids and not getattr(prior, "is_fast", False):
            raise UserError(
                f"prior: {type(prior).__name__} gives no character offsets, which another tokenizer than the policy's "
                "needs; use a prior with a fast tokenizer"
            )

    def __call__(self, requests: Sequence[PriorRequest]) -> list[Translation]:
        return [self._by_ids(r) if self.same_ids else self._by_text(r) for r in requests]

    def lookup(self, i: int) -> list[int] | float:
        """What one policy token alone becomes: the prior's ids for it, or the nats it costs without being read."""
        if i not in self._memo:
            self._memo[i] = self._find(i)
        return self._memo[i]

    def _find(self, i: int) -> list[int] | float:
        token = self.policy.convert_ids_to_tokens(i)
        known = self._prior_vocabulary.get(token) if token is not None else None
        if known is not None and known < self.prior_size:
            return [known]
        if i == self.policy.eos_token_id and self.prior.eos_token_id is not None:
            return [self.prior.eos_token_id]
        if self.unknown == "skip":
            return 0.0
        text = decode(self.policy, [i]) if self.unknown == "encode" and token is not None else ""
        return list(self.prior.encode(text, add_special_tokens=False)) or self.nats

    def _by_ids(self, request: PriorRequest) -> Translation:
        out, t = Translation([], np.zeros(request.num_tokens)), 0
        for i, sampled in zip(request.ids, request.policy_mask, strict=True):
            if sampled or self.environment == "context":
                self._add_alone(out, i, t if sampled else None)
            t += sampled
        return out

    def _add_alone(self, out: Translation, i: int, target: int | None) -> None:
        found = self.lookup(i)
        if isinstance(found, float):
            if target is not None:
                out.flat[target] += found
            return
        for prior_id in found:
            if target is not None:
                out.bear(len(out.ids), target)
            out.ids.append(prior_id)

    def _by_text(self, request: PriorRequest) -> Translation:
        ids, out = list(request.ids), Translation([], np.zeros(request.num_tokens))
        text = decode(self.policy, ids)
        spans = token_spans(self.policy, ids, text)
        number = np.cumsum(request.policy_mask) - 1  # completion token -> policy token
        end = 0  # a character split between two runs belongs to the first
        # Runs of ordinary tokens of one author are encoded together; every other token is looked up alone.
        keys = [(m, i in self._ordinary) for m, i in zip(request.policy_mask, ids, strict=True)]
        for (sampled, ordinary), group in groupby(range(len(ids)), key=lambda k: keys[k]):
            run = list(group)
            start, end = max(end, spans[run[0]][0]), max(end, spans[run[-1]][1])
            if not sampled and self.environment == "hidden":
                continue
            if not ordinary:
                for k in run:
                    self._add_alone(out, ids[k], int(number[k]) if sampled else None)
            else:
                self._add_run(
                    out, text[start:end], start, [spans[k] for k in run], int(number[run[0]]) if sampled else None
                )
        return out

    def _add_run(self, out: Translation, text: str, start: int, spans: list[Span], target: int | None) -> None:
        """Encode the text of a run of policy tokens, the first of which is policy token `target` (None: context)."""
        encoded = self.prior(text, add_special_tokens=False, return_offsets_mapping=True)
        if target is not None and len(encoded["input_ids"]):
            offsets = np.asarray(encoded["offset_mapping"], dtype=int) + start
            for k, shares in enumerate(share_out(offsets, np.asarray(spans, dtype=int))):
                for position, share in shares:
                    out.bear(len(out.ids) + k, target + position, share)
        out.ids.extend(encoded["input_ids"])


def share_out(pieces: np.ndarray, owners: np.ndarray) -> list[list[tuple[int, float]]]:
    """For each piece the owners whose characters it covers and their shares of it, in proportion; shares sum to 1.

    A piece that covers no owner's characters (an empty one, or inserted text) goes whole to the last owner that starts
    at or before it.

    Args:
        pieces: spans (N, 2), in any order. owners: spans (M, 2) with rising starts and rising ends, M >= 1.
    """
    starts, ends = owners[:, 0], owners[:, 1]
    first = np.searchsorted(ends, pieces[:, 0], side="right")
    last = np.searchsorted(starts, pieces[:, 1], side="left")
    nearest = np.maximum(np.searchsorted(starts, pieces[:, 0], side="right") - 1, 0)
    result = []
    for (a, b), lo, hi, near in zip(pieces.tolist(), first.tolist(), last.tolist(), nearest.tolist(), strict=True):
        overlaps = [(k, min(b, int(ends[k])) - max(a, int(starts[k]))) for k in range(lo, hi)]
        overlaps = [(k, overlap) for k, overlap in overlaps if overlap > 0]
        total = sum(overlap for _, overlap in overlaps)
        result.append([(k, overlap / total) for k, overlap in overlaps] if total else [(near, 1.0)])
    return result
