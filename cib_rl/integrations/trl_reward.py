"""A reward as an entry of TRL's `reward_funcs`."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cib_rl.integrations.scorer import RewardSpec, Scorer, Settings
from cib_rl.integrations.trl_rows import NOT_COLUMNS, facts_behind, group_numbers, trajectories_of
from cib_rl.plugin import PluginError, Scores
from cib_rl.trajectory import Trajectory


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

    A completion on which the reward fails or does not apply gets None, which TRL leaves out of the baseline; a failure
    is also warned about, naming the row. Never a 0.

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
    arguments = {key: value for key, value in locals().items() if key not in ("reward", "keywords")}
    rebuild = functools.partial(as_trl, reward, **arguments, **keywords)
    spec = ({"name": reward} if isinstance(reward, str) else dict(reward)) | keywords
    for key in ("weight", "weight_schedule"):
        if key in spec:
            raise PluginError(f"reward {spec.get('name')!r}: {key} is TRL's to give: GRPOConfig(reward_weights=[...])")
    settings = Settings(tokenizer, answer, columns, success, max_completion_length, seed, base_dir, device, stop_after)
    scorer = Scorer([*([outcome] if outcome is not None else []), spec], settings)
    *before, target = scorer.suite.rewards
    if [r.kind for r in (*before, target)] not in (["outcome"], ["shaping"], ["outcome", "shaping"]):
        raise PluginError(
            f"outcome={outcome!r} for {target.label!r}: outcome= names an outcome reward that a shaping reward depends "
            f"on; these are of the kinds {before[0].kind} and {target.kind}"
        )
    kind = AsyncTrlReward if any(r.is_async for r in scorer.suite.rewards) else PlainTrlReward
    return kind(scorer, rebuild, num_generations, whole_groups)


class TrlReward:
    """What `as_trl` returns: a callable `(prompts, completions, completion_ids, **columns) -> list[float | None]`.

    It can be pickled (by its arguments) for trainers whose rollouts run in another process.
    """

    def __init__(
        self, scorer: Scorer, rebuild: Callable[[], TrlReward], num_generations: int | None, whole_groups: bool
    ) -> None:
        self.scorer = scorer
        self.label = scorer.suite.rewards[-1].label
        self.__name__ = self.label  # TRL logs by it
        self._rebuild = rebuild
        self._num_generations, self._whole_groups = num_generations, whole_groups

    def __reduce__(self) -> tuple[Callable[[], TrlReward], tuple[()]]:
        return self._rebuild, ()

    def close(self) -> None:
        """End what the reward has started (grading processes, clients). May be called twice."""
        self.scorer.close()

    def rewards(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One value per completion; None where the reward does not apply, its gate is shut, or it failed."""
        given = {key: columns.pop(key, None) for key in NOT_COLUMNS}
        facts = facts_behind(given["log_metric"])
        if facts.names.count(self.__name__) > 1:
            raise PluginError(
                f"two of the trainer's reward functions are named {self.__name__!r}, and TRL would mix their values: "
                "give one a label, as_trl(..., label=...)"
            )
        size = facts.num_generations or self._num_generations
        certain = facts.num_generations is not None
        groups = group_numbers(prompts, columns.get("id"), size, whole=self._whole_groups, certain=certain)
        self.scorer.context.trainer_state = given["trainer_state"]
        made = trajectories_of(prompts, completions, completion_ids, columns, groups, self.scorer.settings, facts)
        try:
            scores = self.scorer.score(made)
        except PluginError as error:
            if "outcome reward" not in str(error):
                raise
            raise PluginError(f"{error} (as_trl takes it as outcome=...)") from error
        self._pass_on(scores, made, given["log_metric"], given["log_extra"])
        counted = scores.counted[self.label] & scores.valid
        return [float(v) if c else None for v, c in zip(scores.values[self.label], counted, strict=True)]

    def _pass_on(self, scores: Scores, made: list[Trajectory], log_metric: Any, log_extra: Any) -> None:
        """Hand to TRL what rewards logged and attached."""
        if log_extra is not None:
            for column, values in scores.extras.items():
                log_extra(column, values)
        if log_metric is None:
            return
        for name, value in scores.metrics.items():
            log_metric(name, value)
        for name in dict.fromkeys(name for t in made for name in t.diagnostics):
            log_metric(
                f"{self.__name__}/{name}", float(np.mean([t.diagnostics[name] for t in made if name in t.diagnostics]))
            )


class PlainTrlReward(TrlReward):
    """A reward that TRL calls in its turn."""

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **given: Any) -> list[float | None]:
        return self.rewards(prompts, completions, **given)


class AsyncTrlReward(TrlReward):
    """A reward that TRL awaits together with its other async ones."""

    async def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **given: Any) -> list[float | None]:
        # In a thread: the suite waits for its own event loop, and TRL's must go on meanwhile.
        return await asyncio.to_thread(self.rewards, prompts, completions, **given)
