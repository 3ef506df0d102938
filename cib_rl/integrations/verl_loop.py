"""Rewards as a reward manager of verl from 0.7.1 on: one completion at a time, while others are still being sampled."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from typing import Any

from cib_rl.errors import UserError
from cib_rl.integrations.scorer import RewardSpec, Settings
from cib_rl.integrations.verl_data import trajectories_of
from cib_rl.integrations.verl_scoring import Combiner, VerlScorer, import_verl
from cib_rl.plugin import RewardFailure
from cib_rl.trajectory import Trajectory

Score = dict[str, Any]


def as_verl_loop(
    rewards: Sequence[RewardSpec],
    *,
    whole_groups: bool = True,
    group_timeout: float = 3600.0,
    failure_score: float | None = None,
    **settings: Any,
) -> type:
    """A class for `reward.reward_manager.source=importlib`: `await manager.run_single(data)` scores one completion.

    With `whole_groups` a completion waits until all `actor_rollout_ref.rollout.n` of its prompt (`uid`) are there, so
    that rewards may compare them and a completion that could not be scored gets the mean of its group. All must come
    to one place: `reward.num_workers=1`. Rows whose `extra_info.split` is given and not `train` are scored alone:
    validation samples another number of completions.

    verl takes one number per completion: rewards per token are summed. Episodes of several turns are refused: verl does
    not tell its reward managers which tokens the policy has sampled.

    Args:
        rewards: the recipe's `rewards` list: names or mappings with `weight` and keywords.
        whole_groups: False scores each completion as it comes, alone; for rewards that compare nothing.
        group_timeout: seconds that a completion waits for the others of its prompt before RewardFailure is raised.
        failure_score: for a completion that is scored alone and cannot be scored; None: RewardFailure is raised.
        settings: answer, columns, success, max_completion_length, seed, base_dir, device, stop_after: see `Settings`.
            The tokenizer is verl's.

    Raises UserError where verl cannot be imported or is too old; and when verl makes an instance, for a reward that
    cannot be found or built, and for several workers.
    """
    module = import_verl("verl.experimental.reward_loop.reward_manager.base", "as_verl_loop (verl 0.7.1 or later)")
    base: Any = module.RewardManagerBase
    if "compute_score" not in inspect.signature(base.__init__).parameters:
        raise UserError("as_verl_loop is for verl 0.7.1 or later; this one takes as_verl_manager")

    class CibRewardLoopManager(base):
        """Scores with cib-rl's rewards. `compute_score` and a reward model's address are not used."""

        def __init__(
            self,
            config: Any,
            tokenizer: Any,
            compute_score: Any = None,
            reward_router_address: str | None = None,
            reward_model_tokenizer: Any = None,
        ) -> None:
            super().__init__(config, tokenizer, compute_score)
            size = _group_size(config) if whole_groups else 1
            self.scorer = VerlScorer(rewards, Settings(tokenizer, **settings), failure_score)
            self.groups = Groups(self.scorer, size, group_timeout)

        async def run_single(self, data: Any) -> Score:
            """`reward_score`, and `reward_extra_info` with each reward's values (see `VerlScorer.info`)."""
            last = data[-1:]  # as in verl: of several sequences the last one is judged
            trajectory = trajectories_of(last, self.scorer.settings)[0]
            return await self.groups.score(str(last.non_tensor_batch["uid"][0]), trajectory)

    return CibRewardLoopManager


def _group_size(config: Any) -> int:
    if int(config.reward.num_workers) != 1:
        raise UserError(
            f"reward.num_workers is {config.reward.num_workers}: the completions of one prompt would come to different "
            "workers. Set reward.num_workers=1; or give whole_groups=False for rewards that compare nothing"
        )
    return int(config.actor_rollout_ref.rollout.n)


class Groups:
    """Collects completions until a group is whole, then scores it. Lives in one event loop.

    Args:
        size: completions per prompt.
        timeout: seconds that the first of them waits for the last.
    """

    def __init__(self, scorer: VerlScorer, size: int, timeout: float) -> None:
        self.scorer, self.size, self.timeout = scorer, size, timeout
        self._waiting: dict[str, list[tuple[Trajectory, asyncio.Future[Score]]]] = {}
        self._combined: Combiner[list[Trajectory], list[Score]] = Combiner(self._score)

    async def score(self, uid: str, trajectory: Trajectory) -> Score:
        """The score of one completion, once its group is whole. Raises RewardFailure after `timeout` seconds."""
        if self.size == 1 or trajectory.task.get("split", "train") != "train":
            return (await asyncio.to_thread(self._combined, [trajectory]))[0]
        future: asyncio.Future[Score] = asyncio.get_running_loop().create_future()
        members = self._waiting.setdefault(uid, [])
        members.append((trajectory, future))
        if len(members) == self.size:
            await self._finish(self._waiting.pop(uid))
        try:
            return await asyncio.wait_for(future, self.timeout)
        except TimeoutError as error:
            raise RewardFailure(
                f"row {trajectory.task.get('id')!r}: {len(members)} of {self.size} completions of its prompt came "
                f"within {self.timeout:g} s. Validation rows need an extra_info.split other than 'train'; rewards that "
                "compare nothing can have whole_groups=False"
            ) from error

    async def _finish(self, members: list[tuple[Trajectory, asyncio.Future[Score]]]) -> None:
        try:
            scores = await asyncio.to_thread(self._combined, [trajectory for trajectory, _ in members])
        except Exception as error:
            for _, future in members:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), score in zip(members, scores, strict=True):
            if not future.done():
                future.set_result(score)

    def _score(self, groups: list[list[Trajectory]]) -> list[list[Score]]:
        for number, members in enumerate(groups):
            for member, trajectory in enumerate(members):
                trajectory.group, trajectory.member = number, member
        totals, scores = self.scorer.score([trajectory for members in groups for trajectory in members])
        info = self.scorer.info(scores)
        flat = [
            {"reward_score": float(total), "reward_extra_info": {name: values[i] for name, values in info.items()}}
            for i, total in enumerate(totals)
        ]
        split, start = [], 0
        for members in groups:
            split.append(flat[start : start + len(members)])
            start += len(members)
        return split
