"""The scheduler's ends of its connections: who is there, and what they may cost.

A stranger (a connection without a hello yet) has `HANDSHAKE_S` for it, and there can be
`MOST_STRANGERS` at once. A peer that does not read is cut off before it fills the memory.

May import: the standard library, decoding.errors, actors.wire.
Must never: decide anything about requests.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, Protocol, cast, final

from pearl.actors.wire import (
    BEAT_S,
    LARGEST_FRAME,
    LARGEST_HELLO,
    MISSED_BEATS,
    AnyPacket,
    Hello,
    ToClient,
    ToDevice,
    Unframer,
    frame,
)
from pearl.decoding.errors import PearlError

if TYPE_CHECKING:
    from collections.abc import Iterable

HANDSHAKE_S: Final = 10.0
MOST_STRANGERS: Final = 64
MOST_UNREAD: Final = 64 << 20
"""Bytes that a peer may leave unread."""


class Listener(Protocol):
    """What is called when something happens on a connection."""

    def dialled(self, peer: Peer) -> None:
        """It began."""

    def take(self, peer: Peer, packet: AnyPacket) -> None:
        """A packet came.

        Raises:
            PearlError: the peer may not say this.
        """

    def hung_up(self, peer: Peer) -> None:
        """It ended."""


@final
class Peer(asyncio.Protocol):
    """The scheduler's end of one connection."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._unframer = Unframer(LARGEST_HELLO)
        self._transport: asyncio.Transport | None = None
        self.hello: Hello | None = None
        self.heard = time.monotonic()
        """When it last said something."""
        self.has_worked = False
        """Of a device: whether its model was loaded. Until then it may have no time to say much."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A peer dialled in."""
        self._transport = cast("asyncio.Transport", transport)
        self._listener.dialled(self)

    def data_received(self, data: bytes) -> None:
        """Something came; a peer that does not speak the protocol is cut off."""
        self.heard = time.monotonic()
        try:
            for packet in self._unframer.feed(data):
                self._listener.take(self, packet)
        except PearlError:
            self.close()

    def welcome(self, hello: Hello) -> None:
        """Remember who this is."""
        self.hello = hello
        self._unframer.largest = LARGEST_FRAME

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the end is news enough
        """The connection ended, by whichever side."""
        self._listener.hung_up(self)

    def send(self, packets: Iterable[ToDevice | ToClient]) -> None:
        """Send packets as one piece; to a peer that is gone they are lost."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(map(frame, packets)))

    def is_late(self, now: float) -> bool:
        """Whether it has been silent for longer than it may be."""
        silent = now - self.heard
        if self.hello is None:
            return silent > HANDSHAKE_S
        return self.hello.beats and silent > BEAT_S * MISSED_BEATS

    def is_flooded(self) -> bool:
        """Whether it leaves too much unread."""
        return self._transport is not None and self._transport.get_write_buffer_size() > MOST_UNREAD

    def close(self) -> None:
        """Hang up when what was sent is through."""
        if self._transport is not None:
            self._transport.close()

    def cut(self) -> None:
        """Hang up at once."""
        if self._transport is not None:
            self._transport.abort()
