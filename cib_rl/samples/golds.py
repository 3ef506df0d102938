"""The gold answers of all samples together: are there any, and are they of one kind?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cib_rl.errors import UserError


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
