"""A key-value cache of many rows, each written at its own positions.

On each shelf (`shelves`) one buffer of keys and one of values per layer, (rows, heads, length,
width). A pass sees a contiguous range of rows as a view, cut to the positions in use; nothing is
copied but the new keys and values. To roll a row back is to write it again from an earlier
position: what lies beyond is hidden by the mask and later overwritten.

A pass is announced by a `Passage`, which every layer reads when the model hands it its new keys and
values. There are two: one row, written by a slice (the hot path), and a range of rows, written by
an index.

May import: torch, transformers.
Must never: decide which rows a pass reads, or make masks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from pearl.actors.runners.memory import Buffer


@final
@dataclasses.dataclass(slots=True)
class Passage:
    """Where the pass under way reads and writes; one object, shared by all layers, set per pass."""

    shelf: int = 0
    first: int = 0
    """First row of the range."""
    rows: int = 1
    start: int = 0
    """One row only: the position of its first new token."""
    used: int = 0
    """Positions that attention sees, the new tokens included."""
    write: tuple[Tensor, Tensor] | None = None
    """Many rows only: row (rows, 1) and position (rows, tokens) of each new token."""


class ShelfSize(NamedTuple):
    """Rows of a shelf, and positions of each."""

    rows: int
    length: int
    mapped: bool


class LayerBuffers(NamedTuple):
    """One layer's keys and values on one shelf."""

    keys: Buffer
    values: Buffer


@final
class RowLayer(CacheLayerMixin):
    """One layer's keys and values."""

    keys: Any = None
    values: Any = None

    def __init__(self, passage: Passage, rooms: dict[int, ShelfSize]) -> None:
        super().__init__()
        self._passage = passage
        self._rooms = rooms
        self._like: tuple[Tensor, Tensor] | None = None  # (0, heads, 0, width) of the first pass
        self._held: dict[int, LayerBuffers] = {}
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}  # (rows, heads, length, width)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make the buffers: only the first keys and values tell heads, width and dtype."""
        self._like = key_states[:0, :, :0], value_states[:0, :, :0]
        for shelf in self._rooms:
            self.open(shelf)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new keys and values (rows, heads, tokens, width), return all that count."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        at = self._passage
        all_keys, all_values = self._seen[at.shelf]
        keys = all_keys.narrow(0, at.first, at.rows)
        values = all_values.narrow(0, at.first, at.rows)
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

    def open(self, shelf: int, kept: Sequence[int] = ()) -> None:
        """Have the rows of a shelf; of each that was there, keep the first positions."""
        if self._like is None:
            return
        old, room = self._held.get(shelf), self._rooms[shelf]
        new = LayerBuffers(*(_buffer(like, room) for like in self._like))
        for buffer, before in zip(new, old or (), strict=False):
            buffer.keep(before, kept)
        self._held[shelf] = new
        self._seen[shelf] = new.keys.tensor[0], new.values.tensor[0]

    def close(self, shelf: int) -> None:
        """Give a shelf back."""
        self._held.pop(shelf, None)
        self._seen.pop(shelf, None)

    def clear(self, shelf: int, slot: int, written: int) -> None:
        """Make a row zeros again."""
        for buffer in self._held.get(shelf, ()):
            buffer.clear(slot, written)

    def move(self, source: tuple[int, int], target: tuple[int, int], length: int) -> None:
        """Copy what a row holds to another."""
        if self._like is not None:
            old, new = self._held[source[0]], self._held[target[0]]
            for buffer, before in zip(new, old, strict=True):
                buffer.copy(target[1], before.tensor, source[1], length)

    def drop(self) -> None:
        """Give the buffers back."""
        self._held.clear()
        self._seen.clear()

    @property
    def position_bytes(self) -> int:
        """Memory of one position."""
        return sum(it.shape[1] * it.shape[3] * it.itemsize for it in self._like or ())

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002 - the library's
        """Keys that attention sees, and the position of the first."""
        return self._passage.used, 0

    def get_seq_length(self) -> int:
        """Positions before the new tokens; the model derives from it what it is not given."""
        return self._passage.start

    def get_max_length(self) -> int:
        """No limit that the model should know of."""
        return -1


@final
class RowCache:
    """The layers, what they share, and their shelves.

    `library` is the object to hand to the model as `past_key_values`.
    """

    def __init__(self, layers: Iterable[Any | None]) -> None:
        """Make the layers; no memory is taken yet.

        Args:
            layers: for each layer of the model, None, or what stands in for a layer that stores
                nothing because it reads the keys and values of another.
        """
        self.passage = Passage()
        self._rooms: dict[int, ShelfSize] = {}
        self.library = Cache(
            layers=[RowLayer(self.passage, self._rooms) if it is None else it for it in layers]
        )
        self._layers = [it for it in self.library.layers if isinstance(it, RowLayer)]

    @property
    def position_bytes(self) -> int:
        """Memory of one position of all layers; 0 before the first pass."""
        return sum(layer.position_bytes for layer in self._layers)

    def open(
        self, shelf: int, rows: int, length: int, *, mapped: bool, kept: Sequence[int] = ()
    ) -> None:
        """Have so many rows of so many positions; of each that was there, keep the first.

        One layer after the other, so the peak of growing is one layer more. A failure halfway
        leaves some layers larger than asked, which nothing depends on.
        """
        before = self._rooms.get(shelf)
        self._rooms[shelf] = ShelfSize(rows, length, mapped)
        try:
            for layer in self._layers:
                layer.open(shelf, kept)
        except BaseException:
            if before is None:
                self.close(shelf)
            else:
                self._rooms[shelf] = before
            raise

    def close(self, shelf: int) -> None:
        """Give a shelf back."""
        self._rooms.pop(shelf, None)
        for layer in self._layers:
            layer.close(shelf)

    def clear(self, shelf: int, slot: int, written: int) -> None:
        """Make a row zeros again."""
        with torch.inference_mode():
            for layer in self._layers:
                layer.clear(shelf, slot, written)

    def move(self, source: tuple[int, int], target: tuple[int, int], length: int) -> None:
        """Copy what a row (shelf, slot) holds to another."""
        with torch.inference_mode():
            for layer in self._layers:
                layer.move(source, target, length)

    def drop(self) -> None:
        """Forget everything and give the memory back."""
        for layer in self._layers:
            layer.drop()
        self._rooms.clear()


def _buffer(like: Tensor, room: ShelfSize) -> Buffer:
    shape = (1, room.rows, like.shape[1], room.length, like.shape[3])
    return Buffer(shape, like.dtype, like.device, mapped=room.mapped)
