"""People, works and places that do not exist, and what an encyclopedia says of them.

A world is made from a seed alone. Its people and works have two sides, training and held-out: no training question is
about a held-out one, while the documents of both lie in the same index, so that what an agent knows of a training
question is of no use for a held-out one; it has to search.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from cib_rl.fiction import names

PROFESSIONS = ("painter", "poet", "composer", "sculptor", "novelist", "architect", "botanist", "physician")
KINDS = ("novel", "poem", "opera", "painting", "play", "song")


@dataclass(frozen=True)
class Place:
    """A town."""

    name: str
    country: str
    river: str


@dataclass(frozen=True)
class Person:
    """Somebody born in a town; `held_out`: asked about in held-out questions only."""

    name: str
    profession: str
    born: int
    birthplace: Place
    held_out: bool


@dataclass(frozen=True)
class Work:
    """What a person made; on its author's side of the split."""

    title: str
    kind: str
    author: Person
    year: int

    @property
    def held_out(self) -> bool:
        return self.author.held_out


@dataclass(frozen=True)
class World:
    """What there is, in a fixed order."""

    places: tuple[Place, ...]
    people: tuple[Person, ...]
    works: tuple[Work, ...]

    def documents(self) -> list[dict[str, str]]:
        """One passage of each: rows `{id, title, text}` of a corpus; the id is the title."""
        rows = [(p.name, f"a town in {p.country} on the river {p.river}.") for p in self.places]
        rows += [(p.name, f"{p.profession}, born in {p.born} in {p.birthplace.name}.") for p in self.people]
        rows += [(w.title, f"{w.kind} of {w.year} by {w.author.name}.") for w in self.works]
        return [{"id": title, "title": title, "text": text} for title, text in rows]

    def write(self, path: Path) -> Path:
        """Write the documents as a corpus in JSON Lines; returns the path."""
        path.write_text("".join(json.dumps(row) + "\n" for row in self.documents()), encoding="utf-8")
        return path


def make_world(seed: int, people: int = 400, places: int = 40, works: int = 400) -> World:
    """The world of `seed`; works are spread over the people at random, so that some have none.

    Raises ValueError for more people, places or works than there are names.
    """
    rng = random.Random(f"world-{seed}")
    towns = tuple(
        Place(name, rng.choice(names.COUNTRIES), rng.choice(names.RIVERS))
        for name in _some(list(names.TOWNS), places, rng, "places")
    )
    full = [f"{first} {last}" for first, last in product(names.FIRST, names.LAST)]
    folk = tuple(
        Person(name, rng.choice(PROFESSIONS), rng.randint(1500, 1899), rng.choice(towns), held_out=i % 2 == 1)
        for i, name in enumerate(_some(full, people, rng, "people"))
    )
    titles = [f"The {how} {what}" for how, what in product(names.ADJECTIVES, names.NOUNS)]
    made = []
    for title in _some(titles, works, rng, "works"):
        author = rng.choice(folk)
        made.append(Work(title, rng.choice(KINDS), author, author.born + rng.randint(20, 70)))
    return World(towns, folk, tuple(made))


def _some(pool: list[str], count: int, rng: random.Random, what: str) -> list[str]:
    if count > len(pool):
        raise ValueError(f"fiction: {count} {what} were asked for, there are names for {len(pool)}")
    return rng.sample(pool, count)
