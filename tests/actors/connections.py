"""A connection that keeps what the scheduler sends, for tests that are the network themselves."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast, final

from pearl.actors.wire import AnyPacket, Unframer


@final
class Wire(asyncio.Transport):
    """A connection's way from the scheduler: its bytes, cut into packets again."""

    def __init__(self) -> None:
        super().__init__()
        self.packets: deque[AnyPacket] = deque()
        self._unframer = Unframer()
        self._closed = False

    def write(self, data: object) -> None:
        self.packets.extend(self._unframer.feed(cast("bytes", data)))

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True

    def abort(self) -> None:
        self._closed = True
