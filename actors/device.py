"""A device: one model, its host, and one connection to the scheduler.

The loop is the whole of it: read what came, take a turn, send what is done. It reads between two
turns even while it is busy, so a cancellation stops a window after the token being written. A
thread beside it says every second that the process lives. The scheduler's `Leave` is the normal
end; a connection that ends without it is dialled again, with the model as it is and no request
known.

May import: the standard library, decoding, actors.hosts, actors.isolation, actors.threads,
actors.wire; the runners (and with them torch) only when a device starts.
Must never: know about Ray; decide anything that the schedule or the host decides.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Final, cast, final

from pearl.actors.hosts import draft_host, target_host
from pearl.actors.isolation import complaint
from pearl.actors.threads import Cores, available_cores, cores_of, stay_on
from pearl.actors.wire import BEAT_S, Beat, DeviceFailed, Hello, Leave, Loading, Unframer, frame
from pearl.decoding.messages import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from pearl.actors.hosts import Host
    from pearl.actors.runners.interface import Runner
    from pearl.actors.specs import DeviceSpec
    from pearl.actors.wire import Address, FromDevice, ToDevice

CHUNK: Final = 1 << 16
DIAL_S: Final = 10.0
REDIAL_S: Final = 30.0  # a scheduler that was killed has so long to be restarted
PAUSE_S: Final = 0.2
SPIN_S: Final = 5e-3
KEEPALIVE: Final = {
    "TCP_KEEPIDLE": 5,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
}  # seconds, seconds, times
UNHEARD_MS: Final = 20_000  # what was sent is not confirmed for so long: the network is gone
LOADING: Final = threading.Lock()  # transformers cannot load two models at a time


@final
class SchedulerLink:
    """A device's end of its connection: blocking, because a device has nothing else to wait for."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._unframer = Unframer()
        self._open = True
        self._sending = threading.Lock()
        self.known = False
        """Whether the scheduler has said anything, and so has let this device in."""
        self.sign: Beat | Loading = Beat()
        """What it says of itself while nothing else is said."""
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    @classmethod
    def dial(cls, address: Address) -> SchedulerLink:
        """Connect to the scheduler."""
        connection = socket.create_connection((address.host, address.port), timeout=DIAL_S)
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A network that is gone without a word is noticed all the same.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (*KEEPALIVE.items(), ("TCP_USER_TIMEOUT", UNHEARD_MS)):
            if (option := getattr(socket, name, None)) is not None:  # not every system has each
                connection.setsockopt(socket.IPPROTO_TCP, option, value)
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
        except OSError:
            data = b""
        self._open = self._open and bool(data)
        self.known = self.known or bool(data)
        return cast("list[ToDevice]", list(self._unframer.feed(data)))

    def _has_come(self, spin_s: float) -> bool:
        """Look for so long: the next job mostly comes before a sleeping thread would be woken."""
        until = time.monotonic() + spin_s
        while not (come := self._poll.poll(0)) and time.monotonic() < until:
            os.sched_yield()  # another process on this core, the scheduler perhaps, goes first
        return bool(come)

    def send(self, packets: Sequence[FromDevice]) -> None:
        """Send packets as one piece, from any thread; to a scheduler that is gone they are lost."""
        if not packets:
            return
        data = b"".join(map(frame, packets))
        try:
            with self._sending:
                self._connection.sendall(data)
        except OSError:
            self._open = False

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Say again and again that this process lives, whatever its other threads do."""
        ended = threading.Event()

        def beat() -> None:
            while self.open and not ended.wait(BEAT_S):
                self.send([self.sign])

        thread = threading.Thread(target=beat, name="pearl-beat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(BEAT_S)  # it may be held up by a scheduler that does not read

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def serve(host: Host, link: SchedulerLink) -> bool:
    """Work for the scheduler; True when it has said that this device is not needed any more."""
    while link.open:
        for packet in link.receive(wait=not host.busy):
            if isinstance(packet, Leave):
                return True
            link.send(host.take(packet))
        if host.busy:
            link.send(host.turn())
    return False


def run_device(
    spec: DeviceSpec, address: Address, wanted: Callable[[], bool] = lambda: True
) -> None:
    """Load the model, say hello, serve; what goes wrong is sent to the scheduler, then raised.

    Args:
        spec: what to load, and where.
        address: the scheduler's.
        wanted: asked before a broken connection is dialled again.
    """
    link: SchedulerLink | None = _dialled(spec, address)
    host: Host | None = None
    until = time.monotonic() + REDIAL_S
    try:
        with _own_stream(spec.place):
            while link is not None:
                with link.beating():
                    if host is None:
                        host = _load(spec, link)
                        until = time.monotonic() + REDIAL_S  # loading may take longer than that
                    host.forget()
                    link.send([host.alive()])
                    left = serve(host, link)
                link.close()
                until = time.monotonic() + REDIAL_S if link.known else until
                link = None if left else _dial_again(spec, address, wanted, until)
    except BaseException as error:
        if link is not None:
            link.send([DeviceFailed(message=complaint(spec.role, error))])
            link.close()
        raise


def _dialled(spec: DeviceSpec, address: Address, *, again: bool = False) -> SchedulerLink:
    link = SchedulerLink.dial(address)
    hello = Hello(
        secret=address.secret,
        device=spec.device,
        process=os.getpid(),
        machine=socket.gethostname(),
        beats=True,
        again=again,
    )
    link.send([hello])
    return link


def _dial_again(
    spec: DeviceSpec, address: Address, wanted: Callable[[], bool], until: float
) -> SchedulerLink | None:
    """The connection to the scheduler, or to the one in its place; None if there is none."""
    while wanted() and time.monotonic() < until:
        with contextlib.suppress(OSError):
            return _dialled(spec, address, again=True)
        time.sleep(PAUSE_S)
    return None


def _own_stream(place: str) -> AbstractContextManager[Any]:
    """Where the host computes on a GPU, its model and what it makes of the logits alike."""
    if place == "cpu":
        return contextlib.nullcontext()
    with LOADING:
        from pearl.actors.runners import loading  # noqa: PLC0415 - torch comes in with it

    return loading.own_stream(place)


def _load(spec: DeviceSpec, link: SchedulerLink) -> Host:
    cores = cores_of(spec.role, available_cores(), shared=spec.shared)

    def heard(read: float) -> None:
        link.sign = Loading(read=read)

    heard(0.0)
    with LOADING:
        importlib.import_module("pearl.actors.runners.loading")
        # Not before: when OpenMP comes in, with torch, it counts the cores that it may use, and
        # threads beyond them are put to sleep as soon as they wait.
        if spec.place == "cpu":
            stay_on(cores.own)
        runner = _runner(spec, len(cores.own), heard)
    link.sign = Beat()
    if spec.role is Role.DRAFT:
        return draft_host(runner)
    return target_host(runner) if spec.place != "cpu" else _team_host(runner, cores)


def _team_host(runner: Runner, cores: Cores) -> Host:
    """A target that takes as many of the cores as it may use and are of use."""
    from pearl.actors.runners.teams import Team, TeamRunner  # noqa: PLC0415 - torch comes with it

    share, every = len(cores.own), len(cores.own) + len(cores.lent)
    team = Team(share, cores.lent)
    if cores.lent:
        shared = TeamRunner(runner, share, (share, every), team.resize)
        return target_host(shared, alone=shared.may_take_all)
    sizes = [every >> halvings for halvings in range(every.bit_length())]
    return target_host(TeamRunner(runner, share, sizes, team.resize, alone=True))


def _runner(spec: DeviceSpec, threads: int, heard: Callable[[float], None]) -> Runner:
    """What the device works with; torch comes in with it."""
    if spec.stand_in is not None:
        return spec.stand_in.load(spec, threads)
    from pearl.actors.runners import loading, vocabulary  # noqa: PLC0415

    runner = loading.load_runner(
        spec.model,
        device=spec.place,
        dtype=spec.dtype,
        quantize=spec.quantize,
        same_rounding=spec.same_rounding,
        vocab_size=spec.vocabulary,
        threads=threads,
        trust_remote_code=spec.trust_remote_code,
        heard=heard,
    )
    if spec.translation is None:
        return runner
    return vocabulary.TranslatedRunner(runner, spec.translation)
