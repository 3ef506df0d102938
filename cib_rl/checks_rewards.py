"""What can be checked of a recipe's rewards and credit without training, and without loading a model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cib_rl.recipe import Recipe, RewardSection

if TYPE_CHECKING:
    from cib_rl.plugin import RewardContext
    from cib_rl.plugin.bound import BoundReward
    from cib_rl.priors import Prior

Status = Literal["ok", "failed", "unchecked"]
Rows = Sequence[dict[str, Any]]


@dataclass
class Known:
    """What is at hand when it comes to the rewards.

    Attributes:
        tokenizer: the policy's; None where it would be downloaded.
        rows, held_out: training's and evaluation's rows; empty where they would be downloaded.
    """

    recipe: Recipe
    base: Path
    tokenizer: Any = None
    rows: Rows = field(default_factory=list)
    held_out: Rows = field(default_factory=list)

    @property
    def context(self) -> RewardContext:
        """What training would give to rewards, as far as it is known."""
        from cib_rl.plugin import RewardContext

        return RewardContext(
            tokenizer=self.tokenizer,
            seed=self.recipe.seed,
            base_dir=self.base,
            deterministic=self.recipe.deterministic,
            max_completion_length=self.recipe.environment.max_completion_length,
        )

    def check_rows(self, built: BoundReward | Prior) -> None:
        """Let a reward or prior refuse the rows, as `preflight.check_rows` does."""
        from cib_rl.preflight import naming

        for rows, evaluation in ((self.rows, False), (self.held_out, True)):
            if rows:
                with naming(evaluation):
                    built.check_rows(rows)

    def may_build(self, plugin: Any, keywords: Mapping[str, Any]) -> bool:
        """False for a class that could load a model when it is built: any but ours, and ours where a keyword names a
        model or is a section of its own, such as a prior."""
        if not inspect.isclass(plugin):
            return True
        sections = any(key == "model" or isinstance(value, dict) for key, value in keywords.items())
        return plugin.__module__.startswith("cib_rl.") and not sections and self.tokenizer is not None


def check_reward(section: RewardSection, known: Known) -> tuple[Status, str]:
    """Find the reward and check its keywords; where that loads no model, build it and show it the rows."""
    from cib_rl.plugin import find_reward
    from cib_rl.plugin.bound import BoundReward, check_section

    plugin = find_reward(section.name, known.base)
    role = check_section(section, plugin)
    if known.may_build(plugin, section.kwargs):
        built = BoundReward(section, known.context)
        try:
            known.check_rows(built)
        finally:
            getattr(built.target, "close", lambda: None)()
    return "ok", f"{role.kind}, weight {section.weight:g}"


def check_prior(spec: Mapping[str, Any], known: Known) -> None:
    """The same for a reward's prior."""
    from cib_rl.priors import find_prior, make_prior

    prior, keywords = find_prior(spec, known.base)
    if known.may_build(prior, keywords):
        known.check_rows(make_prior(spec, known.context))


def check_success(known: Known) -> tuple[Status, str]:
    """That an outcome reward decides what is a success, where a reward or the recipe asks for it."""
    from cib_rl.preflight import check_outcomes

    roles = check_outcomes(known.recipe, known.base)
    outcomes = [role.label for role in roles if role.kind == "outcome"]
    if outcomes:
        return "ok", known.recipe.success.outcome or ", ".join(outcomes)
    baseline = known.recipe.credit[0]
    scaled = baseline.name == "group" and baseline.kwargs.get("scale", "outcome_std") == "outcome_std"
    note = "; credit's scale: outcome_std divides by its floor alone" if scaled else ""
    return "ok", f"no outcome reward, and nothing needs one{note}"


def check_budget(known: Known) -> tuple[Status, str]:
    """That it is clear whose weight the budget moves."""
    from cib_rl import preflight
    from cib_rl.plugin.roles import roles_of

    return "ok", f"moves {preflight.check_budget(known.recipe, roles_of(known.recipe.rewards, known.base))}"


def check_golds(known: Known, *, evaluation: bool = False) -> tuple[Status, str]:
    """Grade every gold answer against itself with the outcome rewards."""
    from cib_rl.plugin import RewardSuite
    from cib_rl.plugin.roles import roles_of
    from cib_rl.preflight import check_rows

    recipe, rows = known.recipe, known.held_out if evaluation else known.rows
    if not rows:
        return "unchecked", "the rows were not read"
    roles = roles_of(recipe.rewards, known.base)
    outcomes = [section for section, role in zip(recipe.rewards, roles, strict=True) if role.kind == "outcome"]
    if not outcomes:
        return "ok", "no outcome reward, nothing to grade"
    suite = RewardSuite(outcomes, known.context, recipe.success)
    try:
        check_rows(recipe, rows, suite, evaluation=evaluation)
    finally:
        suite.close()
    return "ok", f"{len(rows):,} gold answers graded"


def check_credit(recipe: Recipe, base: Path) -> tuple[Status, str]:
    """Build the stages of credit."""
    from cib_rl.credit.assign import Credit
    from cib_rl.plugin import RewardContext

    Credit(recipe.credit, RewardContext(base_dir=base))
    return "ok", ", then ".join(section.name for section in recipe.credit)


def check_plugins(recipe: Recipe, base_dir: Path | None = None) -> None:
    """Find rewards, priors and credit stages, and check their keys. Raises UserError; no model or row is loaded."""
    known = Known(recipe, base_dir or Path.cwd())
    for section in recipe.rewards:
        check_reward(section, known)
        if isinstance(prior := section.kwargs.get("prior"), dict):
            check_prior(prior, known)
    check_success(known)
    if recipe.budget:
        check_budget(known)
    check_credit(recipe, known.base)
