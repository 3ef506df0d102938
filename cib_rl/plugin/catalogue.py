"""The catalogue of rewards and priors as text: `cib-rl rewards --full`, and docs/rewards.md."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import cleandoc

from cib_rl.plugin.registry import RewardDescription, describe_rewards


def entries() -> list[RewardDescription]:
    """All rewards, built in and of installed packages, by name; then the built-in priors."""
    from cib_rl.priors.describe import describe_priors

    return [*describe_rewards(), *describe_priors()]


def catalogue(found: Sequence[RewardDescription]) -> str:
    """One section per entry in Markdown: kind, signature, docstring."""
    return "\n".join(
        f"### {entry.name} ({entry.kind or '?'})\n\n"
        f"```\n{entry.signature}\n```\n\n```text\n{cleandoc(entry.doc)}\n```\n"
        for entry in found
    )
