"""Which reward says what is right: the one asked for, the run's own, or the built-in one that fits the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cib_rl.errors import UserError
from cib_rl.integrations.scorer import RewardSpec, to_section
from cib_rl.plugin import PluginError, RewardInfo, find_reward
from cib_rl.recipe import RewardSection
from cib_rl.samples.golds import kind_of_golds
from cib_rl.samples.load import Samples


@dataclass(frozen=True)
class Outcome:
    """The outcome rewards, what counts as a success (None: the default), and how they were chosen, in words."""

    sections: list[RewardSection]
    success: dict[str, Any] | None
    note: str


def choose_outcome(samples: Samples, asked: RewardSpec | None) -> Outcome:
    """The outcome rewards for `samples`.

    Args:
        asked: the user's wish: a name or a section; None: those of the run's recipe, else countdown_correct for rows
            with `numbers` and `target`, qa_em where the gold is a list of texts, and math_correct otherwise.

    Raises:
        UserError: the rows have no gold answers, or golds of a kind that fits no built-in outcome.
    """
    if asked is not None:
        section = to_section(asked)
        # A plain function of the user's own need not declare what it is: here it is an outcome.
        declared = _declared_kind(section)
        if declared == "shaping":
            raise UserError(f"--outcome {section.name}: that is a shaping reward; it does not say what is right")
        return Outcome([section.model_copy(update={"kind": "outcome"})], None, f"outcome: {section.name}, as asked")
    own = [section for section in samples.origin.rewards if _declared_kind(section) == "outcome"]
    if own:
        success = samples.origin.success.model_dump(exclude_none=True) if samples.origin.success else None
        names = ", ".join(section.label or section.name for section in own)
        return Outcome(own, success, f"outcome: {names}, as in {samples.origin.file}")
    name, why = _fitting(samples)
    return Outcome([to_section(name)], None, f"outcome: {name}, because {why} (--outcome)")


def _declared_kind(section: RewardSection) -> str | None:
    if section.kind is not None:
        return section.kind
    info = getattr(find_reward(section.name, Path.cwd()), "__reward__", None)
    return info.kind if isinstance(info, RewardInfo) else None


def _fitting(samples: Samples) -> tuple[str, str]:
    tasks: list[Mapping[str, Any]] = [t.task for t in samples.trajectories]
    if all("numbers" in task and "target" in task for task in tasks):
        return "countdown_correct", "the rows have numbers and a target"
    kind = kind_of_golds(tasks, samples.places)
    if kind is None:
        have = ", ".join(str(key) for key in tasks[0] if key not in ("id", "prompt", "answer")) or "no column"
        raise UserError(
            f"{samples.source}: the rows have no gold answers, so nothing says what is right; beside prompt and "
            f"completion they have {have}. Name the column (--columns answer=NAME), or an outcome that needs none "
            "(--outcome FILE.py:NAME)"
        )
    if kind == "list":
        return "qa_em", "the gold answers are lists"
    if kind == "text":
        return "math_correct", "the gold answers are texts or numbers"
    raise PluginError(
        f"{samples.places[0]}: no built-in outcome reads a gold answer that is "
        f"{'an object' if kind == 'object' else 'true or false'}: {tasks[0]['answer']!r}. Name one: "
        "--outcome FILE.py:NAME"
    )
