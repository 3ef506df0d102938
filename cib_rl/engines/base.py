"""The contract of an inference engine, and what every engine shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from cib_rl.trajectory import StopReason


@dataclass(frozen=True)
class Sampling:
    """How one generation is sampled.

    `max_tokens` is the limit of new tokens; `seed` belongs to this request alone and fixes its tokens whatever else
    is in the batch; `temperature` 0 is greedy. `timeout` is in seconds.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    timeout: float | None = None

    @property
    def truncates_support(self) -> bool:
        """True when tokens are drawn from a distribution other than softmax(logits / temperature)."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0 or self.repetition_penalty != 1 or self.min_tokens > 0


@dataclass
class Generation:
    """What an engine returns for one request; an error, a cancel or a time-out is a result, never an exception.

    `ids` and `logprobs` have equal length. `logprobs` are natural logarithms under the sampled distribution
    (temperature included; NaN where missing). An end-of-sequence id, if sampled, is the last of `ids`.
    """

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stop_reason: StopReason = StopReason.EOS
    stop_detail: str | int | None = None  # the stop string or the end-of-sequence id that ended it
    error: str | None = None
    weights_version: int = 0
    latency: float = 0.0  # seconds


class Engine(ABC):
    """Generates tokens for many requests at once. Requests join and leave the running batch.

    `weights_version` is the version given to the last `sync_weights` (0 before the first). `max_model_len`: prompt and
    completion tokens of a request, at most; None: no limit is known.
    """

    weights_version: int = 0
    max_model_len: int | None = None

    @abstractmethod
    async def generate(self, prompt_ids: list[int], sampling: Sampling) -> Generation:
        """Generate one completion. Cancelling the awaiting task frees the request's slot."""

    @abstractmethod
    def sync_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace the engine's weights by `named_tensors` (transformers names, tied head included), without the disk.

        Every name the engine's model has must be present and no other, or ValueError; no request may be running
        (RuntimeError). Empties every cache of prefixes.
        """

    def set_active_episodes(self, count: int) -> None:
        """Tell a deterministic engine how many episodes are still running, so that it can wait for all of them."""
        return None

    def sleep(self) -> None:
        """Free what memory can be freed between rollout and update (a no-op where there is nothing to free)."""
        return None

    def wake(self) -> None:
        """Undo `sleep`."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Stop the engine; pending requests end as cancelled."""
