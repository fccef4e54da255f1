"""Toy models that say what the virtual devices' texts say, and whose forwards take virtual time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, final

import numpy as np

from pearl.actors.runners.interface import Feed
from pearl.simulator.acceptance import Text
from pearl.simulator.costs import Clock
from tests.actors.toys import ToyRunner
from tests.decoding.toys import Logits, Model, Prefix

SURE: Final = np.array([[0.0, -1e9], [-1e9, 0.0]])
"""Logits of a model that says 0, and of one that says 1."""


Forward: TypeAlias = tuple[int, int, int]
"""Tokens of the longest row, rows, context of the longest row."""


@final
class FakeClock:
    """Stands still until somebody says otherwise."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


Cost: TypeAlias = Callable[[int, int, int], float]


def cost(tokens: int, rows: int, context: int) -> float:
    """Seconds of a forward: no two kinds of forward take the same; sums of them are exact."""
    return 1 + tokens / 8 + rows / 64 + context / 1024


def clock(seconds: Cost) -> Clock:
    """A virtual device's clock, to which nothing else matters."""
    return lambda tokens, rows, context, _rest, _beside: seconds(tokens, rows, context)


@final
class TimedRunner:
    """A toy runner whose forwards take time on a fake clock, and are noted."""

    def __init__(self, model: Model, clock: FakeClock, seconds: Cost = cost) -> None:
        self.forwards: list[Forward] = []
        self._seconds = seconds
        self._clock = clock
        self._inner = ToyRunner(model, vocab_size=2)
        self.allocate, self.release = self._inner.allocate, self._inner.release
        self.room = self._inner.room
        self.statistics, self.vocab_size, self.positions = self._inner.statistics, 2, 4096

    def forward(self, feeds: Sequence[Feed]) -> list[Any]:
        tokens = max(len(feed.tokens) for feed in feeds)
        context = max(feed.start + len(feed.tokens) for feed in feeds)
        self.forwards.append((tokens, len(feeds), context))
        self._clock.now += self._seconds(*self.forwards[-1])
        return self._inner.forward(feeds)


def says_one(prefix: Prefix) -> Logits:
    """The target, whatever came before."""
    del prefix
    row: Logits = SURE[1]
    return row


@dataclasses.dataclass(slots=True)
class Luck:
    """The texts of some requests, for both kinds of devices.

    Every request has a prompt of its own length, from which a model can tell which one it is: a
    prompt is so many tokens 0, and the text begins with its number in tokens 1 and a 0.
    """

    texts: dict[int, Text]
    prompts: dict[int, int]

    def draft(self, prefix: Prefix) -> Logits:
        """The draft agrees where the text of its request says so."""
        request = prefix.index(0)
        row: Logits = SURE[self.texts[request].window(len(prefix) - self.prompts[request], 1)[0]]
        return row

    def prompt(self, request: int) -> Prefix:
        return (1,) * request + (0,) * (self.prompts[request] - request)
