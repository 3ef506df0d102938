"""The environment contract, and the view of the engine that one episode is given."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from cib_rl.engines.base import Engine, Generation, Sampling
from cib_rl.errors import UserError
from cib_rl.recipe import EnvironmentSection
from cib_rl.seeds import derive_seed
from cib_rl.trajectory import Segment, StopReason, Trajectory, Turn


class EpisodeEngine:
    """An engine as one episode sees it: sampling settings are the run's, and every turn has a seed of its own."""

    def __init__(self, engine: Engine, sampling: Sampling, seed: int) -> None:
        self._engine = engine
        self._sampling = sampling
        self._seed = seed
        self._turn = 0

    async def generate(self, prompt_ids: list[int], *, max_tokens: int, stop: Sequence[str] = ()) -> Generation:
        """Generate the next turn after `prompt_ids` (the whole context so far)."""
        seed = derive_seed(self._seed, self._turn)
        self._turn += 1
        return await self._engine.generate(
            prompt_ids, replace(self._sampling, max_tokens=max_tokens, stop=tuple(stop), seed=seed)
        )


class Environment(Protocol):
    """What a third party writes: a class made from (section, tokenizer) with this one method.

    `run` plays one episode and returns its trajectory with segments, turns and stop reason; text, answer, group and
    member are filled in by the rollout. An exception becomes an entry in the trajectory's errors.
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
    prompt: str | list[dict[str, Any]], section: EnvironmentSection, tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    """Token ids of a prompt, through the chat template where there is one (`environment.chat_template`).

    Raises UserError when messages or a system message are given but the tokenizer has no template.
    """
    has_template = bool(getattr(tokenizer, "chat_template", None))
    use_template = section.chat_template == "always" or (section.chat_template == "auto" and has_template)
    if use_template and not has_template:
        raise UserError("environment.chat_template is `always`, but the tokenizer has no chat template")
    if not use_template:
        if not isinstance(prompt, str):
            raise UserError("a prompt is a list of messages, but the tokenizer has no chat template (or it is switched off)")
        if section.system:
            raise UserError("environment.system needs a chat template, and the tokenizer has none (or it is switched off)")
        return list(tokenizer.encode(prompt + section.suffix))
    messages = [{"role": "user", "content": prompt + section.suffix}] if isinstance(prompt, str) else list(prompt)
    if section.system:
        messages = [{"role": "system", "content": section.system}, *messages]
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, **section.chat_template_kwargs
    )
    return list(tokenizer.encode(text, add_special_tokens=False))


def make_environment(section: EnvironmentSection, tokenizer: PreTrainedTokenizerBase) -> Environment:
    """The environment named in the recipe: a shipped one, or `package.module:Class`."""
    from cib_rl.environments.single_turn import SingleTurn

    if section.name == "single_turn":
        return SingleTurn(section, tokenizer)
    module, _, name = section.name.partition(":")
    if not name:
        raise UserError(f"environment.name: unknown {section.name!r}; known: single_turn, or package.module:Class")
    try:
        environment: Environment = getattr(importlib.import_module(module), name)(section, tokenizer)
    except (ImportError, AttributeError) as error:
        raise UserError(f"environment.name: cannot load {section.name!r}: {error}") from error
    return environment


__all__ = ["Environment", "EpisodeEngine", "Segment", "encode_prompt", "make_environment", "record_generation"]
