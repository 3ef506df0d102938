"""A part of the samples, the same every time."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def spread_evenly(groups: Sequence[T], limit: int | None) -> list[T]:
    """`limit` of the different groups, evenly spread in their order; all of them without a limit."""
    order = list(dict.fromkeys(groups))
    if limit is None or limit >= len(order):
        return order
    return [order[i * len(order) // limit] for i in range(limit)]
