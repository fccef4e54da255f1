"""A device: one model, its host, and one connection to the scheduler.

The loop is the whole of it: read what came, take a turn, send what is done. It reads between two
turns even while it is busy, so a revocation stops a window after the token being written. The
scheduler hanging up is the normal end.

May import: the standard library, decoding, actors.hosts, actors.threads, actors.wire; the
runners (and with them torch) only when a device starts.
Must never: know about Ray; decide anything that the schedule or the host decides.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Final, cast, final

from actors.hosts import DraftHost, TargetHost
from actors.threads import available_cores, cores_for, stay_on
from actors.wire import Alive, Answer, Fault, Hello, Unframer, frame
from decoding.errors import PearlError
from decoding.messages import Device

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from actors.hosts import Host
    from actors.runners.interface import Runner
    from actors.runners.vocabulary import Vocabulary
    from actors.stand_ins import StandIn
    from actors.wire import Address, ToDevice

CHUNK: Final = 1 << 16
DIAL_S: Final = 10.0
SPIN_S: Final = 5e-3
LOADING: Final = threading.Lock()  # transformers cannot load two models at a time


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpec:
    """What a device is to load, and where.

    Args:
        role: draft or target.
        model: a folder, or a hub name.
        place: torch's name of the device: `cpu`, `cuda:0`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        vocabulary: token ids below it are the pair's.
        translation: of a draft, where its tokens are not the target's; None where all are.
        gpu_share: how much of its GPU it takes, where it has one.
        trust_remote_code: whether the model may bring code of its own.
        stand_in: what to do instead of loading a model; None loads it.
    """

    role: Device
    model: str
    place: str = "cpu"
    dtype: str = "auto"
    vocabulary: int
    translation: Vocabulary | None = None
    gpu_share: float = 1.0
    trust_remote_code: bool = False
    stand_in: StandIn | None = None


@final
class Link:
    """A device's end of its connection: blocking, because a device has nothing else to wait for."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._unframer = Unframer()
        self._open = True
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    @classmethod
    def dial(cls, address: Address) -> Link:
        """Connect to the scheduler."""
        connection = socket.create_connection((address.host, address.port), timeout=DIAL_S)
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A network that is gone without a word is noticed all the same, after some time.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return cls(connection)

    @property
    def open(self) -> bool:
        """Whether the scheduler is still there."""
        return self._open

    def receive(self, *, wait: bool) -> list[ToDevice]:
        """What has come; with `wait`, at least something, or nothing because the link ended."""
        if not self._has_come(SPIN_S if wait else 0) and not wait:
            return []
        try:
            data = self._connection.recv(CHUNK)
        except ConnectionError:
            data = b""
        self._open = bool(data)
        return cast("list[ToDevice]", list(self._unframer.feed(data)))

    def _has_come(self, spin_s: float) -> bool:
        """Look for so long: the next job mostly comes before a sleeping thread would be woken."""
        until = time.monotonic() + spin_s
        while not (come := self._poll.poll(0)) and time.monotonic() < until:
            os.sched_yield()  # whoever shares this core, the scheduler perhaps, goes first
        return bool(come)

    def send(self, packets: Sequence[Alive | Answer | Fault | Hello]) -> None:
        """Send packets as one piece; to a scheduler that is gone they are lost."""
        if not packets:
            return
        try:
            self._connection.sendall(b"".join(map(frame, packets)))
        except ConnectionError:
            self._open = False

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def serve(host: Host, link: Link) -> None:
    """Work for the scheduler until it hangs up."""
    while link.open:
        for packet in link.receive(wait=not host.busy):
            link.send(host.take(packet))
        if host.busy:
            link.send(host.turn())


def run_device(spec: DeviceSpec, address: Address) -> None:
    """Load the model, say hello, serve; what goes wrong is told to the scheduler, then raised."""
    cores = cores_for(spec.role, available_cores())
    if spec.place == "cpu":
        stay_on(cores)
    link = Link.dial(address)
    link.send([Hello(secret=address.secret, device=spec.role, process=os.getpid())])
    try:
        with _own_stream(spec.place):
            host = _load(spec, threads=len(cores))
            link.send([Alive()])
            serve(host, link)
    except Exception as error:
        doing = "failed" if isinstance(error, PearlError) else f"failed with {type(error).__name__}"
        link.send([Fault(message=f"the {spec.role} {doing}: {error}")])
        raise
    finally:
        link.close()


def _own_stream(place: str) -> AbstractContextManager[Any]:
    """Where the host computes on a GPU, its model and what it makes of the logits alike."""
    if place == "cpu":
        return contextlib.nullcontext()
    with LOADING:
        from actors.runners import loading  # noqa: PLC0415 - torch comes in with it

    return loading.own_stream(place)


def _load(spec: DeviceSpec, threads: int) -> Host:
    with LOADING:
        runner = _runner(spec, threads)
    return DraftHost(runner) if spec.role is Device.DRAFT else TargetHost(runner)


def _runner(spec: DeviceSpec, threads: int) -> Runner:
    """What the device works with; torch comes in with it."""
    from actors.runners import loading, stand_in, vocabulary  # noqa: PLC0415

    options: Any = {"device": spec.place, "dtype": spec.dtype, "threads": threads}
    options["trust_remote_code"] = spec.trust_remote_code
    if spec.stand_in is None:
        runner = loading.load_runner(spec.model, vocab_size=spec.vocabulary, **options)
        if spec.translation is None:
            return runner
        return vocabulary.TranslatedRunner(runner, spec.translation)
    seconds, script = spec.stand_in.pass_s, spec.stand_in.script
    if seconds is None:
        inner: Runner = loading.load_untrained(spec.model, **options)
    else:
        inner = stand_in.TimedRunner(seconds)
    return stand_in.ScriptedRunner(inner, script, spec.role)
