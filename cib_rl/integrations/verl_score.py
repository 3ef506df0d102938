"""Rewards as verl's `compute_score`: one completion's text at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cib_rl.grading.answers import extract_answer
from cib_rl.integrations.episodes import make_trajectory
from cib_rl.integrations.scorer import RewardSpec, Settings
from cib_rl.integrations.verl_data import require_one_answer, task_row
from cib_rl.integrations.verl_scoring import Combiner, VerlScorer
from cib_rl.trajectory import Trajectory


def as_verl_score(
    rewards: Sequence[RewardSpec], *, tokenizer: Any, failure_score: float | None = None, **settings: Any
) -> VerlScore:
    """`compute_score(data_source, solution_str, ground_truth, extra_info)` for verl's `custom_reward_function`.

    For rewards that look at one completion's text: outcomes above all. verl gives no token ids here, so the text is
    encoded (its end-of-sequence token is not in it), every completion is alone in its group, and why it ended is not
    known. Rewards of tokens or groups belong into a reward manager (`as_verl_manager`, `as_verl_loop`).

    Calls from several threads are scored together.

    Args:
        rewards: the recipe's `rewards` list: names or mappings with `weight` and keywords.
        tokenizer: the policy's tokenizer, or the model to take it from.
        failure_score: the score of a completion that cannot be scored; None: RewardFailure is raised (verl knows no
            completion without a score; only a reward manager can keep it out of the baseline).
        settings: answer, columns, success, max_completion_length, seed, base_dir, device, stop_after: see `Settings`.

    Raises UserError when a reward cannot be found or built.
    """
    rebuild = functools.partial(as_verl_score, rewards, tokenizer=tokenizer, failure_score=failure_score, **settings)
    return VerlScore(VerlScorer(rewards, Settings(tokenizer, **settings), failure_score), rebuild)


class VerlScore:
    """What `as_verl_score` returns. It can be pickled (by its arguments)."""

    __name__ = "compute_score"

    def __init__(self, scorer: VerlScorer, rebuild: Callable[[], VerlScore]) -> None:
        self.scorer = scorer
        self._rebuild = rebuild
        self._combined: Combiner[Trajectory, dict[str, float]] = Combiner(self._score)

    def __reduce__(self) -> tuple[Callable[[], VerlScore], tuple[()]]:
        return self._rebuild, ()

    def __call__(
        self,
        data_source: Any,
        solution_str: str,
        ground_truth: Any,
        extra_info: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> dict[str, float]:
        """`score` (the weighted total), each reward's value by name, `acc` and `failed` (see `VerlScorer.info`).

        Raises:
            PluginError: a column is missing, or the episode has several turns.
            RewardFailure: the completion could not be scored and there is no `failure_score`.
        """
        extra = dict(extra_info or {})
        settings = self.scorer.settings
        task = task_row(extra.get("prompt", ""), ground_truth, data_source, extra, settings.columns)
        require_one_answer(extra.get("num_turns"), task["id"])
        trajectory = make_trajectory(
            task,
            group=0,
            member=0,
            prompt_ids=[],
            completion_ids=settings.tokenizer.encode(solution_str, add_special_tokens=False),
            policy_mask=None,
            end_ids=(),
            tokenizer=settings.tokenizer,
            answer=settings.answer,
        )
        trajectory.stop_reason = None
        trajectory.text = trajectory.policy_text = solution_str
        trajectory.answer = extract_answer(solution_str, settings.answer)
        return self._combined(trajectory)

    def close(self) -> None:
        """End what rewards have started. May be called twice."""
        self.scorer.scorer.close()

    def _score(self, trajectories: list[Trajectory]) -> list[dict[str, float]]:
        for group, trajectory in enumerate(trajectories):
            trajectory.group = group
        totals, scores = self.scorer.score(trajectories)
        info = self.scorer.info(scores)
        return [
            {"score": float(total)} | {name: values[i] for name, values in info.items()}
            for i, total in enumerate(totals)
        ]
