"""The one record that flows through the program: an episode, its tokens, and what each stage learned about them.

A `Trajectory` is a list of `Segment`s (nearly always one). A segment is append-only: what the policy sampled and what
the environment wrote are added at the end and never changed, so the log-probabilities of the engine, the loss mask and
the token ids stay aligned from sampling to loss. Nothing is ever re-encoded from text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class StopReason(StrEnum):
    """Why an episode (or one generation of it) ended; reported by the engine, never inferred from token ids."""

    EOS = "eos"  # the model sampled one of its end-of-sequence ids
    STOP_STRING = "stop_string"  # a stop string appeared in the decoded text
    LENGTH = "length"  # the per-turn or per-episode token limit was reached
    CONTEXT = "context"  # the model's context window is full
    PROMPT_TOO_LONG = "prompt_too_long"  # the prompt alone leaves no room for a completion
    MAX_TURNS = "max_turns"  # the environment's limit of turns was reached
    ERROR = "error"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"

    @property
    def truncated(self) -> bool:
        """True when the answer was cut off by a limit rather than ended by the model."""
        return self in (StopReason.LENGTH, StopReason.CONTEXT, StopReason.PROMPT_TOO_LONG, StopReason.MAX_TURNS)

    @property
    def failed(self) -> bool:
        """True when the episode broke: its rows leave the baseline and the loss."""
        return self in (StopReason.ERROR, StopReason.CANCELLED, StopReason.TIMEOUT)


@dataclass
class Segment:
    """One contiguous context: prompt tokens, then completion tokens, append-only.

    `completion_ids`, `logprobs` and `policy_mask` have the same length T at all times. `logprobs[t]` is the natural
    logarithm of the probability of the sampled token under the distribution it was sampled from (temperature
    included); NaN where the engine gave none, and for every token the environment wrote. `policy_mask[t]` is 1 where
    the policy sampled the token and 0 where the environment wrote it.
    """

    prompt_ids: list[int]
    completion_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    policy_mask: list[int] = field(default_factory=list)

    def append_policy(self, ids: Sequence[int], logprobs: Sequence[float]) -> None:
        """Append sampled tokens. Raises ValueError if the two sequences differ in length."""
        if len(ids) != len(logprobs):
            raise ValueError(f"{len(ids)} sampled tokens but {len(logprobs)} log-probabilities")
        self.completion_ids.extend(int(i) for i in ids)
        self.logprobs.extend(float(p) for p in logprobs)
        self.policy_mask.extend([1] * len(ids))

    def append_environment(self, ids: Sequence[int]) -> None:
        """Append tokens the environment wrote (documents, tool output): masked out of loss and rewards."""
        self.completion_ids.extend(int(i) for i in ids)
        self.logprobs.extend([float("nan")] * len(ids))
        self.policy_mask.extend([0] * len(ids))

    @property
    def context_ids(self) -> list[int]:
        """Prompt and completion so far: what the next generation is conditioned on."""
        return self.prompt_ids + self.completion_ids

    def __len__(self) -> int:
        return len(self.completion_ids)


@dataclass
class Turn:
    """One generation within an episode. `start:end` is its span of completion tokens within its segment.

    `searched` is True for a turn that asked for a search; `queries` are what was searched for, `documents` what came
    back for each of them, best first: id, title, score.
    """

    segment: int
    start: int
    end: int
    stop_reason: StopReason
    weights_version: int = 0
    latency: float = 0.0  # seconds
    searched: bool = False
    queries: list[str] = field(default_factory=list)
    documents: list[list[dict[str, Any]]] = field(default_factory=list)
    search_latency: float = 0.0  # seconds until all of them were there


@dataclass
class Trajectory:
    """One episode.

    Attributes:
        task: the whole task row (a mapping with at least `id` and `prompt`; `answer` holds the gold answer).
        group: identifies the prompt this episode shares its baseline with; equal for members of one group.
        member: index of the episode within its group.
        segments: the tokens (see `Segment`).
        turns: one entry per generation.
        stop_reason: why the episode ended; None while it runs.
        text: one decode of all completion ids (environment tokens included), special tokens kept.
        policy_text: one decode of the policy's completion ids only, special tokens kept.
        answer: the answer found in `policy_text`, or in the turn that ended a search; None when there is none.
        tracks: per-token values learned along the way, name -> list as long as all completion tokens together
            (surprisal, entropy, advantage, ratio, ...).
        rewards: reward name -> unweighted value (None: does not apply).
        success: whether the outcome rewards call it a success (`Scores.correct`); None before they have run, and
            where there are none. Not saved.
        diagnostics: named numbers that rewards attach; logged and saved.
        extras: what TRL-style rewards logged with `log_extra`, column -> value; saved as JSON.
        errors: what went wrong, in words. A trajectory with errors leaves baseline and loss.
    """

    task: Mapping[str, Any]
    group: int
    member: int = 0
    segments: list[Segment] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    stop_reason: StopReason | None = None
    text: str = ""
    policy_text: str = ""
    answer: str | None = None
    tracks: dict[str, list[float]] = field(default_factory=dict)
    rewards: dict[str, float | None] = field(default_factory=dict)
    success: bool | None = None
    diagnostics: dict[str, float] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def completion_ids(self) -> list[int]:
        """All completion tokens of all segments, in order. Shape (T,)."""
        return [i for segment in self.segments for i in segment.completion_ids]

    @property
    def logprobs(self) -> list[float]:
        """Engine log-probabilities aligned with `completion_ids`. Shape (T,)."""
        return [p for segment in self.segments for p in segment.logprobs]

    @property
    def policy_mask(self) -> list[int]:
        """1 where the policy sampled the token. Shape (T,)."""
        return [m for segment in self.segments for m in segment.policy_mask]

    @property
    def policy_ids(self) -> list[int]:
        """The ids of the tokens the policy sampled."""
        return [i for i, m in zip(self.completion_ids, self.policy_mask, strict=True) if m]

    @property
    def num_tokens(self) -> int:
        """Number of tokens the policy sampled: the cost this toolkit reports."""
        return sum(self.policy_mask)

    @property
    def truncated(self) -> bool:
        return self.stop_reason is not None and self.stop_reason.truncated

    @property
    def failed(self) -> bool:
        """True when this episode must leave baseline and loss."""
        return bool(self.errors) or (self.stop_reason is not None and self.stop_reason.failed)

    def set_track(self, name: str, values: Sequence[float]) -> None:
        """Attach a per-token track. Raises ValueError unless it is as long as the completion."""
        expected = sum(len(segment) for segment in self.segments)
        if len(values) != expected:
            raise ValueError(f"track {name!r} has {len(values)} values for {expected} completion tokens")
        self.tracks[name] = [float(v) for v in values]
