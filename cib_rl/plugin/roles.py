"""What each reward is in its recipe, known before any is built, and whether they make sense together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from cib_rl.plugin.contract import Kind, PluginError, RewardInfo
from cib_rl.plugin.registry import find_reward
from cib_rl.recipe import RewardSection, SuccessSection


@dataclass(frozen=True)
class Role:
    """One reward as the recipe and its plugin declare it.

    Attributes:
        name: the plugin's own, for messages. label: its name in logs.
        kind, only_when_correct: as the recipe or the plugin says.
        needs_success: it asks which completions are successes.
        replaces_outcome: its values are a whole reward minus 1[success].
        weight: the recipe's; None where a schedule changes it.
        track: the name under which it attaches numbers per token, where it has a keyword for that.
    """

    name: str
    label: str
    kind: Kind
    only_when_correct: bool
    needs_success: bool
    replaces_outcome: bool = False
    weight: float | None = 1.0
    track: str | None = None


def role_of(section: RewardSection, plugin: Any) -> Role:
    """The role of `plugin`, the function or class that `section` names.

    Raises:
        PluginError: neither says of what kind it is, or an outcome is gated by successes.
    """
    info = getattr(plugin, "__reward__", None)
    declared = info if isinstance(info, RewardInfo) else None
    name = declared.name if declared else getattr(plugin, "__name__", section.name)
    kind = section.kind or (declared.kind if declared else None)
    if kind is None:
        raise PluginError(
            f"reward {section.name!r} does not say what it is: add `kind: outcome` (is the answer right?) or "
            "`kind: shaping` (how was it reached?) to its section (for `cib-rl rewards try`: --set kind=shaping)"
        )
    needs_success = declared is not None and declared.needs_success
    if kind == "outcome" and section.only_when_correct:
        raise PluginError(f"reward {section.name!r}: only_when_correct is for shaping rewards; this one is an outcome")
    if kind == "outcome" and needs_success:
        raise PluginError(
            f"reward {section.name!r} asks which completions are successes, which the outcome rewards decide: it "
            "cannot be one itself; take `kind: outcome` out of its section"
        )
    track = section.kwargs.get("track", _default(plugin, "track"))
    return Role(
        name,
        section.label or name,
        kind,
        section.only_when_correct,
        needs_success,
        declared is not None and declared.replaces_outcome,
        None if set(section.weight_schedule or ()) - {0} else section.weight * (section.weight_schedule or {0: 1.0})[0],
        track if isinstance(track, str) else None,
    )


def _default(plugin: Any, keyword: str) -> Any:
    try:
        default = signature(plugin).parameters[keyword].default
    except (KeyError, TypeError, ValueError):  # it has no such keyword, or does not say
        return None
    return None if default is Parameter.empty else default


def roles_of(sections: Sequence[RewardSection], base_dir: Path) -> list[Role]:
    """The role of each reward of a recipe. Raises PluginError when one is not found, and what `role_of` does."""
    return [role_of(section, find_reward(section.name, base_dir)) for section in sections]


def check_roles(roles: Sequence[Role], success: SuccessSection, *, judged: bool = False) -> list[str]:
    """The labels of the outcome rewards.

    Args:
        judged: which completions are successes is known beforehand.

    Raises:
        PluginError: two rewards have the same label or write the same track, `success` names no outcome, a reward
            depends on successes and nothing decides them, or it takes the place of an outcome that it does not fit.
    """
    labels = [role.label for role in roles]
    for label in labels:
        if labels.count(label) > 1:
            raise PluginError(f"two rewards are labelled {label!r}: give one of them another `label`")
    _require_own_tracks(roles)
    outcomes = [role.label for role in roles if role.kind == "outcome"]
    if success.outcome is not None and success.outcome not in outcomes:
        known = ", ".join(outcomes) or "there is none"
        raise PluginError(f"success.outcome: no outcome is labelled {success.outcome!r}; known: {known}")
    for role in roles:
        needed_for = "only_when_correct" if role.only_when_correct else "it asks which completions are successes, and"
        if not outcomes and (role.only_when_correct or (role.needs_success and not judged)):
            raise PluginError(
                f"reward {role.label!r}: {needed_for} needs an outcome reward; there is none. Add one to `rewards`, "
                "such as `- name: math_correct`, or give the reward that says what is right `kind: outcome`"
            )
    for role in roles:
        if role.replaces_outcome and outcomes:
            _require_whole_outcome(role, [other for other in roles if other.kind == "outcome"], success)
    return outcomes


def _require_own_tracks(roles: Sequence[Role]) -> None:
    writers: dict[str, Role] = {}
    for role in roles:
        if role.track is not None and (other := writers.setdefault(role.track, role)) is not role:
            raise PluginError(
                f"rewards {other.label!r} and {role.label!r} both attach the track {role.track!r}, and the later would "
                f"overwrite the earlier: give {role.label!r} a name of its own, such as `track: {role.label}_track`"
            )


def _require_whole_outcome(role: Role, outcomes: Sequence[Role], success: SuccessSection) -> None:
    """That the outcome that decides successes adds 1[success] to the sum. Its values are looked at when it scores."""
    deciding = [o for o in outcomes if success.outcome in (None, o.label)]
    if len(deciding) > 1:
        raise PluginError(
            f"reward {role.label!r} takes 1[success] away, so one outcome must add it; there are several: "
            f"{', '.join(o.label for o in deciding)}. Name it: success: {{outcome: LABEL}}"
        )
    if deciding[0].weight != 1.0:
        raise PluginError(
            f"reward {role.label!r} takes 1[success] away, so the outcome {deciding[0].label!r} must add it with "
            "weight 1 (and no weight_schedule); weigh the other rewards against that"
        )
