"""Runs episodes over an engine, many at once, and finishes their trajectories."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from cib_rl.engines.base import Engine, Sampling
from cib_rl.environments.base import Environment, EpisodeEngine
from cib_rl.errors import UserError
from cib_rl.event_loop import run_anywhere
from cib_rl.grading.answers import extract_answer
from cib_rl.spans import decode
from cib_rl.trajectory import StopReason, Trajectory


@dataclass(frozen=True)
class Episode:
    """What is to be played: a task row, its place in a group, and the seed that all its turns derive theirs from."""

    task: Mapping[str, Any]
    group: int
    member: int
    seed: int


class Rollouts:
    """Plays episodes. Used alike by training and evaluation.

    Args:
        environment: plays one episode.
        engine: generates tokens for all of them.
        tokenizer: the policy's; decodes the finished tokens once.
        answer_style: where the answer stands in the policy's text (see `grading.answers.extract_answer`).
    """

    def __init__(
        self, environment: Environment, engine: Engine, tokenizer: PreTrainedTokenizerBase, answer_style: str
    ) -> None:
        self.environment = environment
        self.engine = engine
        self.tokenizer = tokenizer
        self.answer_style = answer_style
        self.seconds = 0.0  # of the last `run`

    def run(
        self, episodes: Sequence[Episode], sampling: Sampling, on_episode: Callable[[int], None] | None = None
    ) -> list[Trajectory]:
        """Play all episodes and return their trajectories in the same order.

        `sampling.max_tokens` is the budget of an episode, all turns together. An episode that raises yields a
        trajectory with the message in `errors`; a UserError (a mistake in recipe or data) is raised. `on_episode` is
        told after each episode how many have ended.
        """
        started = time.perf_counter()
        trajectories = run_anywhere(self._run_all(episodes, sampling, on_episode))
        reads_answers = getattr(self.environment, "reads_answers", False)
        for trajectory in trajectories:
            finish(trajectory, self.tokenizer, None if reads_answers else self.answer_style)
        self.seconds = time.perf_counter() - started
        return trajectories

    async def _run_all(
        self, episodes: Sequence[Episode], sampling: Sampling, on_episode: Callable[[int], None] | None
    ) -> list[Trajectory]:
        running = len(episodes)
        self.engine.set_active_episodes(running)

        async def play(episode: Episode) -> Trajectory:
            nonlocal running
            try:
                trajectory = await self.environment.run(
                    episode.task, EpisodeEngine(self.engine, sampling, episode.seed)
                )
                if not isinstance(trajectory, Trajectory):
                    raise UserError(
                        f"environment {type(self.environment).__name__}: `run` returned "
                        f"{type(trajectory).__name__}, not a Trajectory"
                    )
            except UserError:
                raise
            except Exception as error:
                trajectory = Trajectory(task=episode.task, group=episode.group, stop_reason=StopReason.ERROR)
                trajectory.errors.append(f"environment: {type(error).__name__}: {error}")
            finally:
                running -= 1
                self.engine.set_active_episodes(running)
            if on_episode is not None:
                on_episode(len(episodes) - running)
            trajectory.group, trajectory.member = episode.group, episode.member
            return trajectory

        return list(await asyncio.gather(*(play(episode) for episode in episodes)))


def finish(trajectory: Trajectory, tokenizer: PreTrainedTokenizerBase, answer_style: str | None) -> None:
    """Fill in text, policy text and answer of an episode whose tokens and stop reason are known.

    `answer_style`: see `extract_answer`; None: the environment has read the answer itself.
    """
    trajectory.text = decode(tokenizer, trajectory.completion_ids)
    # Documents must never pass for the policy's words: the answer is read from what the policy sampled.
    all_policy = all(trajectory.policy_mask)
    trajectory.policy_text = trajectory.text if all_policy else decode(tokenizer, trajectory.policy_ids)
    if answer_style is None:
        return
    # The token that ended the last turn is no part of an answer that reaches to the end of the text.
    ended = trajectory.stop_reason is StopReason.EOS and trajectory.policy_ids
    marks = [decode(tokenizer, trajectory.policy_ids[-1:])] if ended else []
    trajectory.answer = extract_answer(trajectory.policy_text, answer_style, special_tokens=marks)
