"""Trajectories of completions that are only known as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cib_rl.environments.base import encode_prompt
from cib_rl.integrations.episodes import end_ids_of, make_trajectory
from cib_rl.recipe import EnvironmentSection
from cib_rl.samples.answers import likely_style, share_found
from cib_rl.samples.choose import spread_evenly
from cib_rl.samples.fields import Completion, read_completions
from cib_rl.samples.golds import kind_of_golds
from cib_rl.samples.origin import Origin
from cib_rl.samples.read import read_rows
from cib_rl.samples.tokens import encode_texts, learned_tokenizer, model_tokenizer
from cib_rl.trajectory import Trajectory


class TextSamples(NamedTuple):
    """See `Samples`, whose fields these are."""

    trajectories: list[Trajectory]
    places: list[str]
    tokenizer: Any
    answer_style: str
    labels: list[bool | None]
    origin: Origin
    notes: list[str]


def trajectories_of_texts(
    path: Path, *, model: str | None, answer: str | None, columns: Mapping[str, str], limit: int | None
) -> TextSamples:
    """The completions of a file of texts (see `load_samples` for arguments and errors).

    Each ends with the tokenizer's end-of-sequence token, as a completion that ended by itself does, unless the file
    says that it was cut off (`truncated`, or `finish_reason` / `stop_reason` = length).
    """
    completions, notes = read_completions(read_rows(path), columns)
    kind_of_golds([c.task for c in completions], [c.where for c in completions])
    kept = set(spread_evenly([c.group for c in completions], limit))
    completions = [c for c in completions if c.group in kept]
    texts, places = [c.text for c in completions], [c.where for c in completions]
    if model is None:
        tokenizer = learned_tokenizer([_plain(c.task["prompt"]) for c in completions], texts)
        notes.append(
            "tokens are those of a byte-level BPE learned from these texts: good for comparing them with each other; "
            "name a model with --model to count its tokens"
        )
    else:
        tokenizer = model_tokenizer(model, Path.cwd())
        notes.append(f"tokens are those of {model}")
    encoded = encode_texts(tokenizer, texts, places, model or "these texts")
    asked = answer is not None
    answer, share = likely_style(texts) if answer is None else (answer, share_found(texts, answer))
    notes.append(f"answers are read as {answer}, found in {share:.1%} of the completions (--answer-style)")
    unsure = "no mark of an answer that is known was found, so the last line is read" if answer == "last_line" else ""
    if share < 0.5:
        unsure = "most completions state no answer in this style and count as wrong"
    if unsure and not (asked and answer == "last_line"):
        notes.append(f"warning: {unsure}; name theirs, for example --answer-style 'regex:answer is (\\S+)'")
    return TextSamples(
        _trajectories(completions, encoded, tokenizer, answer),
        places,
        tokenizer,
        answer,
        [c.label for c in completions],
        Origin(),
        notes,
    )


def _trajectories(
    completions: list[Completion], encoded: list[list[int]], tokenizer: Any, answer: str
) -> list[Trajectory]:
    ends = end_ids_of(tokenizer)
    numbers: dict[str, int] = {}
    members: dict[str, int] = {}
    prompts: dict[str, list[int]] = {}
    made = []
    for completion, ids in zip(completions, encoded, strict=True):
        group = completion.group
        number = numbers.setdefault(group, len(numbers))
        member = members[group] = members.get(group, -1) + 1
        if group not in prompts:
            prompts[group] = _encode_prompt(completion.task["prompt"], tokenizer)
        ended = [] if completion.truncated else [tokenizer.eos_token_id]
        made.append(
            make_trajectory(
                completion.task,
                group=number,
                member=member,
                prompt_ids=prompts[group],
                completion_ids=[*ids, *ended],
                policy_mask=None,
                end_ids=ends,
                tokenizer=tokenizer,
                answer=answer,
            )
        )
    return made


def _encode_prompt(prompt: Any, tokenizer: Any) -> list[int]:
    """Text as it is, messages through the chat template; without a template their texts, one below the other."""
    if isinstance(prompt, list) and not getattr(tokenizer, "chat_template", None):
        prompt = _plain(prompt)
    template = "never" if isinstance(prompt, str) else "always"
    return encode_prompt(prompt, EnvironmentSection(max_completion_length=1, chat_template=template), tokenizer)


def _plain(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(str(message.get("content") or "") for message in prompt)
