"""A key-value cache with one length per row, for transformers models: no padding on the left, no copies per step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class _Layer(CacheLayerMixin):
    """Keys and values of one layer: (rows, heads, positions, channels), of which the first `active` rows are in use.

    Unused positions are finite at all times (zeros or old entries): a masked NaN would still poison the attention.
    """

    is_sliding = False

    def __init__(self, cache: RowCache) -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        rows, positions = self._cache.rows, self._cache.positions
        self.keys = key_states.new_zeros(rows, key_states.shape[1], positions, key_states.shape[3])
        self.values = value_states.new_zeros(rows, value_states.shape[1], positions, value_states.shape[3])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        cache = self._cache
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        if cache.prefill_rows is not None:
            # A fresh context: the model attends within what it was given, each row to its own tokens only.
            width = key_states.shape[2]
            self.keys[cache.prefill_rows, :, :width] = key_states[cache.prefill_source].to(self.keys.dtype)
            self.values[cache.prefill_rows, :, :width] = value_states[cache.prefill_source].to(self.values.dtype)
            return key_states, value_states
        for buffer, states in ((self.keys, key_states), (self.values, value_states)):
            heads, positions, channels = buffer.shape[1:]
            index_N = cache.flat_index(heads, positions)
            buffer.view(-1, channels).index_copy_(0, index_N, states.reshape(-1, channels).to(buffer.dtype))
        n, longest = key_states.shape[0], cache.longest
        return self.keys[:n, :, :longest], self.values[:n, :, :longest]

    def resize(self, rows: int, positions: int) -> None:
        """Room for more rows or positions; what is held stays."""
        if self.keys is None or self.values is None:
            return
        held_rows, held_positions = self.keys.shape[0], self.keys.shape[2]
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros(rows, old.shape[1], positions, old.shape[3])
            new[:held_rows, :, :held_positions] = old
            setattr(self, name, new)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return (query_length if self._cache.prefill_rows is not None else self._cache.longest), 0

    def get_seq_length(self) -> int:
        return 0 if self._cache.prefill_rows is not None else self._cache.longest - 1

    def get_max_length(self) -> int:
        return -1


class RowCache(Cache):
    """One `_Layer` per layer of the model. Row i holds `lengths[i]` tokens at positions 0 .. lengths[i] - 1."""

    def __init__(self, num_layers: int, device: torch.device) -> None:
        self._own = [_Layer(self) for _ in range(num_layers)]
        super().__init__(layers=list(self._own))
        self.device = device
        self.rows = 0
        self.positions = 0
        self.longest = 0  # positions the model sees in this decode step
        self.prefill_rows: torch.Tensor | None = None
        self.prefill_source: torch.Tensor | None = None
        self._where: torch.Tensor | None = None  # (B,) position that each active row writes in this step
        self._flat: dict[tuple[int, int], torch.Tensor] = {}

    def reserve(self, rows: int, positions: int) -> None:
        """Make room for so many rows and positions, at least doubling what has to grow."""
        if rows <= self.rows and positions <= self.positions:
            return
        new_rows = max(rows, 2 * self.rows) if rows > self.rows else self.rows
        new_positions = max(positions, 2 * self.positions) if positions > self.positions else self.positions
        for layer in self._own:
            layer.resize(new_rows, new_positions)
        self.rows, self.positions = new_rows, new_positions

    def begin_prefill(self, rows: Sequence[int], source: Sequence[int]) -> None:
        """The next forward pass fills row `rows[k]` from sequence `source[k]` of its batch."""
        self.prefill_rows = torch.tensor(rows, device=self.device)
        self.prefill_source = torch.tensor(source, device=self.device)

    def begin_step(self, lengths_B: torch.Tensor, longest: int) -> None:
        """The next forward pass adds one token to each of the first B rows, at position `lengths_B[row]`."""
        self.prefill_rows = self.prefill_source = None
        self._where, self.longest = lengths_B, longest
        self._flat.clear()

    def flat_index(self, heads: int, positions: int) -> torch.Tensor:
        """Where the new entries go in a buffer seen as (rows * heads * positions, channels). Shape (B * heads,)."""
        key = (heads, positions)
        if key not in self._flat:
            assert self._where is not None
            n = self._where.shape[0]
            first_NH = torch.arange(n * heads, device=self.device).view(n, heads) * positions
            self._flat[key] = (first_NH + self._where[:, None]).reshape(-1)
        return self._flat[key]

    def move(self, source: Sequence[int], target: Sequence[int]) -> None:
        """Copy rows `source` onto rows `target`."""
        source_index = torch.tensor(source, device=self.device)
        target_index = torch.tensor(target, device=self.device)
        for layer in self._own:
            if layer.keys is not None and layer.values is not None:
                for buffer in (layer.keys, layer.values):
                    buffer[target_index, :, : self.longest] = buffer[source_index, :, : self.longest]

    def clear_rows(self, rows: Sequence[int]) -> None:
        """Zero these rows (after one held numbers that are not finite)."""
        for layer in self._own:
            for buffer in (layer.keys, layer.values):
                if buffer is not None:
                    buffer[list(rows)] = 0

    def release(self) -> None:
        """Give the memory back."""
        for layer in self._own:
            layer.keys = layer.values = None
            layer.is_initialized = False
        self.rows = self.positions = self.longest = 0
        self._where = None
        self._flat.clear()
