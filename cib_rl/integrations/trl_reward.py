"""Rewards as entries of TRL's `reward_funcs`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from cib_rl.integrations.scorer import RewardSpec, Settings
from cib_rl.integrations.trl_step import TrlStep
from cib_rl.plugin import PluginError


def as_trl(
    reward: RewardSpec,
    *,
    tokenizer: Any,
    outcome: RewardSpec | None = None,
    answer: str = "tag",
    columns: Mapping[str, str] | None = None,
    success: Mapping[str, Any] | None = None,
    num_generations: int | None = None,
    whole_groups: bool = True,
    max_completion_length: int = 0,
    seed: int = 0,
    base_dir: Any = None,
    device: Any = None,
    stop_after: int = 64,
    **keywords: Any,
) -> TrlReward:
    """A reward for `GRPOTrainer(reward_funcs=[...])`: called by TRL, it gives the values our own trainer would give.

    `as_trl("surprisal", prior={"name": "uniform"}, tokenizer="Qwen/Qwen3-0.6B")`. Its weight is TRL's to give
    (`GRPOConfig(reward_weights=...)`). TRL logs by name: the reward's own, or `label`; two of one kind need labels. An
    async reward becomes an async function, which TRL runs together with the others.

    A completion on which the reward fails or does not apply gets None; a failure is also warned about, naming the row.
    Where there are several reward functions, TRL adds up those that are not None: a completion on which one of them has
    failed is not left out but counts without it. `as_trl_suite` makes several that fail together.

    What rewards log, and the means of the diagnostics they attach (as `<name>/<diagnostic>`), goes to TRL's metrics.
    Why a completion ended is not reported by TRL; it is taken to have ended by itself if its last token is one of the
    trainer's end-of-sequence tokens, else to be cut off.

    Args:
        reward: built-in name, entry point, `package.module:name`, `path/file.py:name`, or a whole section of a recipe's
            `rewards` as a mapping (for keywords that have the name of an argument of this function).
        tokenizer: the policy's tokenizer, or the model to take it from (hub id, folder, run, checkpoint).
        outcome: for a shaping reward that depends on success (`only_when_correct`, or a reward that asks for
            successes): the outcome reward that decides it. It is not logged or added here; list it for that.
        answer: where the answer stands: tag, boxed, hash, last_line or regex:PATTERN.
        columns: task column -> column of the data set, e.g. `{"answer": "solution"}`; the gold is read from `answer`.
        num_generations: completions per prompt, for calls that do not come from TRL's GRPO or RLOO trainer (what these
            say counts); default: runs of equal prompts.
        whole_groups: refuse to score parts of a group (see `group_numbers`).
        success, max_completion_length, seed, base_dir, device, stop_after: see `Settings`.
        keywords: the reward's keywords, `label`, `kind` and `only_when_correct`, as in a recipe.

    Raises:
        UserError: the reward or outcome cannot be found or built, or an argument is wrong. While training: a column is
            missing, groups are not whole, or a reward fails too often (RewardFailure).
    """
    spec = ({"name": reward} if isinstance(reward, str) else dict(reward)) | keywords
    settings = Settings(tokenizer, answer, columns, success, max_completion_length, seed, base_dir, device, stop_after)
    _refuse_weights([spec])
    step = TrlStep([*([outcome] if outcome is not None else []), spec], settings, num_generations, whole_groups)
    *before, target = step.scorer.suite.rewards
    if [r.kind for r in (*before, target)] not in (["outcome"], ["shaping"], ["outcome", "shaping"]):
        raise PluginError(
            f"outcome={outcome!r} for {target.label!r}: outcome= names an outcome reward that a shaping reward depends "
            f"on; these are of the kinds {before[0].kind} and {target.kind}"
        )
    return _reward(step, target.label)


def as_trl_suite(
    rewards: Sequence[RewardSpec],
    *,
    tokenizer: Any,
    num_generations: int | None = None,
    whole_groups: bool = True,
    **settings: Any,
) -> list[TrlReward]:
    """Several rewards for `GRPOTrainer(reward_funcs=[...])` that belong together, as in a recipe.

    Shaping rewards know what the outcome rewards among them decided, and a completion on which one of them fails gets
    None from all, so that TRL leaves it out of the baseline and gives it no advantage (as long as there are no other
    reward functions). All are computed when TRL calls the first of them, the async ones together; one async reward
    makes all of them async functions. Diagnostics are logged as `diagnostics/<name>`, as our own trainer does.

    Args:
        rewards: the recipe's `rewards` list, without weights: these are TRL's (`reward_weights`, in the same order).
        settings: answer, columns, success, max_completion_length, seed, base_dir, device, stop_after: see `Settings`.
        tokenizer, num_generations, whole_groups: see `as_trl`.

    Raises UserError as `as_trl` does.
    """
    _refuse_weights(rewards)
    step = TrlStep(list(rewards), Settings(tokenizer, **settings), num_generations, whole_groups, "diagnostics")
    return [_reward(step, label) for label in step.scorer.suite.names]


class TrlReward:
    """What `as_trl` returns: a callable `(prompts, completions, completion_ids, **columns) -> list[float | None]`.

    It can be pickled for trainers whose rollouts run in another process.
    """

    def __init__(self, step: TrlStep, label: str) -> None:
        self.step, self.label = step, label
        self.__name__ = label  # TRL logs by it

    def close(self) -> None:
        """End what the reward has started (grading processes, clients). May be called twice."""
        self.step.scorer.close()


class PlainTrlReward(TrlReward):
    """A reward that TRL calls in its turn."""

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **given: Any) -> list[float | None]:
        return self.step.rewards(self.label, prompts, completions, **given)


class AsyncTrlReward(TrlReward):
    """A reward that TRL awaits together with its other async ones."""

    async def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **given: Any) -> list[float | None]:
        # In a thread: the suite waits for its own event loop, and TRL's must go on meanwhile.
        return await asyncio.to_thread(self.step.rewards, self.label, prompts, completions, **given)


def _reward(step: TrlStep, label: str) -> TrlReward:
    kind = AsyncTrlReward if any(r.is_async for r in step.scorer.suite.rewards) else PlainTrlReward
    return kind(step, label)


def _refuse_weights(rewards: Sequence[RewardSpec]) -> None:
    for spec in rewards:
        for key in ("weight", "weight_schedule"):
            if not isinstance(spec, str) and key in spec:
                raise PluginError(
                    f"reward {spec.get('name')!r}: {key} is TRL's to give: GRPOConfig(reward_weights=[...])"
                )
