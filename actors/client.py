"""The client's end: submit requests to a scheduler, and read what comes back as it comes.

Theory of operation. A scheduler may be stopped, killed, or cut off. The client says every second
that it is there, and is answered; after some seconds without an answer, or when the connection
ends, it dials again for a while. A scheduler that was restarted knows nothing, so the client
submits its requests again. Where the tokens are a function of the request (greedy and coupled), the
same tokens come, and those that are there already are left out. Where they are not (rejection), the
request ends with an error. So does every request when there is no answer for too long, or it is
known that there will be none; the next request then tries again.

May import: the standard library, decoding, actors.wire.
Must never: know where the scheduler and the devices run, or what a token means.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from typing import TYPE_CHECKING, Final, Protocol, final

from pearl.actors.wire import (
    BEAT_S,
    MISSED_BEATS,
    Abort,
    Address,
    Beat,
    Failed,
    Finished,
    FromClient,
    Hello,
    Leave,
    Submit,
    Tokens,
    Unframer,
    frame,
)
from pearl.decoding.errors import PearlError, PeerError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pearl.decoding.messages import TokenId
    from pearl.decoding.settings import Settings

CHUNK: Final = 1 << 16
REDIAL_S: Final = 30.0  # a scheduler that was killed has so long to be started again
PAUSE_S: Final = 0.1
GONE: Final = "the scheduler is gone; start the engine again"
OTHERWISE: Final = (
    "the scheduler was restarted, and this text would not go on as it began; ask again"
)


class Keeper(Protocol):
    """Who keeps the scheduler running."""

    @property
    def alive(self) -> bool:
        """Whether a scheduler that is gone may come back."""

    def revive(self) -> None:
        """End a scheduler that says nothing any more, where that can be, so that it comes back."""


@final
class _Nobody:
    """Keeps nothing, and hopes."""

    alive = True

    def revive(self) -> None:
        """It cannot be revived."""


@final
class Ticket:
    """One submitted request: its packets arrive here, the last is `Finished` or `Failed`."""

    def __init__(self, client: Client, submit: Submit) -> None:
        self.submit = submit
        self.aborted = False
        self._client = client
        self._arrived: asyncio.Queue[Tokens | Finished | Failed] = asyncio.Queue()
        self._tokens: list[TokenId] = []
        self._known = 0
        """Tokens that will come once more."""

    def put(self, packet: Tokens | Finished | Failed) -> None:
        """A packet arrived."""
        if not isinstance(packet, Tokens):
            self._arrived.put_nowait(packet)
        elif not self._is_as_before(packet.tokens):
            # Where the arithmetic depends on who shares a pass, as in 16 bits.
            self._arrived.put_nowait(Failed(request=packet.request, message=OTHERWISE))
        elif fresh := packet.tokens[self._known :]:
            self._known = 0
            self._tokens += fresh
            self._arrived.put_nowait(Tokens(request=packet.request, tokens=fresh))
        else:
            self._known -= len(packet.tokens)

    def _is_as_before(self, tokens: tuple[TokenId, ...]) -> bool:
        """Whether what comes once more is what has come."""
        begin = len(self._tokens) - self._known
        return list(tokens[: self._known]) == self._tokens[begin : begin + len(tokens)]

    @property
    def repeats(self) -> bool:
        """Whether its text is the same when it is asked again."""
        return self.submit.settings.verifier_kind.same_text or not self._tokens

    def expect_again(self) -> Submit:
        """It is asked again: what has come already will come once more."""
        self._known = len(self._tokens)
        return self.submit

    async def next(self) -> Tokens | Finished:
        """The next packet; after the last one, that one again.

        Raises:
            PeerError: the request failed.
        """
        packet = await self._arrived.get()
        if not isinstance(packet, Tokens):
            self._arrived.put_nowait(packet)  # for the next caller, or another one that waits too
        if isinstance(packet, Failed):
            raise PeerError(packet.message)
        return packet

    def abort(self) -> None:
        """Ask for the end; `Finished` follows."""
        self.aborted = True
        self._client.send(Abort(request=self.submit.request))

    def abandon(self) -> None:
        """The pieces are not read any more: a request that still runs is ended."""
        self._client.abandon(self)


@final
class Client:
    """A connection to a scheduler, which is dialled again when it breaks.

    Args:
        address: the scheduler's.
        line: to it.
        keeper: of the scheduler.
    """

    def __init__(self, address: Address, line: _Line, keeper: Keeper) -> None:
        self._address = address
        self._line: _Line | None = line
        self._keeper = keeper
        self._tickets: dict[int, Ticket] = {}
        self._numbers = itertools.count(1)
        self._known = False
        """Whether a scheduler has ever let us in."""
        self._over = False
        """Whether dialling is over: closed, or never let in."""
        self._loop = asyncio.get_running_loop()
        self._living = self._loop.create_task(self._live(line))

    @classmethod
    async def dial(cls, address: Address, keeper: Keeper | None = None) -> Client:
        """Connect and say hello."""
        return cls(address, await _Line.dial(address), keeper or _Nobody())

    def submit(
        self,
        prompt: tuple[TokenId, ...],
        settings: Settings,
        *,
        eos: tuple[TokenId, ...] = (),
        trace: bool = False,
        reach: int | None = None,
    ) -> Ticket:
        """Start a request.

        Raises:
            ProtocolError: no wire carries it.
        """
        number = next(self._numbers)
        submit = Submit(
            request=number, prompt=prompt, eos=eos, settings=settings, trace=trace, reach=reach
        )
        _check(submit)  # what no wire carries is refused here
        self.send(submit)
        ticket = self._tickets[number] = Ticket(self, submit)
        if self._over:
            self._fail_all(GONE)
        elif self._living.done():  # no answer in time; perhaps there is one now
            self._living = asyncio.create_task(self._live(None))
        return ticket

    def send(self, packet: FromClient) -> None:
        """Send one packet; while the line is broken it is lost, and requests are asked again."""
        data = frame(packet)
        if self._line is not None:
            self._line.write(data)

    def abandon(self, ticket: Ticket) -> None:
        """End a request whose reader is gone, unless it has ended; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is over, and so is the client
            self._loop.call_soon_threadsafe(self._abandon, ticket.submit.request)

    def _abandon(self, number: int) -> None:
        if self._tickets.pop(number, None) is not None and not self._over:
            self.send(Abort(request=number))

    async def close(self) -> None:
        """Hang up; requests that still run fail here, and the scheduler forgets them."""
        self._living.cancel()
        await asyncio.gather(self._living, return_exceptions=True)
        self._end()  # a task that was cancelled before it began has ended nothing

    async def _live(self, line: _Line | None) -> None:
        """Listen, and dial again, until that is in vain."""
        until = self._later()
        try:
            while line := line or await self._dial_again(until):
                left = await self._listen(line)
                until = self._later() if line.known else until
                self._known = self._known or line.known
                self._over = left or not self._known
                self._line = None
                line.close()
                if self._over:
                    return
                if line.silent:
                    self._keeper.revive()
                line = None
        finally:
            self._fail_all(GONE)

    def _later(self) -> float:
        """Until when a scheduler may come back that was there just now."""
        return asyncio.get_running_loop().time() + REDIAL_S

    def _end(self) -> None:
        self._over = True
        if self._line is not None:
            self._line.close()
        self._fail_all(GONE)

    async def _listen(self, line: _Line) -> bool:
        """Hand over what comes until the line breaks; True where the scheduler left for good."""
        beating = asyncio.create_task(line.beat())
        try:
            async for packet in line:
                if isinstance(packet, Leave):
                    return True
                self._hand_over(packet)
        finally:
            beating.cancel()
        return False

    async def _dial_again(self, until: float) -> _Line | None:
        """The line to the scheduler, or to the one that was started in its place."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                while self._keeper.alive:
                    await asyncio.sleep(PAUSE_S)  # also where it listens and hangs up at once
                    with contextlib.suppress(OSError):
                        line = await _Line.dial(self._address)
                        self._ask_again(line)
                        return line
        return None

    def _ask_again(self, line: _Line) -> None:
        self._line = line
        for number, ticket in list(self._tickets.items()):
            if ticket.repeats:
                line.write(frame(ticket.expect_again()))
                if ticket.aborted:
                    line.write(frame(Abort(request=number)))
            else:
                self._tickets.pop(number).put(Failed(request=number, message=OTHERWISE))

    def _hand_over(self, packet: object) -> None:
        """Give a packet to its request, which may have ended here already."""
        if isinstance(packet, Tokens):
            ticket = self._tickets.get(packet.request)
        elif isinstance(packet, Finished | Failed):
            ticket = self._tickets.pop(packet.request, None)
        else:
            return
        if ticket is not None:
            ticket.put(packet)

    def _fail_all(self, message: str) -> None:
        """Stop waiting for a scheduler that is gone."""
        for number in list(self._tickets):
            self._tickets.pop(number).put(Failed(request=number, message=message))


def _check(submit: Submit) -> None:
    """A packet that the scheduler could not read would end the line, and every request on it."""
    try:
        (read,) = Unframer().feed(frame(submit))
    except (PearlError, TypeError, ValueError, OverflowError) as error:
        message = f"a request that cannot be sent: {error}"
        raise ProtocolError(message) from None
    assert isinstance(read, Submit)


@final
class _Line:
    """One connection, from its hello to its end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._silent = 0
        """Beats in a row that nothing has answered."""
        self.known = False
        """Whether the scheduler has let us in."""
        self.silent = False
        """Whether it has not answered for so long that we have hung up."""

    @classmethod
    async def dial(cls, address: Address) -> _Line:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        line = cls(reader, writer)
        line.write(frame(Hello(secret=address.secret, process=os.getpid())))
        return line

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def close(self) -> None:
        self._writer.close()

    async def beat(self) -> None:
        """Say that we are here, and hang up when there is no answer.

        Silence is counted in beats and not in seconds: while this program does something else, it
        does not listen either.
        """
        while self._silent < MISSED_BEATS:
            self.write(frame(Beat()))
            self._silent += 1
            await asyncio.sleep(BEAT_S)
        self.silent = True
        self._writer.transport.abort()

    async def __aiter__(self) -> AsyncIterator[object]:
        """What comes, until the line breaks."""
        unframer = Unframer()
        with contextlib.suppress(OSError, PearlError):
            while data := await self._reader.read(CHUNK):
                self._silent, self.known = 0, True
                for packet in unframer.feed(data):
                    yield packet
