"""A key-value cache with one length per row, for transformers models: no padding on the left, no copies per step.

The buffers are dense: the model attends to all positions there are room for, and a mask hides those beyond a row's own
length. Attention over a slice of a larger buffer took two to three times as long on CPUs (its rows are then no
contiguous matrices), so room grows in small steps instead, by a copy each time: at most a sixteenth more than needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

_STEP = 32  # positions; room grows by at least so many


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
        n = key_states.shape[0]
        return self.keys[:n], self.values[:n]

    def resize(self, rows: int, positions: int) -> None:
        """Another number of rows or positions; what fits stays."""
        if self.keys is None or self.values is None:
            return
        kept_rows, kept_positions = min(rows, self.keys.shape[0]), min(positions, self.keys.shape[2])
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros(rows, old.shape[1], positions, old.shape[3])
            new[:kept_rows, :, :kept_positions] = old[:kept_rows, :, :kept_positions]
            setattr(self, name, new)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return (query_length if self._cache.prefill_rows is not None else self._cache.positions), 0

    def get_seq_length(self) -> int:
        return 0 if self._cache.prefill_rows is not None else self._cache.positions - 1

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
        self.prefill_rows: torch.Tensor | None = None
        self.prefill_source: torch.Tensor | None = None
        self._where: torch.Tensor | None = None  # (B,) position that each active row writes in this step
        self._flat: dict[tuple[int, int], torch.Tensor] = {}

    def reserve(self, rows: int, positions: int, most_rows: int) -> None:
        """Make room for so many rows and positions. `rows`: all in use; `most_rows`: how many there can ever be."""
        new_rows, new_positions = self.rows, self.positions
        if positions > self.positions:
            wanted = max(positions, self.positions + self.positions // 16)
            new_positions = -(-wanted // _STEP) * _STEP
            if rows < 0.75 * self.rows:  # everything is copied anyway: leave finished rows behind
                new_rows = rows
        if rows > self.rows:
            new_rows = min(max(rows, self.rows + self.rows // 4), most_rows)
        if (new_rows, new_positions) != (self.rows, self.positions):
            for layer in self._own:
                layer.resize(new_rows, new_positions)
            self.rows, self.positions = new_rows, new_positions

    def begin_prefill(self, rows: Sequence[int], source: Sequence[int]) -> None:
        """The next forward pass fills row `rows[k]` from sequence `source[k]` of its batch."""
        self.prefill_rows = torch.tensor(rows, device=self.device)
        self.prefill_source = torch.tensor(source, device=self.device)

    def begin_step(self, lengths_B: torch.Tensor) -> None:
        """The next forward pass adds one token to each of the first B rows, at position `lengths_B[row]`."""
        self.prefill_rows = self.prefill_source = None
        self._where = lengths_B
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
                    buffer[target_index] = buffer[source_index]

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
        self.rows = self.positions = 0
        self._where = None
        self._flat.clear()
