"""Questions about a world, with their kind, their answer and the documents that hold it.

Two kinds, as HotpotQA labels them: *comparison* questions need two facts that do not depend on each other, so that both
can be asked for at once; *bridge* questions need a second fact whose subject only the first one names.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

from cib_rl.errors import UserError
from cib_rl.fiction.world import Person, Work, World, make_world

Split = Literal["train", "heldout"]
PATIENCE = 5_000  # questions without a new one after which the world counts as used up


@dataclass(frozen=True)
class Fact:
    """What one look-up is to bring: the document's title, and what is wanted of it."""

    title: str
    wanted: str  # in words: "birth", "year", "author", "town", "country", "river"
    value: str


@dataclass(frozen=True)
class Question:
    """A question; `facts` in the order in which they are looked up."""

    text: str
    type: Literal["comparison", "bridge"]
    answer: str
    facts: tuple[Fact, ...]

    def row(self) -> dict[str, Any]:
        """The task row: id, prompt, answer (a list of golds), type, evidence (the documents' ids)."""
        return {
            "id": f"fiction-{self.text}",
            "prompt": self.text,
            "answer": [self.answer],
            "type": self.type,
            "supporting_ids": [fact.title for fact in self.facts],
        }


def question_stream(world: World, split: Split, seed: int) -> Iterator[Question]:
    """An endless seeded stream of questions of one side; half of each kind."""
    if split not in ("train", "heldout"):
        raise ValueError(f"fiction: split must be 'train' or 'heldout', got {split!r}")
    rng = random.Random(f"questions-{split}-{seed}")
    people = [p for p in world.people if p.held_out == (split == "heldout")]
    works = [w for w in world.works if w.held_out == (split == "heldout")]
    if len(people) < 2 or len(works) < 2:
        raise ValueError(f"fiction: the {split} side of the world has fewer than two people or works")
    while True:
        yield _comparison(people, works, rng) if rng.random() < 0.5 else _bridge(people, works, rng)


def questions(world: World, split: Split, count: int, seed: int = 0, type: str | None = None) -> list[Question]:
    """`count` different questions, of one `type` or of both. Raises ValueError when the world has fewer."""
    chosen: dict[str, Question] = {}
    repeats = 0
    for question in question_stream(world, split, seed):
        if len(chosen) == count:
            break
        if type is not None and question.type != type:
            continue
        repeats = repeats + 1 if question.text in chosen else 0
        if repeats > PATIENCE:
            raise ValueError(f"fiction: asked for {count} {split} questions; this world seems to have {len(chosen)}")
        chosen.setdefault(question.text, question)
    return list(chosen.values())


def _comparison(people: list[Person], works: list[Work], rng: random.Random) -> Question:
    while True:
        if rng.random() < 0.5:
            years = {p.name: p.born for p in rng.sample(people, 2)}
            ask, wanted = "Who was born first", "birth"
        else:
            years = {w.title: w.year for w in rng.sample(works, 2)}
            ask, wanted = "Which came out first", "year"
        one, other = years
        if years[one] != years[other]:
            facts = tuple(Fact(title, wanted, str(year)) for title, year in years.items())
            return Question(f"{ask}, {one} or {other}?", "comparison", min(years, key=lambda t: years[t]), facts)


def _bridge(people: list[Person], works: list[Work], rng: random.Random) -> Question:
    form = rng.randrange(4)
    if form < 2:
        work = rng.choice(works)
        person = work.author
        last = (
            Fact(person.name, "birth", str(person.born)) if form else Fact(person.name, "town", person.birthplace.name)
        )
        ask = "When" if form else "Where"
        facts = (Fact(work.title, "author", person.name), last)
        return Question(f"{ask} was the author of {work.title} born?", "bridge", last.value, facts)
    person = rng.choice(people)
    town = person.birthplace
    last = Fact(town.name, "country", town.country) if form == 2 else Fact(town.name, "river", town.river)
    ask = "In which country" if form == 2 else "On which river"
    facts = (Fact(person.name, "town", town.name), last)
    return Question(f"{ask} is the town where {person.name} was born?", "bridge", last.value, facts)


def task_rows(split: str = "train", count: int = 4000, seed: int = 0, type: str | None = None) -> list[dict[str, Any]]:
    """Different task rows of one side of world 0, the one which `retriever: {name: bm25, corpus: fiction}` searches.

    Args:
        count: how many.
        seed: of the questions.
        type: only `comparison` or only `bridge` questions.

    Raises:
        UserError: an unknown split or type, or too few questions.
    """
    if type not in (None, "comparison", "bridge"):
        raise UserError(f"fiction: type must be comparison or bridge, not {type!r}")
    try:
        return [question.row() for question in questions(make_world(0), cast(Split, split), count, seed, type)]
    except (TypeError, ValueError) as error:  # a recipe's value that cannot be used
        raise UserError(str(error)) from error
