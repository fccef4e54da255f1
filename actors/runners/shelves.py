"""Which row of the cache belongs to which sequence, and how much of it is in use.

Theory of operation. The cache is a few *shelves*: buffers of rows that are equally long, each shelf
for one class of lengths. A sequence has no place until its first tokens come; then it takes the
lowest free row of the shortest shelf on which they fit, and moves to a longer one when it outgrows
that. A pass reads rows of one shelf, one range of them, as one view.

  mapped   On a CPU under Linux rows take memory only where they are written (`memory`). The first
           shelf is long enough for nearly every text, so all rows share their passes; nothing is
           ever copied, and what a sequence wrote is given back when it ends.
  plain    Elsewhere every row of a shelf is taken as a whole. A long text costs one long row, not
           one for everybody. A shelf of long rows is given back when its last row is free; one of
           short rows stays, for on a GPU recorded passes know its addresses.

Memory is granted in blocks. What a sequence may reach is not taken before it is reached; what
cannot be had is refused before anything is written, and only who asked for it is harmed.

May import: torch, actors.runners.memory.
Must never: run a model, or know what is stored.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol, final

import torch

from pearl.actors.runners import memory
from pearl.decoding.errors import PlacementError, ProtocolError

BLOCK: Final = 128
"""Positions that are granted at once."""
PAGED: Final = 4096
"""Positions; so many of any width are a whole number of pages."""
FIRST_MAPPED: Final = 1 << 17
FIRST_PLAIN: Final = 512
"""Positions of the first shelf; the next is four times as long."""
WIDE: Final = 1 << 22
"""Positions for which a mapped shelf has addresses at first, all its rows together."""
KEPT: Final = 2048
"""Positions. Plain shelves of rows up to this length stay when they are empty."""
ALIGNED: Final = 64
"""Attention kernels of a GPU want the rows of a mask to begin at round addresses."""
LOOK_BYTES: Final = 64 << 20
"""To ask the system what is free takes a while: so much is granted between two looks."""
SPARE_BYTES: Final = 32 << 20
"""What is left to everything else of the process."""


class Store(Protocol):
    """Where keys and values lie: the shelves of a forward."""

    @property
    def position_bytes(self) -> int:
        """Of all layers; 0 before the first pass, which alone tells."""

    def open(
        self, shelf: int, rows: int, length: int, *, mapped: bool, kept: Sequence[int] = ()
    ) -> None:
        """Make a shelf, or give it more rows; of each that was there, keep the first positions."""

    def close(self, shelf: int) -> None:
        """Give a shelf back."""

    def clear(self, shelf: int, slot: int, written: int) -> None:
        """Make a row zeros again, and give its memory back where that is possible."""

    def move(self, source: tuple[int, int], target: tuple[int, int], length: int) -> None:
        """Copy what a row (shelf, slot) holds to another."""

    def drop(self) -> None:
        """Give everything back."""


@final
@dataclasses.dataclass(slots=True, eq=False)
class CacheRow:
    """A sequence: where it lies, and what its row holds."""

    shelf: Shelf | None = None
    slot: int = 0
    held: int = 0
    """Positions that hold keys and values of its text."""
    room: int = 0
    """Positions that may be written without asking."""
    text: list[int] = dataclasses.field(default_factory=list)
    """Where the rotation depends on the length of the text: what was read, and ..."""
    side: int = 0
    """... between which borders the keys were made (`lengths`)."""


@final
class Shelf:
    """Rows of one length."""

    def __init__(self, index: int, length: int, rows: int) -> None:
        self.index, self.length = index, length
        self.users: list[CacheRow | None] = [None] * rows
        self.granted = [0] * rows
        """Of each row the positions that hold memory, or may."""

    def widen(self, rows: int) -> None:
        """Note that there are more rows."""
        more = rows - len(self.users)
        self.users += [None] * more
        self.granted += [0] * more

    @property
    def empty(self) -> bool:
        """Whether no row here is taken."""
        return not any(self.users)

    def free_slot(self) -> int | None:
        """The lowest, so that the rows in use stay close together."""
        return next((slot for slot, user in enumerate(self.users) if user is None), None)

    def touch(self, first: int, rows: int) -> None:
        """Free rows in a range are written at their beginning."""
        for slot in range(first, first + rows):
            if not self.granted[slot]:
                self.granted[slot] = BLOCK

    def left_over(self) -> Iterator[int]:
        """Free rows that are not clean."""
        return (i for i, user in enumerate(self.users) if user is None and self.granted[i])


@final
class Shelves:
    """All rows of a runner."""

    def __init__(
        self,
        store: Store,
        device: torch.device,
        positions: int,
        *,
        mapped: bool,
        moved: Callable[[], None],
    ) -> None:
        """Begin without a shelf.

        Args:
            positions: of the longest sequence.
            mapped: how memory is had; see above.
            moved: called when a shelf is not any more where it was.
        """
        self.store = store
        self.rows: dict[int, CacheRow] = {}
        self._device, self._mapped, self._moved = device, mapped, moved
        self._longest = positions + 1  # what pads a pass is written behind the end of a row
        self._shelves: dict[int, Shelf] = {}
        self._free: list[int] = []
        self._granted_unseen = LOOK_BYTES  # the first grant looks

    @property
    def bytes(self) -> int:
        """Memory of the cache."""
        if self._mapped:
            positions = sum(sum(shelf.granted) for shelf in self._shelves.values())
        else:
            positions = sum(s.length * len(s.users) for s in self._shelves.values())
        return positions * self.store.position_bytes

    def bytes_of(self, length: int) -> int:
        """Memory of a row whose sequence has so many positions."""
        index = self._class_of(length + 1)
        positions = _blocks(length + 1) if self._mapped else self._length(index)
        return positions * self.store.position_bytes

    def take(self) -> int:
        """A sequence begins; the lowest number that is free."""
        number = heapq.heappop(self._free) if self._free else len(self.rows)
        self.rows[number] = CacheRow()
        return number

    def release(self, number: int) -> None:
        """A sequence ended: its row becomes clean, and its memory is given back."""
        row = self.rows.pop(number, None)
        if row is None:
            raise ProtocolError(f"row {number} is not in use; in use are {sorted(self.rows)}")
        heapq.heappush(self._free, number)
        if row.shelf is not None:
            self._leave(row.shelf, row.slot)

    def make_room(self, row: CacheRow, end: int) -> None:
        """Let positions below `end` of a row be written, and one more that pads.

        Raises:
            PlacementError: there is no memory for it; nothing was changed.
        """
        shelf, wanted = row.shelf, _blocks(end + 1)
        if shelf is None or wanted > shelf.length:
            self._move(row, end + 1)
            return
        self._grant(wanted - shelf.granted[row.slot], end)
        shelf.granted[row.slot] = row.room = max(wanted, shelf.granted[row.slot])

    def forget(self) -> None:
        """Everything ended."""
        self._shelves.clear()
        self.rows.clear()
        self._free.clear()
        self.store.drop()
        self._moved()

    def _move(self, row: CacheRow, length: int) -> None:
        """To the shortest shelf that is long enough."""
        index = self._class_of(length)
        shelf, slot = self._slot_of(index)
        wanted = min(_blocks(length), shelf.length)
        self._grant(wanted - shelf.granted[slot], length - 1)
        if row.shelf is not None:
            self.store.move((row.shelf.index, row.slot), (index, slot), row.held)
            self._leave(row.shelf, row.slot)
        row.shelf, row.slot = shelf, slot
        shelf.users[slot] = row
        shelf.granted[slot] = row.room = max(wanted, shelf.granted[slot])

    def _slot_of(self, index: int) -> tuple[Shelf, int]:
        """A free row of a shelf, which is made or widened for it."""
        shelf = self._shelves.get(index)
        slot = shelf.free_slot() if shelf else None
        if shelf is not None and slot is not None:
            return shelf, slot
        length, before = self._length(index), len(shelf.users) if shelf else 0
        rows = 2 * before or (_power(WIDE // length) if self._mapped else 1)
        self._open(index, rows, length, kept=shelf.granted if shelf else ())
        if shelf is None:
            shelf = self._shelves[index] = Shelf(index, length, rows)
        else:
            shelf.widen(rows)
            self._moved()
        return shelf, before

    def _open(self, index: int, rows: int, length: int, kept: Sequence[int]) -> None:
        try:
            self.store.open(index, rows, length, mapped=self._mapped, kept=kept)
        except PlacementError:
            empty = [it for it in self._shelves.values() if it.empty and it.index != index]
            if not empty:
                raise
            for shelf in empty:
                self._close(shelf)
            self.store.open(index, rows, length, mapped=self._mapped, kept=kept)

    def _leave(self, shelf: Shelf, slot: int) -> None:
        shelf.users[slot] = None
        if shelf.empty and not self._mapped and shelf.length > KEPT:
            self._close(shelf)
            return
        for each in list(shelf.left_over()):
            self.store.clear(shelf.index, each, shelf.granted[each])
            shelf.granted[each] = 0

    def _close(self, shelf: Shelf) -> None:
        del self._shelves[shelf.index]
        self.store.close(shelf.index)
        self._moved()

    def _grant(self, positions: int, length: int) -> None:
        """Look, now and then, whether what will be written can be had."""
        wanted = positions * self.store.position_bytes
        if wanted <= 0 or not self._mapped:
            return  # what is plain was taken when its shelf was made
        if self._granted_unseen + wanted > LOOK_BYTES:
            free = max(0, memory.free_bytes(self._device) - SPARE_BYTES)
            if wanted > free:
                raise PlacementError(
                    f"no memory on {self._device} for a sequence of {length} positions: its cache "
                    f"needs {memory.size(wanted)} more, {memory.size(free)} are free, "
                    f"{len(self.rows)} sequences hold {memory.size(self.bytes)}; serve fewer "
                    "requests at once, or shorter ones"
                )
            self._granted_unseen = 0
        self._granted_unseen += wanted

    def _class_of(self, length: int) -> int:
        index = 0
        while self._length(index) < length:
            index += 1
        return index

    def _length(self, index: int) -> int:
        """Of the rows of a shelf."""
        first, step = (FIRST_MAPPED, PAGED) if self._mapped else (FIRST_PLAIN, ALIGNED)
        longest = -(-_blocks(self._longest) // step) * step
        return min(first << 2 * index, longest)


def _power(number: int) -> int:
    """The power of two that is not above a number; 1 at least, as blocks of rows are aligned."""
    return 1 << max(0, number.bit_length() - 1)


def _blocks(positions: int) -> int:
    return -(-positions // BLOCK) * BLOCK
