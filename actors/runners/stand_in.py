"""Stand-ins for models: a text that is known beforehand, and passes that take a given time.

They measure the machinery alone. A `ScriptedRunner` lets any runner work and then says what the
script says; `TimedRunner` is one that works by waiting. So a pair of stand-ins decodes at the speed
of its devices, with the acceptance that was asked for, and every schedule must write the script: a
pair with random weights has the speed of a trained one of its shape, and the same script.

May import: torch, decoding, actors.scripts.
Must never: look at what the runner it wraps computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, final

import torch
from torch import Tensor

from pearl.actors.runners.interface import Feed, Room, Runner, RunnerStatistics
from pearl.actors.scripts import POSITIONS, PROMPT_TOKENS, Script
from pearl.decoding.errors import PromptError
from pearl.decoding.messages import Role

CERTAIN: Final = 100.0
"""Logit of the scripted token over the others: at temperature 1 nothing else is ever drawn."""
SPIN_S: Final = 3e-4
"""A sleeping thread wakes up late; the end of a pass is waited for awake."""


@final
class ScriptedRunner:
    """A runner whose work counts and whose logits do not."""

    def __init__(self, inner: Runner, script: Script, role: Role) -> None:
        """Wrap `inner`; the target writes the script, the draft guesses."""
        self._inner = inner
        self._say = script.token if role is Role.TARGET else script.guess
        self._prompts: dict[int, tuple[int, ...]] = {}
        self._certain = CERTAIN * torch.eye(script.vocabulary)
        self.vocab_size = script.vocabulary

    @property
    def positions(self) -> int:
        return self._inner.positions

    def allocate(self, length: int) -> int:
        """A row of the runner."""
        return self._inner.allocate(length)

    def release(self, row: int) -> None:
        """Give it back."""
        self._prompts.pop(row, None)
        self._inner.release(row)

    def room(self, length: int) -> Room:
        return self._inner.room(length)

    def statistics(self) -> RunnerStatistics:
        return self._inner.statistics()

    def forward(self, feeds: Sequence[Feed]) -> list[Tensor]:
        """The runner's pass, and the script's logits."""
        for logits in self._inner.forward(feeds)[-1:]:
            float(logits[:, :1].sum())  # on a GPU the pass is only begun; to read is to wait for it
        return [self._rows(feed) for feed in feeds]

    def _rows(self, feed: Feed) -> Tensor:
        if feed.start == 0:
            self._prompts[feed.row] = tuple(feed.tokens[:PROMPT_TOKENS])
        prompt = self._prompts[feed.row]
        end = feed.start + len(feed.tokens)
        places = range(end - feed.logits + 1, end + 1)  # the row of a position speaks of the next
        return self._certain[[self._say(prompt, place) for place in places]]


@final
class TimedRunner:
    """A pass takes its time, whatever is read; nothing is computed."""

    vocab_size = 0
    positions = POSITIONS

    def __init__(self, seconds: Callable[[Sequence[Feed]], float]) -> None:
        """Make a pass over feeds take so long."""
        self._seconds = seconds
        self._rows: set[int] = set()
        self._passes = self._tokens = 0

    def allocate(self, length: int) -> int:
        """The lowest free row."""
        if length > self.positions:
            message = f"{length} positions asked for; a timed device holds {self.positions}"
            raise PromptError(message)
        row = next(row for row in range(len(self._rows) + 1) if row not in self._rows)
        self._rows.add(row)
        return row

    def release(self, row: int) -> None:
        """Give it back."""
        self._rows.remove(row)

    def room(self, length: int) -> Room:  # noqa: ARG002 - the protocol's
        """There is no cache."""
        return Room(needed=0, used=0, free=None)

    def forward(self, feeds: Sequence[Feed]) -> list[Tensor]:
        """Wait."""
        seconds = self._seconds(feeds)
        until = time.perf_counter() + seconds
        time.sleep(max(0.0, seconds - SPIN_S))
        while time.perf_counter() < until:
            pass
        self._passes += 1
        self._tokens += sum(len(feed.tokens) for feed in feeds)
        return []

    def statistics(self) -> RunnerStatistics:
        """What was done; there is no cache."""
        return RunnerStatistics(
            passes=self._passes,
            tokens=self._tokens,
            padding=0,
            rows=len(self._rows),
            cache_bytes=0,
        )
