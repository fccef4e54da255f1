"""The compute threads of a target: its share of the cores, or all while the draft rests.

Theory of operation. While a draft writes, nothing else may run on its core: two threads of a pass,
one of which waits for a core, make the pass several times as long. So passes beside a draft are
computed by the target's own threads. While every job of a turn says that no draft is at work
(`Judge.alone`), more threads may be of use. Whether they are depends on the model (one that fits a
cache is slower with them), so it is measured in the loop itself: as long as it is not known for
passes of a size, passes that are alone take turns, a few with each number of threads, and then the
fastest number is kept. Passes of 1, of 2 to 3, of 4 to 7 tokens and so on are told apart.

OpenMP's threads stay where the thread that first asks for them is allowed to be. So the threads
beyond the share are started from the cores that are lent, and going back and forth afterwards costs
some microseconds.

May import: torch, actors.runners.interface, actors.threads.
Must never: know why a pass is alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final, final

import torch
from torch import Tensor

from pearl.actors.runners.interface import Feed, Room, Runner, RunnerStatistics
from pearl.actors.threads import starting_on

PASSES: Final = 5
"""Of a size in a row with a number of threads; the first of them is not counted."""
TURNS: Final = 2
"""That each number of threads has."""
WORTH: Final = 0.97
"""Of the time with fewer threads: more of them are kept for less."""
SLOWER: Final = 1.5
"""Times what the kept number took: so many passes in a row that take longer begin a new trial."""
SLOW_PASSES: Final = 8
GRAIN: Final = 1 << 15
"""Numbers that torch leaves to one thread."""


@final
class Team:
    """The compute threads of the calling thread: those beyond its share are on lent cores."""

    def __init__(self, share: int, lent: list[int]) -> None:
        self._lent = lent
        self._size = self._started = share
        torch.set_num_threads(share)

    def resize(self, size: int) -> None:
        """Compute with so many threads from now on."""
        if size == self._size:
            return
        torch.set_num_threads(size)
        self._size = size
        if size > self._started and self._lent:
            with starting_on(self._lent):
                torch.ones(size * GRAIN)
        if size > 1:  # a smaller team ends threads, but one thread is no team: the others wait
            self._started = size


@final
class Trial:
    """Which number of threads is the fastest for passes of a size.

    Another program on the same cores can make a pass with more threads several times as long as one
    with fewer: when passes have become so slow, it is tried anew.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._blocks = [size for _ in range(TURNS) for size in sorted(sizes)]
        self._passes = self._slow = 0
        self._expected = 0.0
        self._kept: int | None = None
        self._begin()

    @property
    def size(self) -> int:
        """What the next pass is to be computed with."""
        return self._blocks[self._passes // PASSES] if self._kept is None else self._kept

    def note(self, seconds: float) -> None:
        """A pass of `size` threads took so long."""
        if self._kept is None:
            if self._passes % PASSES:
                self._seconds[self.size].append(seconds)
            self._passes += 1
            if self._passes == len(self._blocks) * PASSES:
                self._choose()
        else:
            self._slow = self._slow + 1 if seconds > SLOWER * self._expected else 0
            if self._slow == SLOW_PASSES:
                self._begin()

    def _begin(self) -> None:
        self._kept = None
        self._passes = self._slow = 0
        self._seconds: dict[int, list[float]] = {size: [] for size in self._blocks}

    def _choose(self) -> None:
        middles = {size: statistics.median(found) for size, found in self._seconds.items()}
        best = self._blocks[0]
        for size in self._blocks:
            if middles[size] < WORTH * middles[best]:
                best = size
        self._kept, self._expected = best, middles[best]


@final
class TeamRunner:
    """A runner whose passes are computed by its share of threads or, alone, by the best number."""

    def __init__(
        self,
        runner: Runner,
        share: int,
        sizes: Sequence[int],
        resize: Callable[[int], None],
        clock: Callable[[], float] = time.perf_counter,
        *,
        alone: bool = False,
    ) -> None:
        """Wrap a runner.

        Args:
            share: threads beside another device.
            sizes: numbers of threads to try while alone.
            resize: takes so many threads.
            clock: seconds.
            alone: whether passes are alone until something else is said.
        """
        self._runner, self._share, self._sizes = runner, share, sizes
        self._resize, self._clock = resize, clock
        self._trials: dict[int, Trial] = {}
        self._alone = alone

    def may_take_all(self, alone: bool) -> None:  # noqa: FBT001 - it is all that is said
        """Whether the passes from now on are alone on all cores."""
        self._alone = alone

    @property
    def vocab_size(self) -> int:
        return self._runner.vocab_size

    @property
    def positions(self) -> int:
        return self._runner.positions

    def allocate(self, length: int) -> int:
        return self._runner.allocate(length)

    def release(self, row: int) -> None:
        """As the model's."""
        self._runner.release(row)

    def room(self, length: int) -> Room:
        return self._runner.room(length)

    def statistics(self) -> RunnerStatistics:
        return self._runner.statistics()

    def forward(self, feeds: Sequence[Feed]) -> list[Tensor]:
        """Read the feeds with as many threads as are right for them."""
        if not self._alone:
            self._resize(self._share)
            return self._runner.forward(feeds)
        tokens = sum(len(feed.tokens) for feed in feeds).bit_length()
        trial = self._trials.setdefault(tokens, Trial(self._sizes))
        self._resize(trial.size)
        began = self._clock()
        logits = self._runner.forward(feeds)
        trial.note(self._clock() - began)
        return logits
