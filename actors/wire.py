"""What travels between the client, the scheduler and the devices, and how it is framed.

Every connection is a TCP stream to the scheduler: devices and clients dial in, say hello with a
secret they were given out of band, and then exchange frames: four bytes of length, then one
message in MessagePack. A stream keeps order, and its end is the news that the peer is gone.

    device    -> scheduler   Hello, JobDone, Spoilt, Alive, Beat, Loading, DeviceFailed
    scheduler -> device      Open, Order (`pearl.decoding.messages`), Close, Probe, Beat, Leave
    client    -> scheduler   Hello, Submit, Abort, Beat
    scheduler -> client      Tokens, Finished, Failed, Beat

May import: the standard library, msgspec, decoding.
Must never: decide anything.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from pearl.decoding.errors import PeerError
from pearl.decoding.messages import Device, Judged, Order, Proposed, TokenId
from pearl.decoding.metrics import Metrics
from pearl.decoding.sampling import Sampling
from pearl.decoding.settings import Settings
from pearl.decoding.stopping import FinishReason
from pearl.decoding.trace import Record

if TYPE_CHECKING:
    from collections.abc import Iterator


class Packet(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Base of everything framed on a connection."""


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where the scheduler listens, and the secret that opens its door."""

    host: str
    port: int
    secret: str


class Hello(Packet, frozen=True):
    """First on every connection; `device` is None for a client.

    With `beats`, this side says something every `BEAT_S`, so that its silence means something;
    `again` is of a device whose last connection was cut, and that has gone on living. `machine` is
    where its process is.
    """

    secret: str
    device: Device | None = None
    process: int = 0
    machine: str = ""
    beats: bool = False
    again: bool = False


class Open(Packet, frozen=True):
    """Device: a request begins, or begins again after the device was restarted.

    `capacity` is the most positions it can come to hold; with a token of `eos` it ends.
    """

    request: int
    prompt: tuple[TokenId, ...]
    capacity: int
    verifier: str
    sampling: Sampling
    seed: int
    eos: tuple[TokenId, ...] = ()


class Close(Packet, frozen=True):
    """Device: a request has ended."""

    request: int


class Probe(Packet, frozen=True):
    """Device: you were given up; answer when you have caught up with all that was sent before."""


class Leave(Packet, frozen=True):
    """Device: the engine is closed. A connection that ends without this is dialled again."""


class Alive(Packet, frozen=True):
    """Scheduler: this device can work: its model is loaded, or it has caught up (`Probe`).

    `slower` says why it works by a slower way than it could; empty where it does not.
    """

    slower: str = ""


class Beat(Packet, frozen=True):
    """I am here. The scheduler greets with one, and answers each of a client's."""


class Loading(Packet, frozen=True):
    """Scheduler: I am here, load my model, and have read this share of its weights, 0 to 1."""

    read: float


class JobDone(Packet, frozen=True):
    """Scheduler: a job's result."""

    request: int
    event: Proposed | Judged


class Spoilt(Packet, frozen=True):
    """Scheduler: this request cannot go on, and why; the device has forgotten it and goes on.

    `crowded`: there is no room for it here. Of a draft, the request can go on without one.
    """

    request: int
    message: str
    crowded: bool = False


class DeviceFailed(Packet, frozen=True):
    """Scheduler: this device cannot go on, and why; the connection ends after it."""

    message: str


class Submit(Packet, frozen=True):
    """Scheduler: a new request, numbered by its client.

    `reach` is the most positions after the prompt that the draft can hold; None: as many as asked.
    """

    request: int
    prompt: tuple[TokenId, ...]
    eos: tuple[TokenId, ...]
    settings: Settings
    trace: bool = False
    reach: int | None = None


class Abort(Packet, frozen=True):
    """Scheduler: end this request; what was committed so far is its result."""

    request: int


class Tokens(Packet, frozen=True):
    """Client: these were committed."""

    request: int
    tokens: tuple[TokenId, ...]


class Finished(Packet, frozen=True):
    """Client: the request has ended; `reason` is None when it was aborted."""

    request: int
    reason: FinishReason | None
    metrics: Metrics
    trace: tuple[Record, ...] = ()


class Failed(Packet, frozen=True):
    """Client: the request cannot go on."""

    request: int
    message: str


ToDevice: TypeAlias = Open | Order | Close | Probe | Beat | Leave
FromDevice: TypeAlias = Hello | JobDone | Spoilt | Alive | Beat | Loading | DeviceFailed
ToClient: TypeAlias = Tokens | Finished | Failed | Beat
FromClient: TypeAlias = Hello | Submit | Abort | Beat
AnyPacket: TypeAlias = ToDevice | FromDevice | ToClient | FromClient

BEAT_S: Final = 1.0
MISSED_BEATS: Final = 5  # in a row: a peer that is silent for so long is gone
LENGTH: Final = struct.Struct("<I")
LARGEST_FRAME: Final = 1 << 30
LARGEST_HELLO: Final = 1 << 10  # a peer that is not known yet cannot make us wait for more
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(AnyPacket)


def frame(packet: AnyPacket) -> bytes:
    """A packet as it goes over a stream."""
    body = _ENCODER.encode(packet)
    return LENGTH.pack(len(body)) + body


class Unframer:
    """Cuts a stream into packets again, however it was chopped on its way.

    Args:
        largest: bytes of a packet; a peer that announces more does not speak this protocol.
    """

    def __init__(self, largest: int = LARGEST_FRAME) -> None:
        self.largest = largest
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[AnyPacket]:
        """Take what arrived; yield the packets that are whole.

        Raises:
            PeerError: the other side does not speak this protocol.
        """
        self._buffer += data
        while len(self._buffer) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._buffer)
            if length > self.largest:
                message = f"a frame of {length} bytes; the peer does not speak this protocol"
                raise PeerError(message)
            end = LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[LENGTH.size : end])
            del self._buffer[:end]
            yield self._decode(body)

    @staticmethod
    def _decode(body: bytes) -> AnyPacket:
        try:
            packet: AnyPacket = _DECODER.decode(body)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            message = f"a frame that is no packet ({error}); the peer is of another version"
            raise PeerError(message) from None
        return packet
