"""One prompt, one completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from cib_rl.environments.base import EpisodeEngine, encode_prompt, record_generation
from cib_rl.recipe import EnvironmentSection
from cib_rl.trajectory import Segment, Trajectory


class SingleTurn:
    """Samples one completion of at most `max_completion_length` tokens (and `max_turn_length`, if that is less)."""

    def __init__(self, section: EnvironmentSection, tokenizer: PreTrainedTokenizerBase) -> None:
        self.section = section
        self.tokenizer = tokenizer
        self.max_tokens = min(section.max_completion_length, section.max_turn_length or section.max_completion_length)

    def prompt(self, task: Mapping[str, Any]) -> list[int]:
        """Token ids of the prompt."""
        return encode_prompt(task["prompt"], self.section, self.tokenizer)

    async def run(self, task: Mapping[str, Any], engine: EpisodeEngine) -> Trajectory:
        trajectory = Trajectory(task=task, group=0)
        trajectory.segments.append(Segment(self.prompt(task)))
        generation = await engine.generate(
            trajectory.segments[0].prompt_ids, max_tokens=self.max_tokens, stop=self.section.stop
        )
        record_generation(trajectory, generation)
        return trajectory
