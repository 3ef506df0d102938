"""The gold answers of all samples together: are there any, are they of one kind, and has each prompt one?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cib_rl.errors import UserError

if TYPE_CHECKING:
    from cib_rl.samples.fields import Completion


def gold_key(gold: Any) -> str | None:
    """Equal for gold answers that say the same (18 and "18", a list in any order); None where there is none."""
    kind = _kind(gold)
    if kind is None or kind == "text":
        return None if kind is None else str(gold)
    return json.dumps(sorted(map(str, gold)) if kind == "list" else gold, sort_keys=True, default=str)


def with_golds(completions: list[Completion]) -> tuple[list[Completion], str | None]:
    """Those whose row has a gold answer, and in words what was left out. All of them where no row has one: then an
    outcome that needs none can still say what is right."""
    kept = [c for c in completions if _kind(c.task["answer"]) is not None]
    if not kept or len(kept) == len(completions):
        return completions, None
    rows = list(dict.fromkeys(c.where for c in completions if _kind(c.task["answer"]) is None))
    total = len({c.where for c in completions})
    return kept, f"left out: {len(rows):,} of {total:,} rows, which have no gold answer; the first is {_at(rows[0])}"


def other_golds(completions: Sequence[Completion]) -> str | None:
    """In words: which prompts stand with several gold answers, and so for several problems; None where none does."""
    found: dict[str, dict[str, str]] = {}  # prompt -> group -> the first row
    for c in completions:
        if not c.given:
            found.setdefault(repr(c.task["prompt"]), {}).setdefault(c.group, c.where)
    several = [list(places.values()) for places in found.values() if len(places) > 1]
    if not several:
        return None
    first, second = several[0][:2]
    return (
        f"warning: {len(several):,} of {len(found):,} prompts stand with more than one gold answer (the first: "
        f"{_at(first)} and {_at(second)}); a prompt with one of them is one problem, unless a column says which rows "
        "belong together (--columns group=NAME)"
    )


def _at(where: str) -> str:
    """`line 7` of `FILE, line 7`."""
    return where.rpartition(", ")[2]


def kind_of_golds(tasks: Sequence[Mapping[str, Any]], places: Sequence[str]) -> str | None:
    """`text` (texts and numbers), `list`, `object` or `boolean`; None when no row has a gold answer.

    Args:
        tasks: task rows; the gold is `answer`.
        places: what messages call each of them.

    Raises:
        UserError: only some rows have a gold answer, or their kinds differ.
    """
    first: dict[str | None, int] = {}
    for index, task in enumerate(tasks):
        first.setdefault(_kind(task.get("answer")), index)
    if None in first and len(first) > 1:
        missing = [places[i] for i, task in enumerate(tasks) if _kind(task.get("answer")) is None]
        raise UserError(
            f"{missing[0]}: no gold answer, and so in {len(missing)} of {len(tasks)} completions; add it or leave "
            "these rows out"
        )
    if len(first) > 1:
        (one, at), (other, there) = list(first.items())[:2]
        raise UserError(
            f"{places[there]}: the gold answer is {_named(other)}, but {_named(one)} in {places[at]}: write all of "
            "them in one way"
        )
    return next(iter(first), None)


def _kind(gold: Any) -> str | None:
    if gold is None or gold == "" or gold == []:
        return None
    if isinstance(gold, bool):
        return "boolean"
    if isinstance(gold, str | int | float):
        return "text"
    return "list" if isinstance(gold, list | tuple) else "object"


def _named(kind: str | None) -> str:
    return {"text": "a text or a number", "list": "a list", "object": "an object"}.get(str(kind), f"a {kind}")
