"""Micro-batches of like length: which sequences share a forward pass, so that little of it is padding.

Everything here works on lengths alone, in tokens. A micro-batch of r rows costs r × (its longest row) *padded* tokens.
Some best split always consists of consecutive runs of the sorted sequences (swapping two rows between micro-batches so
that the longer joins the one with the longer maximum never costs anything), so only such runs are searched. All
results are deterministic: equal lengths keep their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def pack_by_tokens(lengths: Sequence[int], token_budget: int, *, max_rows: int | None = None) -> list[list[int]]:
    """Split sequences into micro-batches of at most `token_budget` padded tokens (and `max_rows` rows).

    No split within these limits has fewer micro-batches, and none with as many has less padding. A sequence longer
    than the budget gets a micro-batch of its own. The longest come first, so that a budget which does not fit into
    memory fails at once.

    Returns lists of indices into `lengths`: each index once, no list empty. Raises ValueError for a budget or a row
    limit below 1 and for a negative length.
    """
    if token_budget < 1 or (max_rows is not None and max_rows < 1):
        raise ValueError(f"token_budget and max_rows must be at least 1, got {token_budget} and {max_rows}")
    return pack_into(lengths, _fewest(lengths, token_budget, max_rows), token_budget=token_budget, max_rows=max_rows)


def _fewest(lengths: Sequence[int], token_budget: int, max_rows: int | None) -> int:
    """How many micro-batches are needed: fill each, longest first, as long as a row fits."""
    count = rows = width = 0
    for length in sorted(lengths, reverse=True):
        if rows == 0 or (rows + 1) * width > token_budget or rows == max_rows:
            count, rows, width = count + 1, 0, length
        rows += 1
    return count


def pack_into(
    lengths: Sequence[int], count: int, *, token_budget: int | None = None, max_rows: int | None = None
) -> list[list[int]]:
    """Split sequences into exactly `count` micro-batches, none empty, with the least padding within the limits.

    For ranks that must run equally many passes: `count` is then the largest `len(pack_by_tokens(...))` of all ranks.
    Give the budget too, or the least padding may put nearly all short sequences into one pass.

    Raises ValueError when `count` exceeds the number of sequences or is too small for the limits.
    """
    if any(length < 0 for length in lengths):
        raise ValueError(f"lengths must not be negative, found {min(lengths)}")
    if not lengths and count == 0:
        return []
    if not 1 <= count <= len(lengths):
        raise ValueError(f"cannot split {len(lengths)} sequences into {count} micro-batches, none of them empty")
    needed = _fewest(lengths, token_budget or 2**62, max_rows)
    if count < needed:
        raise ValueError(f"{len(lengths)} sequences need {needed} micro-batches within the limits, not {count}")
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    bounds = _best_bounds(np.array([lengths[i] for i in order], dtype=np.float64), count, token_budget, max_rows)
    return [order[a:b] for a, b in pairwise(bounds)]


def _best_bounds(falling: np.ndarray, count: int, token_budget: int | None, max_rows: int | None) -> list[int]:
    """Cut points 0 = b_0 < … < b_count = n with the fewest padded tokens. `falling`: (n,) lengths, longest first.

    Dynamic programme: best[k][j] = min over d of best[k-1][j-d] + d · falling[j-d], in one NumPy step per k.
    """
    n = len(falling)
    widest = n if max_rows is None else min(n, max_rows)
    if token_budget is not None and falling[-1] > 0:  # no micro-batch holds more rows than of the shortest sequence
        widest = min(widest, max(1, int(token_budget // falling[-1])))
    rows = np.arange(1, widest + 1)
    before = sliding_window_view(np.concatenate([np.full(widest - 1, np.inf), falling]), widest)[:, ::-1]
    cost = rows * before  # (n, widest): cost[j-1, d-1] of the run of d rows that ends before j
    if token_budget is not None:
        cost = np.where((cost <= token_budget) | (rows == 1), cost, np.inf)
    best = np.concatenate([[0.0], np.full(n, np.inf)])
    choices = []
    for _ in range(count):
        total = cost + sliding_window_view(np.concatenate([np.full(widest - 1, np.inf), best[:-1]]), widest)[:, ::-1]
        choices.append(total.argmin(axis=1))
        best = np.concatenate([[np.inf], total[np.arange(n), choices[-1]]])
    bounds = [n]
    for choice in reversed(choices):
        bounds.append(bounds[-1] - 1 - int(choice[bounds[-1] - 1]))
    return bounds[::-1]


def padded_tokens(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> int:
    """Tokens that the micro-batches hold, padding included."""
    return sum(len(batch) * max(lengths[i] for i in batch) for batch in batches if batch)


def padding_share(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """Share of padding among the tokens of all micro-batches, in [0, 1); 0 when there are none."""
    held = padded_tokens(lengths, batches)
    real = sum(lengths[i] for batch in batches for i in batch)
    return 1 - real / held if held else 0.0
