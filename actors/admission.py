"""Which requests may use a device's cache: as many as fit together, in the order they came.

A request is counted with what it needs when it is as long as it may become, though its memory is
taken only as it is written: so an admitted request can always go on to the end. One that does not
fit now waits for others to end; one that never will is refused, with the figures. At a draft none
waits: there a request that does not fit now is refused as well, and goes on without a draft.

May import: decoding, actors.runners.interface.
Must never: take memory.
"""

from __future__ import annotations

import math
from typing import Final, final

from pearl.actors.runners.interface import Runner
from pearl.decoding.errors import PlacementError

SHARE: Final = 0.9
"""Of what there is; the rest is for activations, and for other users of the device."""


@final
class Admission:
    """The requests of one device, admitted and waiting.

    Args:
        runner: whose cache it is.
        waits: whether a request may wait for others to end.
    """

    def __init__(self, runner: Runner, *, waits: bool) -> None:
        self._runner = runner
        self._waits = waits
        self._needs: dict[int, int] = {}  # bytes, of those that were admitted
        self.waiting: dict[int, int] = {}
        """Positions of those that may not use the cache yet, in the order they came."""

    def ask(self, request: int, length: int) -> None:
        """A request came that may become so long.

        Raises:
            PlacementError: it would not fit if it were alone; where none may wait, it does not now.
        """
        needed, most = self._room(length)
        others = 0 if self._waits else sum(self._needs.values())
        if others + needed > most:
            raise PlacementError(_too_much(length, needed, most - others))
        if self._waits:
            self.waiting[request] = length
            self._admit_next()
        else:
            self._needs[request] = needed

    def leave(self, request: int) -> None:
        """A request has ended, or was never here."""
        self.waiting.pop(request, None)
        self._needs.pop(request, None)
        self._admit_next()

    def _admit_next(self) -> None:
        """Admit from the head of the line: a long one is not overtaken for ever by short ones."""
        while self.waiting:
            request, length = next(iter(self.waiting.items()))
            needed, most = self._room(length)
            # Where it is the only one left it may try: memory that others took may come back.
            if self._needs and sum(self._needs.values()) + needed > most:
                return
            del self.waiting[request]
            self._needs[request] = needed

    def _room(self, length: int) -> tuple[int, float]:
        """What a text of this length needs, and what all texts together can have."""
        room = self._runner.room(length)
        most = math.inf if room.free is None else SHARE * (room.used + room.free)
        return room.needed, most


def _too_much(length: int, needed: int, most: float) -> str:
    return (
        f"a text of {length} positions needs {needed / 1e6:.0f} MB of cache, and there are "
        f"{most / 1e6:.0f} MB for it; ask for fewer tokens, or shorten the prompt"
    )
