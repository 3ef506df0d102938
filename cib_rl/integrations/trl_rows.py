"""The completions of one step of TRL as trajectories: which belong together, what was the prompt, who wrote what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cib_rl.environments.base import encode_prompt
from cib_rl.integrations.episodes import end_ids_of, make_trajectory, rename, row_name
from cib_rl.integrations.scorer import Settings
from cib_rl.plugin import PluginError
from cib_rl.recipe import EnvironmentSection
from cib_rl.trajectory import Trajectory

# What TRL gives to reward functions beside the data set's columns.
NOT_COLUMNS = ("trainer_state", "log_metric", "log_extra", "environments")


@dataclass(frozen=True)
class TrainerFacts:
    """What a reward function needs to know of the trainer that calls it, and is not told.

    Attributes:
        num_generations: completions per prompt; None where it is not known.
        end_ids: ids that end a completion; None: those of the tokenizer. (For TRL's own `clipped_ratio` a padding token
            that was sampled at the length limit is an end, too.)
        names: names of all its reward functions.
        template: what it gives to `apply_chat_template`.
    """

    num_generations: int | None = None
    end_ids: frozenset[int] | None = None
    names: tuple[str, ...] = ()
    template: Mapping[str, Any] | None = None


def facts_behind(log_metric: Any) -> TrainerFacts:
    """The facts of TRL's GRPO or RLOO trainer; nothing where `log_metric` is no method of one.

    TRL gives reward functions no handle on the trainer, but `log_metric` is bound to it. The attributes read here are a
    seam of the tested TRL range, with a contract test.
    """
    trainer = getattr(log_metric, "__self__", None)
    if trainer is None or not hasattr(trainer, "reward_func_names"):
        return TrainerFacts()
    training = trainer.model.training
    template = dict(trainer.chat_template_kwargs)
    if getattr(trainer, "chat_template", None) is not None:
        template["chat_template"] = trainer.chat_template
    return TrainerFacts(
        num_generations=trainer.num_generations if training else trainer.num_generations_eval,
        end_ids=frozenset(trainer.eos_token_ids),
        names=tuple(trainer.reward_func_names),
        template=template,
    )


def group_numbers(
    prompts: Sequence[Any], ids: Sequence[Any] | None, size: int | None, *, whole: bool, certain: bool = True
) -> list[int]:
    """The group of each completion: those of one row of the data set, which share a baseline in TRL.

    TRL repeats each row `size` times in a row and takes every `size` completions for a group. The layout decides, not
    the text: two rows of the data set may have the same prompt (and other answers), and stand side by side.

    Args:
        ids: the rows' `id` column, where there is one.
        size: completions per row. None: a group is a run of completions with the same prompt and id.
        whole: groups must be whole. With False, where TRL has spread a group over processes, runs are taken.
        certain: `size` is the trainer's own. Otherwise the prompts of each group must be equal.

    Raises:
        PluginError: the completions are no whole groups, or a group has different prompts.
    """
    if size is not None and len(prompts) % size == 0:
        for i in range(len(prompts)):
            first = i - i % size
            if not certain and prompts[i] != prompts[first]:
                raise PluginError(
                    f"num_generations is {size}, so completions {first} and {i} belong to one prompt, but their "
                    "prompts differ; give the number that GRPOConfig has, or leave it out"
                )
        return [i // size for i in range(len(prompts))]
    if size is not None and whole:
        raise PluginError(
            f"{len(prompts)} completions are no whole groups of {size}: TRL has spread the completions of one prompt "
            "over several processes. Make per_device_train_batch_size x steps_per_generation (evaluation: "
            "per_device_eval_batch_size) a multiple of num_generations; or give whole_groups=False if the reward looks "
            "at each completion alone"
        )
    numbers: list[int] = []
    for i in range(len(prompts)):
        same = i > 0 and prompts[i] == prompts[i - 1] and (ids is None or ids[i] == ids[i - 1])
        numbers.append(numbers[-1] if same else len(set(numbers)))
    return numbers


def trajectories_of(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]] | None,
    columns: Mapping[str, Any],
    groups: Sequence[int],
    settings: Settings,
    facts: TrainerFacts,
) -> list[Trajectory]:
    """One trajectory per completion.

    Token ids are used as they are; where there are none, the completion's text is encoded. A column `policy_mask` (1
    where the policy sampled the token) tells what tools or an environment wrote.

    Raises:
        PluginError: a column of another length, or messages of others in a completion without a `policy_mask`.
    """
    tokenizer = settings.tokenizer
    for name, column in columns.items():
        if len(column) != len(prompts):
            raise PluginError(f"column {name!r} has {len(column)} entries for {len(prompts)} completions")
    encoded: dict[int, list[int]] = {}
    counts: dict[int, int] = {}
    made = []
    for i, (prompt, completion, group) in enumerate(zip(prompts, completions, groups, strict=True)):
        row = {name: column[i] for name, column in columns.items()}
        mask = row.pop("policy_mask", None)
        row = rename(row, settings.columns)
        task = row | {"id": row_name(row, prompt), "prompt": prompt}
        if mask is None:
            _require_own_words(completion, task["id"])
        if group not in encoded:
            encoded[group] = _encode_prompt(prompt, tokenizer, facts.template or {})
        ids = completion_ids[i] if completion_ids is not None else _encode_completion(completion, tokenizer)
        counts[group] = counts.get(group, -1) + 1
        made.append(
            make_trajectory(
                task,
                group=group,
                member=counts[group],
                prompt_ids=encoded[group],
                completion_ids=ids,
                policy_mask=mask,
                end_ids=end_ids_of(tokenizer) if facts.end_ids is None else facts.end_ids,
                tokenizer=tokenizer,
                answer=settings.answer,
            )
        )
    return made


def _require_own_words(completion: Any, row: str) -> None:
    if isinstance(completion, str):
        return
    for message in completion:
        if message.get("role") != "assistant":
            raise PluginError(
                f"row {row!r}: the completion holds a message of {message.get('role')!r}, and TRL does not tell reward "
                "functions which tokens are its own. Return a field `policy_mask` (1 where the policy sampled the "
                "token) from a rollout_func; tools of GRPOTrainer cannot be used with this reward"
            )


def _encode_prompt(prompt: Any, tokenizer: Any, template: Mapping[str, Any]) -> list[int]:
    """As TRL does it: messages through the chat template, text as it is."""
    section = EnvironmentSection(
        max_completion_length=1,
        chat_template="never" if isinstance(prompt, str) else "always",
        chat_template_kwargs=dict(template),
    )
    return encode_prompt(prompt, section, tokenizer)


def _encode_completion(completion: Any, tokenizer: Any) -> list[int]:
    text = completion if isinstance(completion, str) else "".join(str(m.get("content") or "") for m in completion)
    return list(tokenizer.encode(text, add_special_tokens=False))
