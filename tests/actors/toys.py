"""Doubles for the parts that need torch or Ray: a toy runner, and toy devices that dial in.

A `ToyRunner` is a runner over a pure function of the prefix. It refuses whatever the interface
forbids, so a host that feeds it wrongly fails where it does so. A `ToyDevice` is a real host over
such a runner, with a real connection, in the event loop of the test: it can be paused between two
turns and can die between any two.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any, Final, cast, final

import numpy as np

from pearl.actors.hosts import Host, draft_host, target_host
from pearl.actors.runners.interface import Feed, Room, RunnerStatistics
from pearl.actors.wire import (
    Address,
    Alive,
    DeviceFailed,
    FromDevice,
    Hello,
    ToDevice,
    Unframer,
    frame,
)
from pearl.decoding.errors import PeerError
from pearl.decoding.messages import DRAFT, Device, TokenId
from pearl.decoding.sampling import Sampling
from pearl.decoding.verification import make_verifier
from tests.decoding.toys import Model, Prefix

CHUNK: Final = 1 << 16


@final
class ToyRunner:
    """`Runner` over a pure function from prefixes to logits."""

    def __init__(self, model: Model, *, vocab_size: int = 8, positions: int = 4096) -> None:
        self.vocab_size = vocab_size
        self.positions = positions
        self.forwards: list[tuple[Feed, ...]] = []
        self._model = model
        self._rows: dict[int, list[TokenId]] = {}
        self._capacity: dict[int, int] = {}

    @property
    def rows(self) -> int:
        """Rows in use."""
        return len(self._rows)

    @property
    def fed(self) -> list[int]:
        """Tokens read in each forward so far."""
        return [sum(len(feed.tokens) for feed in feeds) for feeds in self.forwards]

    def allocate(self, length: int) -> int:
        assert length <= self.positions
        row = next(row for row in range(len(self._rows) + 1) if row not in self._rows)
        self._rows[row], self._capacity[row] = [], length
        return row

    def release(self, row: int) -> None:
        del self._rows[row]

    def room(self, length: int) -> Room:
        return Room(needed=length, used=sum(map(len, self._rows.values())), free=None)

    def forward(self, feeds: Sequence[Feed]) -> list[Any]:
        assert feeds, "a forward over nothing is a wasted pass"
        assert len({feed.row for feed in feeds}) == len(feeds), "a row is fed twice"
        for feed in feeds:
            held = self._rows[feed.row]
            assert 0 <= feed.start <= len(held), f"{feed} leaves a hole after {len(held)} tokens"
            assert 0 <= feed.logits <= len(feed.tokens) > 0, f"{feed} asks for too much"
            assert all(0 <= token < self.vocab_size for token in feed.tokens), f"{feed}: no token"
            held[feed.start :] = feed.tokens
            assert len(held) <= self._capacity[feed.row], f"{feed} is beyond what was allocated"
        self.forwards.append(tuple(feeds))
        return [self._logits(feed) for feed in feeds]

    def statistics(self) -> RunnerStatistics:
        return RunnerStatistics(
            passes=len(self.forwards),
            tokens=sum(self.fed),
            padding=0,
            rows=self.rows,
            cache_bytes=0,
        )

    def _logits(self, feed: Feed) -> Any:
        held = self._rows[feed.row]
        ends = range(len(held) - feed.logits + 1, len(held) + 1)
        rows = [self._model(tuple(held[:end])) for end in ends]
        return np.array(rows, dtype=np.float32).reshape(feed.logits, self.vocab_size)


def alone(
    model: Model,
    prompt: Prefix,
    count: int,
    *,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> tuple[TokenId, ...]:
    """The reference: `count` tokens after `prompt`, one at a time, from the target alone."""
    sampling = sampling or Sampling()
    name = "coupled" if sampling.temperature else "greedy"
    verifier = make_verifier(name, sampling, seed)
    text = prompt
    for position in range(count):
        logits = np.array(model(text), dtype=np.float32)[None, :]
        text += verifier.draft(logits, position).tokens
    return text[len(prompt) :]


@final
class ToyDevice:
    """A device of the test's own event loop, over the real wire.

    Args:
        role: draft or target.
        runner: what it computes with.
        pause_after: turns after which it stops to work, and to read, until `resume`.
        die_after: turns after which it hangs up.
        beats: whether it says that it will say that it lives; it never does.
    """

    def __init__(
        self,
        role: Device,
        runner: ToyRunner,
        *,
        pause_after: int | None = None,
        die_after: int | None = None,
        beats: bool = False,
    ) -> None:
        self.role = role
        self._beats = beats
        self.runner = runner
        self.turns = 0
        self._host: Host = draft_host(runner) if role == DRAFT else target_host(runner)
        self._pause_after = pause_after
        self._die_after = die_after
        self._working = asyncio.Event()
        self._working.set()
        self._writer: asyncio.StreamWriter
        self._serving: asyncio.Task[None]

    async def dial(self, address: Address, *, ready: bool = True) -> ToyDevice:
        """Connect, say hello and work; with `ready` off, as if the model were still loading."""
        reader, self._writer = await asyncio.open_connection(address.host, address.port)
        process = os.getpid()
        self._send([
            Hello(secret=address.secret, device=self.role, process=process, beats=self._beats)
        ])  # fmt: skip
        if ready:
            self.ready()
        self._serving = asyncio.create_task(self._serve(reader))
        return self

    def ready(self) -> None:
        """Say that the model is loaded."""
        self._send([Alive()])

    @property
    def paused(self) -> bool:
        """Whether it has stopped to work."""
        return not self._working.is_set()

    def pause(self) -> None:
        """Stop after the turn being taken."""
        self._working.clear()

    def resume(self) -> None:
        """Go on."""
        self._pause_after = None
        self._working.set()

    def fail(self, message: str) -> None:
        """Say what is wrong, and end."""
        self._send([DeviceFailed(message=message)])
        self.die()

    def die(self) -> None:
        """Hang up, as a process does that is killed."""
        self._writer.close()
        self._serving.cancel()

    async def wait_ended(self) -> None:
        """Wait until the scheduler, or the device itself, has hung up."""
        await asyncio.gather(self._serving, return_exceptions=True)
        self._writer.close()

    async def _serve(self, reader: asyncio.StreamReader) -> None:
        unframer = Unframer()
        while data := await reader.read(CHUNK):
            await self._working.wait()
            for packet in unframer.feed(data):
                self._send(self._host.take(cast("ToDevice", packet)))
            while self._host.busy and not self._ends():
                try:
                    self._send(self._host.turn())
                except PeerError as error:
                    return self.fail(str(error))
                self.turns += 1
                await asyncio.sleep(0)
                await self._working.wait()
            if self._ends():
                self._writer.close()
                return None
        return None

    def _ends(self) -> bool:
        if self._pause_after is not None and self.turns >= self._pause_after:
            self.pause()
        return self._die_after is not None and self.turns >= self._die_after

    def _send(self, packets: Sequence[FromDevice]) -> None:
        self._writer.write(b"".join(map(frame, packets)))


async def until(true: Callable[[], bool]) -> None:
    """Let everybody else run until this is true; a test's own deadline ends it."""
    while not true():  # noqa: ASYNC110 - what is waited for is in others' state
        await asyncio.sleep(0)
