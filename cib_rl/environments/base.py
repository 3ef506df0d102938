"""The environment contract, and the view of the engine that one episode is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from cib_rl.engines.base import Engine, Generation, Sampling
from cib_rl.errors import UserError
from cib_rl.recipe import EnvironmentSection
from cib_rl.seeds import derive_seed
from cib_rl.trajectory import StopReason, Trajectory, Turn


class EpisodeEngine:
    """An engine as one episode sees it: sampling settings are the run's, every turn has a seed of its own, and all
    turns together sample no more than the episode's budget of tokens (`sampling.max_tokens`)."""

    def __init__(self, engine: Engine, sampling: Sampling, seed: int) -> None:
        self._engine = engine
        self._sampling = sampling
        self._seed = seed
        self._turn = 0
        self._left = sampling.max_tokens

    @property
    def tokens_left(self) -> int:
        """How many tokens this episode may still sample."""
        return self._left

    @property
    def max_model_len(self) -> int | None:
        """Tokens of context and completion that the engine takes; None where it names no limit."""
        return self._engine.max_model_len

    async def generate(
        self, prompt_ids: list[int], *, max_tokens: int | None = None, stop: Sequence[str] = ()
    ) -> Generation:
        """Generate the next turn after `prompt_ids` (the whole context so far), of at most `max_tokens` tokens or what
        is left of the episode's budget, whichever is less. With nothing left: no token, stop reason `length`."""
        seed = derive_seed(self._seed, self._turn)
        self._turn += 1
        if self._left == 0:
            return Generation(stop_reason=StopReason.LENGTH, weights_version=self._engine.weights_version)
        limit = self._left if max_tokens is None else min(max_tokens, self._left)
        least = min(self._sampling.min_tokens, limit)
        generation = await self._engine.generate(
            prompt_ids, replace(self._sampling, max_tokens=limit, min_tokens=least, stop=tuple(stop), seed=seed)
        )
        self._left -= len(generation.ids)
        return generation


class Environment(Protocol):
    """What a third party writes: a class made from (section, tokenizer) with this one method.

    `section.kwargs` holds the recipe's keys that are no fields of the section: check them in the constructor and raise
    UserError for unknown ones. `run` plays one episode and returns its trajectory with segments, turns and stop reason
    (`record_generation` writes all three); text, answer, group and member are filled in by the rollout: the answer from
    all that the policy wrote, unless an attribute `reads_answers` is true: then the environment sets it. An exception
    becomes an entry in the trajectory's errors, a UserError (a mistake in recipe or data) stops the run. Five methods
    may be there: `prompt(task)` gives the token ids that an episode begins with, and raises UserError for a task that
    cannot be asked; it is asked for before training. `check_rows(rows)` raises UserError for a row that cannot be
    played. `check()`, called once before training, raises UserError where episodes could not run (a server that does
    not answer, say), `close()` is called at the end, and `recovered()` after a window of which most episodes failed: it
    may wait, and says whether to play it again.
    """

    async def run(self, task: Mapping[str, Any], engine: EpisodeEngine) -> Trajectory: ...


def record_generation(trajectory: Trajectory, generation: Generation) -> None:
    """Append a generation to the trajectory's last segment and note it as a turn."""
    segment = trajectory.segments[-1]
    start = len(segment)
    segment.append_policy(generation.ids, generation.logprobs)
    trajectory.turns.append(
        Turn(
            segment=len(trajectory.segments) - 1,
            start=start,
            end=len(segment),
            stop_reason=generation.stop_reason,
            weights_version=generation.weights_version,
            latency=generation.latency,
        )
    )
    trajectory.stop_reason = generation.stop_reason
    if generation.error is not None:
        trajectory.errors.append(f"engine: {generation.error}")
    elif generation.stop_reason in (StopReason.TIMEOUT, StopReason.CANCELLED):
        trajectory.errors.append(f"engine: {generation.stop_reason.value}")


def encode_prompt(
    prompt: str | list[dict[str, Any]],
    section: EnvironmentSection,
    tokenizer: PreTrainedTokenizerBase,
    tools: list[Any] | None = None,
) -> list[int]:
    """Token ids of a prompt, through the chat template where there is one (`environment.chat_template`).

    `tools`: descriptions of tools as JSON schemas, for the template.

    Raises UserError when messages or a system message are given but the tokenizer has no template.
    """
    has_template = bool(getattr(tokenizer, "chat_template", None))
    use_template = section.chat_template == "always" or (section.chat_template == "auto" and has_template)
    if use_template and not has_template:
        raise UserError("environment.chat_template is `always`, but the tokenizer has no chat template")
    if not use_template:
        if not isinstance(prompt, str):
            raise UserError(
                "a prompt is a list of messages, but the tokenizer has no chat template (or it is switched off)"
            )
        if section.system:
            raise UserError(
                "environment.system needs a chat template, and the tokenizer has none (or it is switched off)"
            )
        return list(tokenizer.encode(prompt + section.suffix))
    if isinstance(prompt, str):
        messages = [{"role": "user", "content": prompt + section.suffix}]
    else:
        messages = with_suffix(prompt, section.suffix)
    if section.system:
        messages = [{"role": "system", "content": section.system}, *messages]
    text = tokenizer.apply_chat_template(
        messages, tools=tools, tokenize=False, add_generation_prompt=True, **section.chat_template_kwargs
    )
    return list(tokenizer.encode(text, add_special_tokens=False))


def with_suffix(messages: list[dict[str, Any]], suffix: str) -> list[dict[str, Any]]:
    """The messages with `suffix` added to the last user message. Raises UserError where there is none to add it to."""
    if not suffix:
        return list(messages)
    last = max((i for i, m in enumerate(messages) if m.get("role") == "user"), default=None)
    if last is None or not isinstance(messages[last].get("content"), str):
        raise UserError("environment.suffix: a prompt's messages have no user message with a text to add it to")
    return [{**m, "content": m["content"] + suffix} if i == last else m for i, m in enumerate(messages)]
