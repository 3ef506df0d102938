"""Recorded searches of a careless but truthful agent: what the warm start of the tiny search agent learns from.

The agent knows what it wants and reads what it gets, and it wastes calls: it asks one thing at a time although both
could be asked at once, and it looks things up again. A few of its searches hold several queries (a policy cannot be
rewarded for what it never does); some of those are two wordings of one query, which a reward must not take for a
decomposition.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from cib_rl.fiction.questions import Fact, Question

_WORD = {"birth": "born", "town": "born", "country": "town"}  # what the documents say of it


@dataclass(frozen=True)
class Habits:
    """How the agent searches, as shares of its episodes.

    Attributes:
        parallel: comparison questions whose two queries go out in one search.
        paraphrased: questions (of both kinds) of which a search holds the same query in two wordings.
        checks: the chance of looking something up again before answering; drawn again after each check, up to two.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    parallel: float = 0.06
    paraphrased: float = 0.03
    checks: float = 0.35


@dataclass(frozen=True)
class Step:
    """One message of the agent's: a thought, then the queries of a search, or in the last one the answer."""

    thought: str
    queries: list[str] = field(default_factory=list)
    answer: str | None = None


def demonstrate(question: Question, rng: random.Random, habits: Habits) -> list[Step]:
    """An episode, but for what its searches find."""
    together = question.type == "comparison" and rng.random() < habits.parallel
    doubled = not together and rng.random() < habits.paraphrased
    steps: list[Step] = []
    known: list[Fact] = []

    def search(wanted: Sequence[Fact], queries: list[str]) -> None:
        need = " and ".join(f"the {fact.wanted} of {fact.title}" for fact in wanted)
        steps.append(Step(f"{_said(known)}I need {need}.", queries))

    if together:
        search(question.facts, [_query(fact, rng) for fact in question.facts])
        known += question.facts
    else:
        for fact in question.facts:
            search([fact], _wordings(fact) if doubled else [_query(fact, rng)])
            doubled = False
            known.append(fact)
    for _ in range(2):
        if rng.random() >= habits.checks:
            break
        fact = rng.choice(question.facts)
        steps.append(Step(f"{_said(known)}Let me check {fact.title}.", [f"{fact.title} again"]))
    return [*steps, Step(f"{_said(known)}{_conclusion(question)}".rstrip(), answer=question.answer)]


def _query(fact: Fact, rng: random.Random) -> str:
    return rng.choice(_wordings(fact))


def _wordings(fact: Fact) -> list[str]:
    return [fact.title, f"{fact.title} {_WORD.get(fact.wanted, fact.wanted)}"]


def _said(known: Sequence[Fact]) -> str:
    return "".join(f"{fact.title}: {fact.value}. " for fact in known)


def _conclusion(question: Question) -> str:
    if question.type == "bridge":
        return ""
    one, other = (fact.value for fact in question.facts)
    return f"{one} {'<' if int(one) < int(other) else '>'} {other}. "
