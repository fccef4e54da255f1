"""The client's end: submit requests to a scheduler, and read what comes back as it comes.

May import: the standard library, decoding, actors.wire.
Must never: know where the scheduler and the devices run, or what a token means.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import TYPE_CHECKING, final

from actors.wire import (
    Abort,
    Address,
    Failed,
    Finished,
    FromClient,
    Hello,
    Submit,
    Tokens,
    Unframer,
    frame,
)
from decoding.errors import PearlError, PeerError

if TYPE_CHECKING:
    from decoding.messages import TokenId
    from decoding.settings import Settings

CHUNK = 1 << 16


@final
class Ticket:
    """One submitted request: its packets arrive here, the last is `Finished` or `Failed`."""

    def __init__(self, client: Client, number: int) -> None:
        self._client = client
        self._number = number
        self._arrived: asyncio.Queue[Tokens | Finished | Failed] = asyncio.Queue()

    def put(self, packet: Tokens | Finished | Failed) -> None:
        """A packet arrived."""
        self._arrived.put_nowait(packet)

    async def next(self) -> Tokens | Finished:
        """The next packet; after `Finished` there is none.

        Raises:
            PeerError: the request failed.
        """
        packet = await self._arrived.get()
        if isinstance(packet, Failed):
            raise PeerError(packet.message)
        return packet

    def abort(self) -> None:
        """Ask for the end; `Finished` follows."""
        self._client.send(Abort(request=self._number))


@final
class Client:
    """A connection to a scheduler."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._tickets: dict[int, Ticket] = {}
        self._numbers = itertools.count(1)
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def dial(cls, address: Address) -> Client:
        """Connect and say hello."""
        reader, writer = await asyncio.open_connection(address.host, address.port)
        client = cls(reader, writer)
        client.send(Hello(secret=address.secret, process=os.getpid()))
        return client

    def submit(
        self,
        prompt: tuple[TokenId, ...],
        settings: Settings,
        *,
        eos: tuple[TokenId, ...] = (),
        trace: bool = False,
    ) -> Ticket:
        """Start a request."""
        number = next(self._numbers)
        ticket = self._tickets[number] = Ticket(self, number)
        submit = Submit(request=number, prompt=prompt, eos=eos, settings=settings, trace=trace)
        self.send(submit)
        if self._listening.done():
            self._fail_all()
        return ticket

    def send(self, packet: FromClient) -> None:
        """Send one packet."""
        self._writer.write(frame(packet))

    async def close(self) -> None:
        """Hang up; requests that still run fail here, and the scheduler forgets them."""
        self._listening.cancel()
        self._writer.close()
        await asyncio.gather(self._listening, return_exceptions=True)

    async def _listen(self) -> None:
        unframer = Unframer()
        try:
            while data := await self._reader.read(CHUNK):
                for packet in unframer.feed(data):
                    self._hand_over(packet)
        except (ConnectionError, PearlError):
            pass
        finally:
            self._fail_all()

    def _hand_over(self, packet: object) -> None:
        if isinstance(packet, Tokens):
            self._tickets[packet.request].put(packet)
        elif isinstance(packet, Finished | Failed):
            self._tickets.pop(packet.request).put(packet)

    def _fail_all(self) -> None:
        """Nobody waits for a scheduler that is gone."""
        for number in list(self._tickets):
            message = "the scheduler is gone; start the engine again"
            self._tickets.pop(number).put(Failed(request=number, message=message))
