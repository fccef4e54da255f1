"""A key-value cache of many rows, each written at its own positions.

One buffer per layer, (rows, heads, length, width), grown on demand. A pass sees a contiguous range
of rows as a view, cut to the positions in use; nothing is copied but the new keys and values. To
roll a row back is to write it again from an earlier position: what lies beyond is hidden by the
mask and later overwritten.

A pass is announced by a `Passage`, which every layer reads when the model hands it its new keys and
values. There are two: one row, written by a slice (the hot path), and a range of rows, written by
an index.

May import: torch, transformers.
Must never: decide which rows a pass reads, or make masks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from decoding.errors import PlacementError


@final
@dataclass(slots=True)
class Passage:
    """Where the pass under way reads and writes; one object, shared by all layers, set per pass."""

    first: int = 0
    """First row of the range."""
    rows: int = 1
    start: int = 0
    """One row only: the position of its first new token."""
    used: int = 0
    """Positions that attention sees, the new tokens included."""
    write: tuple[Tensor, Tensor] | None = None
    """Many rows only: row (rows, 1) and position (rows, tokens) of each new token."""


@final
@dataclass(slots=True)
class Capacity:
    """Rows and positions that the buffers have, or get when they are made."""

    rows: int = 0
    length: int = 0


@final
class RowLayer(CacheLayerMixin):
    """One layer's keys and values."""

    keys: Any
    values: Any

    def __init__(self, passage: Passage, capacity: Capacity) -> None:
        super().__init__()
        self._passage = passage
        self._capacity = capacity

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make the buffers: only the first keys and values tell heads, width and dtype."""
        self.keys = self._buffer(key_states)
        self.values = self._buffer(value_states)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new keys and values (rows, heads, tokens, width), return all that count."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        at = self._passage
        keys = self.keys.narrow(0, at.first, at.rows)
        values = self.values.narrow(0, at.first, at.rows)
        if at.write is None:
            tokens = key_states.shape[2]
            keys.narrow(2, at.start, tokens).copy_(key_states)
            values.narrow(2, at.start, tokens).copy_(value_states)
        else:
            # Indices around a slice put their dimensions first: (rows, tokens, heads, width).
            row, position = at.write
            keys[row, :, position] = key_states.transpose(1, 2)
            values[row, :, position] = value_states.transpose(1, 2)
        return keys.narrow(2, 0, at.used), values.narrow(2, 0, at.used)

    def grow(self) -> None:
        """Take the capacity that is wanted now, keeping what is held."""
        if self.is_initialized:
            self.keys = self._grown(self.keys)
            self.values = self._grown(self.values)

    def drop(self) -> None:
        """Give the buffers back."""
        self.keys = self.values = None
        self.is_initialized = False

    @property
    def bytes(self) -> int:
        """Memory of the buffers."""
        return self.keys.nbytes + self.values.nbytes if self.is_initialized else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002 - the library's
        """Keys that attention sees, and the position of the first."""
        return self._passage.used, 0

    def get_seq_length(self) -> int:
        """Positions before the new tokens; the model derives from it what it is not told."""
        return self._passage.start

    def get_max_length(self) -> int:
        """No limit that the model should know of (transformers from 5.16 on)."""
        return -1

    def get_max_cache_shape(self) -> int:
        """The same, under its older name."""
        return -1

    def _buffer(self, like: Tensor) -> Tensor:
        _, heads, _, width = like.shape
        shape = (self._capacity.rows, heads, self._capacity.length, width)
        return zeros(shape, like.dtype, like.device, self._capacity)

    def _grown(self, old: Tensor) -> Tensor:
        rows, _, length, _ = old.shape
        if rows >= self._capacity.rows and length >= self._capacity.length:
            return old
        new = self._buffer(old)
        new[:rows, :, :length] = old
        return new


@final
class RowCache:
    """The layers, what they share, and their growth.

    `library` is the object to hand to the model as `past_key_values`.
    """

    def __init__(self, layers: Iterable[Any | None]) -> None:
        """Make the layers; no memory is taken yet.

        Args:
            layers: for each layer of the model, None, or what stands in for a layer that stores
                nothing because it reads the keys and values of another.
        """
        self.passage = Passage()
        self._capacity = Capacity()
        self.library = Cache(
            layers=[RowLayer(self.passage, self._capacity) if it is None else it for it in layers]
        )
        self._layers = [it for it in self.library.layers if isinstance(it, RowLayer)]

    @property
    def rows(self) -> int:
        """Rows there is room for."""
        return self._capacity.rows

    @property
    def length(self) -> int:
        """Positions there is room for in every row."""
        return self._capacity.length

    @property
    def bytes(self) -> int:
        """Memory of all buffers."""
        return sum(layer.bytes for layer in self._layers)

    def reserve(self, *, rows: int, length: int) -> bool:
        """Have at least so many rows of so many positions; True when that took growing.

        What has to grow doubles, so that growing one by one copies each position about once; what
        is wanted at first is taken exactly. One layer after the other, so the peak is one layer
        more.
        A failure halfway leaves some layers larger than asked, which nothing depends on.
        """
        before = self._capacity.rows, self._capacity.length
        if rows <= before[0] and length <= before[1]:
            return False
        self._capacity.rows = doubled(before[0], rows)
        self._capacity.length = doubled(before[1], length)
        try:
            for layer in self._layers:
                layer.grow()
        except PlacementError:
            self._capacity.rows, self._capacity.length = before
            raise
        return True

    def drop(self) -> None:
        """Forget everything and give the memory back."""
        for layer in self._layers:
            layer.drop()
        self._capacity.rows = self._capacity.length = 0


def doubled(held: int, wanted: int) -> int:
    """The capacity to take when `wanted` is needed and `held` is there."""
    return held if wanted <= held else max(wanted, 2 * held)


def zeros(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, capacity: Capacity
) -> Tensor:
    """A new buffer. Zeros, not empty: hidden positions get weight 0, but 0 times NaN is NaN.

    Raises:
        PlacementError: there is no memory for it.
    """
    try:
        return torch.zeros(shape, dtype=dtype, device=device)
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU raises the plain kind
        raise PlacementError(
            f"no memory on {device} for a cache of {capacity.rows} rows of {capacity.length} "
            "positions; serve fewer requests at once, or shorter ones"
        ) from error
