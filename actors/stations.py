"""What the scheduler knows of one device, and when it gives up on it.

Theory of operation.

  patience   A job may take `STALLED` times what was measured of jobs of its size: a long prompt is
             no stalled device. What was measured is a median, so that one stall does not make the
             next one wait longer. A process that is stopped, or behind a network that is gone, is
             noticed sooner, by its silence (`pearl.actors.peers`).
  blame      Which request killed a device? Those whose jobs were unanswered when it died are
             suspects. When it is back, they have it one by one, until each has had an answer; all
             other requests wait meanwhile. A request that had the device alone when it died is to
             blame, and one that is to blame `MOST_LOSSES` times, without an answer between, does
             not get it any more.

May import: the standard library, actors.peers.
Must never: send anything.
"""

from __future__ import annotations

import statistics
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple, final

if TYPE_CHECKING:
    from pearl.actors.peers import Peer

STALLED: Final = 4.0
"""Times what a job of this size is known to take."""
UNMEASURED_S: Final = 0.05
"""Of a token, as long as nothing was measured."""
SAMPLES: Final = 15
MOST_LOSSES: Final = 3
MOST_STARTS: Final = 3
"""Failed starts in a row, after which a device is not waited for any more."""


class Asked(NamedTuple):
    """A job that is unanswered."""

    since: float
    tokens: int
    """To be read or written for it."""


@final
class Station:
    """One device: `usable` from the moment it says it can work until it is lost."""

    def __init__(self) -> None:
        self.peer: Peer | None = None
        self.usable = False
        self.lost_at = 0.0
        self.losses = 0
        self.starts = 0
        """Times it dialled in."""
        self.failed_starts = 0
        """The last ones in a row."""
        self.fault: str | None = None
        self.slower = ""
        self.read = 0.0
        """Share of its weights that it has read; of one that can work it says nothing."""
        self.suspects: list[int] = []
        """Requests of which one may have killed it; the first has it alone."""
        self.suspect_since = 0.0
        """When the first of them was given it."""
        self.asked: list[int] = []
        """Requests whose jobs were unanswered when it was lost, until it is back."""
        self.answered_at = 0.0
        """When it last did what was wanted."""
        self._seconds_of_a_token: deque[float] = deque(maxlen=SAMPLES)

    @property
    def dead(self) -> bool:
        """Whether it has failed to start so often that it is not waited for."""
        return not self.usable and self.failed_starts >= MOST_STARTS

    @property
    def restarts(self) -> int:
        """Times it dialled in again."""
        return max(0, self.starts - 1)

    def serves(self, request: int) -> bool:
        """Whether a request may have it now."""
        return self.usable and (not self.suspects or self.suspects[0] == request)

    def observe(self, asked: Asked, seconds: float, now: float) -> None:
        """A job was answered."""
        self.answered_at = now
        self._seconds_of_a_token.append(seconds / max(1, asked.tokens))

    def patience(self, tokens: int) -> float:
        """Seconds to wait while jobs of so many tokens in all are unanswered."""
        known = self._seconds_of_a_token
        return STALLED * tokens * (statistics.median(known) if known else UNMEASURED_S)

    def regained(self) -> None:
        """It can work."""
        self.usable, self.failed_starts, self.fault = True, 0, None
        self.asked.clear()

    def failed_to_start(self) -> None:
        """It ended before it could work."""
        self.failed_starts += 1
