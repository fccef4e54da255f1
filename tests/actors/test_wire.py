"""What goes over a stream comes out again, however it was chopped; nonsense is refused."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from pearl.actors.wire import (
    LARGEST_FRAME,
    LENGTH,
    Abort,
    Alive,
    Alone,
    AnyPacket,
    Beat,
    Close,
    DeviceFailed,
    Failed,
    Finished,
    Hello,
    JobDone,
    Leave,
    Loading,
    Open,
    Packet,
    Probe,
    Spoilt,
    Submit,
    Tokens,
    Unframer,
    frame,
)
from pearl.decoding.errors import PeerError, SettingError
from pearl.decoding.messages import (
    DRAFT,
    TARGET,
    Cancel,
    DeviceLost,
    Drafted,
    Foresight,
    Judge,
    Judged,
    Order,
    Propose,
    Proposed,
)
from pearl.decoding.metrics import Meter
from pearl.decoding.sampling import Sampling
from pearl.decoding.schedules import Counts
from pearl.decoding.settings import Settings
from pearl.decoding.stopping import FinishReason
from pearl.decoding.trace import Received, Sent

_SECRET = "told out of band"  # noqa: S105 - in a test
_DRAFTED = Drafted(tokens=(4, 5), laws=(b"\x00\x01", b"\xff"))
_JUDGE = Judge(job=1, epoch=1, base=7, pending=_DRAFTED, hold=True)
_PROPOSE = Propose(job=1, epoch=2, base=3, pending=(1, 2), count=4)
_JUDGED = Judged(
    job=1, epoch=1, base=7, judged=2, kept=2, token=None, passes=0, began=0.5, ended=1.5
)
_PROPOSED = Proposed(job=1, epoch=2, start=5, drafted=_DRAFTED, began=0.1, ended=0.2)
_METRICS = Meter(0.0).metrics(Counts(), schedule="ar", verifier="greedy", gamma=0, tokens=0)
_TRACE = (
    Sent(at=0.25, request=1, command=_JUDGE),
    Received(
        at=0.5,
        request=1,
        event=DeviceLost(device=DRAFT),
        wanted=True,
        tokens=(9,),
        epoch=1,
        kept=0,
        rejections=1,
    ),
)

PACKETS: list[AnyPacket] = [
    Hello(secret=_SECRET, device=TARGET, process=7),
    Hello(secret=_SECRET + "ü", device=None),
    Open(
        request=1,
        prompt=(1, 2, 3),
        capacity=9,
        verifier="rejection",
        sampling=Sampling(temperature=0.5, top_p=0.9),
        seed=-3,
    ),
    Order(request=1, start=2, fresh=(5, 6), command=_JUDGE),
    Order(request=1, start=0, fresh=(), command=_PROPOSE),
    Order(request=1, command=Cancel(epoch=4)),
    Close(request=1),
    Probe(),
    Alive(),
    JobDone(request=1, event=_JUDGED),
    JobDone(request=1, event=_PROPOSED),
    DeviceFailed(message="no memory"),
    Submit(request=1, prompt=(3,), eos=(0, 1), settings=Settings(stop=("\n",), gamma=3)),
    Submit(request=2, prompt=(3,), eos=(), settings=Settings(gamma="auto"), trace=True),
    Abort(request=1),
    Tokens(request=1, tokens=(8, 9)),
    Finished(request=1, reason=FinishReason.STOP, metrics=_METRICS),
    Finished(request=1, reason=None, metrics=_METRICS, trace=_TRACE),
    Failed(request=1, message="the target died"),
    Order(request=1, command=Foresight(job=2, restarts=True, window=(5,))),
    Hello(secret=_SECRET, device=DRAFT, machine="here", beats=True, again=True),
    Alive(slower="it runs by the library"),
    Spoilt(request=1, message="the target failed", crowded=True),
    Beat(),
    Alone(alone=True),
    Loading(read=0.43),
    Leave(),
    Submit(request=3, prompt=(3,), eos=(), settings=Settings(), reach=-7),
]


def _read(chunks: Sequence[bytes]) -> list[AnyPacket]:
    unframer = Unframer()
    return [packet for chunk in chunks for packet in unframer.feed(chunk)]


@pytest.mark.parametrize("packet", PACKETS, ids=lambda packet: type(packet).__name__)
def test_a_packet_comes_out_as_it_went_in(packet: AnyPacket) -> None:
    read = _read([frame(packet)])

    assert [_comparable(one) for one in read] == [_comparable(packet)]


def test_every_kind_of_packet_is_in_the_list_above() -> None:
    """Or a packet that does not survive the wire would go unnoticed."""
    assert {type(packet) for packet in PACKETS} == {Order, *Packet.__subclasses__()}


def test_packets_are_found_however_the_stream_was_chopped() -> None:
    packets = [PACKETS[3], PACKETS[7], PACKETS[9]]
    stream = b"".join(map(frame, packets))

    for cut in range(len(stream) + 1):
        assert _read([stream[:cut], stream[cut:]]) == packets
    assert _read([stream[i : i + 1] for i in range(len(stream))]) == packets


def test_half_a_packet_is_not_given_out() -> None:
    whole = frame(PACKETS[0])

    assert _read([whole[:-1]]) == []


def test_an_empty_chunk_changes_nothing() -> None:
    """A device feeds one when its connection has ended."""
    assert _read([b"", frame(Probe()), b""]) == [Probe()]


def test_a_frame_that_nobody_would_send_is_refused_before_it_is_waited_for() -> None:
    """Whoever sends HTTP or TLS to this port would else make us wait for a gigabyte."""
    with pytest.raises(PeerError, match=f"a frame of {LARGEST_FRAME + 1} bytes"):
        _read([LENGTH.pack(LARGEST_FRAME + 1)])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode({"type": "Probe"}),
        msgspec.msgpack.encode(["Nonsense", 1]),
        msgspec.msgpack.encode(["Close"]),
        msgspec.msgpack.encode(["Close", "one"]),
        frame(Probe())[LENGTH.size :] + b"more",
    ],
    ids=["nothing", "no msgpack", "no packet", "unknown", "too short", "wrong type", "too long"],
)
def test_a_frame_that_is_no_packet_is_refused(body: bytes) -> None:
    with pytest.raises(PeerError, match="a frame that is no packet"):
        _read([LENGTH.pack(len(body)) + body])


def test_settings_out_of_range_do_not_come_through() -> None:
    """A client of another make cannot ask for what ours refuses."""
    good = msgspec.msgpack.encode(PACKETS[12])
    bad = good.replace(b"\xa5gamma\x03", b"\xa5gamma\x00")
    assert bad != good

    with pytest.raises(SettingError, match="gamma is 0"):
        _read([LENGTH.pack(len(bad)) + bad])


def _comparable(packet: AnyPacket) -> bytes:
    """Metrics of nothing hold a NaN, which is not equal to itself."""
    return msgspec.msgpack.encode(packet)
