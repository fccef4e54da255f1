"""The scheduler: drives any number of requests over one draft and one target.

It is the asyncio half of "one protocol, two clocks": for each request it carries the commands of a
pure schedule to the devices and their answers back, and streams what is committed. Nothing here
decides about tokens.

    a packet comes  ->  the schedule of its request takes the event
                    ->  committed tokens go to the client, new commands to the devices

Devices and clients dial in (`actors.wire`). A connection that ends is a device that is lost; a
device that dials in again is told everything it needs, because every job can be sent to a freshly
restarted device. Every wait has a deadline (`Patience`).

May import: the standard library, decoding, actors.wire.
Must never: compute anything of a model, or know about Ray.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import itertools
import secrets
import time
from typing import TYPE_CHECKING, Final, cast, final

from actors.wire import (
    LARGEST_FRAME,
    LARGEST_HELLO,
    Abort,
    Address,
    Ahead,
    Alive,
    Answer,
    AnyPacket,
    Close,
    Failed,
    Fault,
    Finished,
    Hello,
    Open,
    Probe,
    Revoke,
    Submit,
    ToClient,
    ToDevice,
    Tokens,
    Unframer,
    Work,
    frame,
)
from decoding.errors import PearlError, PeerError
from decoding.measured import Measured
from decoding.messages import (
    Cancel,
    Command,
    Device,
    DeviceBack,
    DeviceLost,
    Event,
    Judged,
    Proposed,
    device_of,
)
from decoding.metrics import Meter
from decoding.stopping import StopRules
from decoding.trace import Received, Record, Sent, without_laws

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from decoding.foresight import Foresight
    from decoding.schedules import TwoModelSchedule
    from decoding.stopping import Detokenizer

CHECK_EVERY_S: Final = 0.1
MOST_LOSSES: Final = 5  # of the target in one request, which may well be what kills it
MOST_STARTS: Final = 3  # of a device, one after the other, that end before it can work
STALLED: Final = 4  # times the longest job seen


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait, in seconds, before going on without.

    Args:
        draft: for a window, or four times as long as the longest window took, whichever is
            more; the request then goes on alone until the draft has caught up.
        target: for a verdict; the request then fails.
        restart: for a lost target to come back; its requests then fail.
    """

    draft: float = 1.0
    target: float = 300.0
    restart: float = 120.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerStatistics:
    """How the scheduler is, at one moment."""

    running: int
    finished: int
    devices: tuple[Device, ...]
    processes: dict[str, int]
    losses: dict[str, int]


@final
class Peer(asyncio.Protocol):
    """The scheduler's end of one connection."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._unframer = Unframer(LARGEST_HELLO)
        self._transport: asyncio.Transport | None = None
        self.hello: Hello | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody dialled in."""
        self._transport = cast("asyncio.Transport", transport)
        self._scheduler.dialled(self)

    def data_received(self, data: bytes) -> None:
        """Something came; whoever does not speak the protocol is cut off."""
        try:
            for packet in self._unframer.feed(data):
                self._scheduler.take(self, packet)
        except PearlError:
            self.close()

    def welcome(self, hello: Hello) -> None:
        """Remember who this is."""
        self.hello = hello
        self._unframer.largest = LARGEST_FRAME

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the end is news enough
        """The connection ended, by whichever side."""
        self._scheduler.hung_up(self)

    def send(self, packets: Iterable[ToDevice | ToClient]) -> None:
        """Send packets as one piece; to a peer that is gone they are lost."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(map(frame, packets)))

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()


@final
class Station:
    """What the scheduler knows of one device: `usable` from the moment it says it can work."""

    def __init__(self) -> None:
        self.peer: Peer | None = None
        self.usable = False
        self.lost_at = 0.0
        self.longest_job = 0.0
        self.losses = 0
        self.failed_starts = 0
        self.fault: str | None = None


@final
class Running:
    """One request under way: its schedule, its client, and what its devices have been told."""

    def __init__(
        self, number: int, submit: Submit, client: Peer, schedule: TwoModelSchedule, now: float
    ) -> None:
        self.number = number
        self.submit = submit
        self.client = client
        self.schedule = schedule
        self.meter = Meter(now)
        self.records: list[Record] | None = [] if submit.trace else None
        self.told: dict[Device, int] = {}  # committed tokens each device knows of
        self.foreseen: Foresight | None = None  # what the target knows of its next job
        self.waiting: dict[Device, float] = {}  # since when a job of it is unanswered
        uses_draft = submit.settings.widest > 0
        self.devices = (Device.TARGET, Device.DRAFT) if uses_draft else (Device.TARGET,)

    def open_packet(self) -> Open:
        """What a device must know before its first job."""
        settings, prompt = self.submit.settings, self.submit.prompt
        return Open(
            request=self.number,
            prompt=prompt,
            # No job goes beyond the limit: schedules shorten the last windows.
            capacity=len(prompt) + settings.max_new_tokens,
            eos=self.submit.eos,
            verifier=settings.effective_verifier,
            sampling=settings.sampling,
            seed=settings.seed,
        )

    def packet(self, command: Command, device: Device) -> Work | Revoke:
        """A command as its device understands it: with the committed tokens it has not seen."""
        if isinstance(command, Cancel):
            return Revoke(request=self.number, epoch=command.epoch)
        start = min(self.told[device], command.base)
        fresh = tuple(self.schedule.committed[start : command.base])
        self.told[device] = command.base
        foresight = None
        if device is Device.TARGET:
            foresight = self.foreseen = self.schedule.foresight()
        return Work(
            request=self.number, start=start, fresh=fresh, command=command, foresight=foresight
        )

    def news(self) -> Ahead | None:
        """What the target does not know yet of its next job."""
        foresight = self.schedule.foresight()
        if foresight is None or foresight == self.foreseen:
            return None
        self.foreseen = foresight
        return Ahead(request=self.number, foresight=foresight)

    def finished(self) -> Finished:
        """What the client is told at the end."""
        settings, schedule = self.submit.settings, self.schedule
        metrics = self.meter.metrics(
            schedule.counts,
            schedule=str(settings.schedule),
            verifier=str(settings.effective_verifier),
            gamma=schedule.plan.beside or schedule.plan.before,
            tokens=len(schedule.committed),
        )
        return Finished(
            request=self.submit.request,
            reason=schedule.finish_reason,
            metrics=metrics,
            trace=tuple(self.records or ()),
        )


@final
class Scheduler:
    """Runs requests; see the top of this file.

    Args:
        devices: the devices that will dial in; without a draft only `ar` can be asked for.
        load_text: gives the detokenizer, which is needed for stop strings only.
        restarts: whether somebody restarts a device that died.
        patience: deadlines.
    """

    def __init__(
        self,
        devices: tuple[Device, ...] = tuple(Device),
        *,
        load_text: Callable[[], Detokenizer] | None = None,
        restarts: bool = False,
        patience: Patience | None = None,
    ) -> None:
        self._secret = secrets.token_hex(32)
        self._stations = {device: Station() for device in devices}
        self._load_text = load_text
        self._text: Detokenizer | None = None
        self._text_lock = asyncio.Lock()
        self._loading: dict[tuple[Peer, int], asyncio.Task[None]] = {}
        self._restarts = restarts
        self._patience = patience or Patience()
        self._peers: set[Peer] = set()
        self._running: dict[int, Running] = {}
        self._measured = Measured()  # what `gamma auto` knows of these devices
        self._numbers = itertools.count()
        self._finished = 0
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._watchdog: asyncio.Task[None] | None = None

    # -- life ----------------------------------------------------------------------------------

    async def open(
        self, host: str = "127.0.0.1", port: int = 0, secret: str | None = None
    ) -> Address:
        """Listen on this interface: on a free port, or where one that died listened before."""
        loop = asyncio.get_running_loop()
        self._secret = secret or self._secret
        self._server = await loop.create_server(lambda: Peer(self), host, port)
        self._watchdog = loop.create_task(self._watch())
        port = self._server.sockets[0].getsockname()[1]
        return Address(host=host, port=port, secret=self._secret)

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until all devices have loaded their models and dialled in.

        Raises:
            PeerError: one of them could not start, or not in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not all(station.usable for station in self._stations.values()):
                    self._raise_faults()
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            late = [device for device, station in self._stations.items() if not station.usable]
            message = f"the {' and the '.join(late)} did not start within {timeout_s:g} s"
            raise PeerError(message) from None

    async def close(self) -> None:
        """Hang up on everybody; devices end when they notice."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self._server is not None:
            self._server.close()
        self._fail_all("the scheduler was closed")
        for peer in list(self._peers):
            peer.close()

    def statistics(self) -> SchedulerStatistics:
        """How it is."""
        usable = {device: s for device, s in self._stations.items() if s.usable}
        processes = {d: s.peer.hello.process for d, s in usable.items() if s.peer and s.peer.hello}
        return SchedulerStatistics(
            running=len(self._running),
            finished=self._finished,
            devices=tuple(usable),
            processes={str(device): process for device, process in processes.items()},
            losses={str(device): station.losses for device, station in self._stations.items()},
        )

    def _raise_faults(self) -> None:
        for station in self._stations.values():
            if station.fault is not None:
                raise PeerError(station.fault)

    # -- packets -------------------------------------------------------------------------------

    def take(self, peer: Peer, packet: AnyPacket) -> None:
        """Handle one packet.

        Raises:
            PeerError: the peer is not allowed to say this.
        """
        if peer.hello is None:
            self._welcome(peer, packet)
            return
        match packet:
            case Answer() if self._is_current(peer):
                self._on_answer(packet)
            case Alive() if self._is_current(peer) and peer.hello.device is not None:
                self._regain(peer.hello.device)
            case Answer() | Alive():
                pass  # a device that has been replaced
            case Submit():
                self._on_submit(peer, packet)
            case Abort():
                self._on_abort(peer, packet)
            case Fault() if peer.hello.device is not None:
                self._stations[peer.hello.device].fault = packet.message
                self._changed.set()
            case _:
                message = f"{type(packet).__name__} is nothing that a peer may say here"
                raise PeerError(message)

    def _is_current(self, peer: Peer) -> bool:
        return any(station.peer is peer for station in self._stations.values())

    def _welcome(self, peer: Peer, packet: AnyPacket) -> None:
        if not isinstance(packet, Hello) or not self._admits(packet.secret):
            message = "a peer did not say hello with the right secret"
            raise PeerError(message)
        peer.welcome(packet)
        if packet.device is not None:
            self._on_device(packet.device, peer)

    def _admits(self, secret: str) -> bool:
        return hmac.compare_digest(secret.encode(), self._secret.encode())

    def dialled(self, peer: Peer) -> None:
        """A connection began; whose it is, its first packet says."""
        self._peers.add(peer)

    def hung_up(self, peer: Peer) -> None:
        """A connection ended."""
        self._peers.discard(peer)
        if peer.hello is None:
            return
        if peer.hello.device is None:
            for loading in [task for (who, _), task in self._loading.items() if who is peer]:
                loading.cancel()
            for running in [r for r in self._running.values() if r.client is peer]:
                self._forget(running)
        elif self._stations[peer.hello.device].peer is peer:
            self._stations[peer.hello.device].peer = None
            self._note_start(peer.hello.device)
            self._lose(peer.hello.device)

    # -- requests ------------------------------------------------------------------------------

    def _on_submit(self, client: Peer, submit: Submit) -> None:
        if submit.settings.stop and self._text is None and self._load_text is not None:
            loading = asyncio.create_task(self._submit_with_text(client, submit, self._load_text))
            self._loading[client, submit.request] = loading
            loading.add_done_callback(lambda _: self._loading.pop((client, submit.request), None))
        else:
            self._begin(client, submit)

    async def _submit_with_text(
        self, client: Peer, submit: Submit, load: Callable[[], Detokenizer]
    ) -> None:
        """Begin a request that needs a detokenizer; loading one takes seconds, so in a thread."""
        try:
            async with self._text_lock:
                self._text = self._text or await asyncio.to_thread(load)
        except PearlError as error:
            client.send([Failed(request=submit.request, message=str(error))])
        else:
            self._begin(client, submit)

    def _begin(self, client: Peer, submit: Submit) -> None:
        missing = self._missing(submit)
        if missing is not None:
            client.send([Failed(request=submit.request, message=missing)])
            return
        now = time.monotonic()
        schedule = submit.settings.start(self._stop_rules(submit), self._measured)
        running = Running(next(self._numbers), submit, client, schedule, now)
        self._running[running.number] = running
        for device in running.devices:
            self._introduce(running, device)
        for device in running.devices:
            if not self._stations[device].usable:
                self._deliver(running, DeviceLost(device=device))
        self._send(running)

    def _missing(self, submit: Submit) -> str | None:
        if submit.settings.widest > 0 and Device.DRAFT not in self._stations:
            return f"schedule {submit.settings.schedule} needs a draft and none was started"
        return None

    def _stop_rules(self, submit: Submit) -> StopRules:
        return StopRules(
            limit=submit.settings.max_new_tokens,
            eos=frozenset(submit.eos),
            strings=submit.settings.stop,
            text=self._text,
        )

    def _on_answer(self, answer: Answer) -> None:
        device = Device.DRAFT if isinstance(answer.event, Proposed) else Device.TARGET
        station = self._stations[device]
        station.longest_job = max(station.longest_job, answer.event.ended - answer.event.began)
        running = self._running.get(answer.request)
        if running is not None:
            wanted = running.schedule.awaits(answer.event)
            if wanted:
                running.waiting.pop(device, None)
            self._deliver(running, answer.event, wanted=wanted)

    def _deliver(self, running: Running, event: Event, *, wanted: bool = True) -> None:
        """The heart: an event goes in, tokens and commands come out."""
        tokens = running.schedule.receive(event)
        now = time.monotonic()
        if running.records is not None:
            running.records.append(self._received(running, event, now, tokens, wanted=wanted))
        self._send(running, now)  # the devices first: what follows is done while they work
        if isinstance(event, Proposed | Judged):
            running.meter.add(event, wanted=wanted)
        if tokens:
            running.meter.commit(now)
            running.client.send([Tokens(request=running.submit.request, tokens=tokens)])
        if running.schedule.finish_reason is not None:
            running.client.send([running.finished()])
            self._finished += 1
            self._forget(running)

    def _received(
        self, running: Running, event: Event, now: float, tokens: tuple[int, ...], *, wanted: bool
    ) -> Received:
        counts = running.schedule.counts
        return Received(
            at=now,
            request=running.submit.request,
            event=without_laws(event),
            wanted=wanted,
            tokens=tokens,
            epoch=running.schedule.epoch,
            kept=counts.kept,
            rejections=counts.rejections,
        )

    def _send(self, running: Running, now: float | None = None) -> None:
        """Carry the schedule's commands to the devices that are there."""
        now = time.monotonic() if now is None else now
        for command in running.schedule.commands():
            device = device_of(command)
            station = self._stations[device]
            if station.peer is None:
                continue
            station.peer.send([running.packet(command, device)])
            if isinstance(command, Cancel):
                running.waiting.pop(device, None)
            else:
                running.waiting[device] = now
            if running.records is not None:
                bare = without_laws(command)
                running.records.append(Sent(at=now, request=running.submit.request, command=bare))
        target = self._stations[Device.TARGET].peer
        if target is not None and (news := running.news()) is not None:
            target.send([news])

    def _on_abort(self, client: Peer, abort: Abort) -> None:
        if (client, abort.request) in self._loading:
            self._loading[client, abort.request].cancel()
            client.send([Failed(request=abort.request, message="interrupted before it began")])
        for running in list(self._running.values()):
            if running.client is client and running.submit.request == abort.request:
                client.send([running.finished()])
                self._forget(running)

    def _fail(self, running: Running, message: str) -> None:
        running.client.send([Failed(request=running.submit.request, message=message)])
        self._forget(running)

    def _forget(self, running: Running) -> None:
        del self._running[running.number]
        for device in running.devices:
            peer = self._stations[device].peer
            if peer is not None:
                peer.send([Close(request=running.number)])

    # -- devices that come and go --------------------------------------------------------------

    def _on_device(self, device: Device, peer: Peer) -> None:
        """A device dialled in, for the first time or after a restart; it remembers nothing.

        It is told of the requests under way, and sent jobs as soon as it says that it can work.
        """
        if device not in self._stations:
            message = f"a {device} dialled in, and none is wanted"
            raise PeerError(message)
        station = self._stations[device]
        if station.peer is not None:
            station.peer.close()
            station.peer = None
            self._lose(device)
        station.peer, station.fault = peer, None
        for running in self._using(device):
            self._introduce(running, device)

    def _introduce(self, running: Running, device: Device) -> None:
        running.told[device] = 0
        peer = self._stations[device].peer
        if peer is not None:
            peer.send([running.open_packet()])

    def _note_start(self, device: Device) -> None:
        """A model that kills its process whenever it is loaded is not loaded for ever."""
        station = self._stations[device]
        station.failed_starts += not station.usable
        if station.failed_starts >= MOST_STARTS and station.fault is None:
            station.fault = (
                f"the {device} ended {station.failed_starts} times while it loaded its model; "
                "is there memory for it?"
            )
            self._changed.set()

    def _lose(self, device: Device) -> None:
        """The device is gone, or has not answered for too long."""
        station = self._stations[device]
        if not station.usable:
            return
        station.usable = False
        station.losses += 1
        station.lost_at = time.monotonic()
        if station.peer is not None:  # it has stalled
            station.peer.send([Probe()])
        for running in self._using(device):
            running.waiting.pop(device, None)
            self._deliver(running, DeviceLost(device=device))
        if device is Device.TARGET and not self._restarts:
            self._fail_all(station.fault or "the target died")
        for running in list(self._running.values()):
            if running.schedule.counts.target_losses >= MOST_LOSSES:
                self._fail(running, f"the target died {MOST_LOSSES} times while it ran")

    def _regain(self, device: Device) -> None:
        """A device can work: its model is loaded, or it had stalled and has caught up."""
        station = self._stations[device]
        if station.usable:
            return
        station.usable = True
        station.failed_starts = 0
        self._changed.set()
        for running in self._using(device):
            self._deliver(running, DeviceBack(device=device))

    def _using(self, device: Device) -> list[Running]:
        return [running for running in self._running.values() if device in running.devices]

    def _fail_all(self, message: str) -> None:
        for running in list(self._running.values()):
            self._fail(running, message)

    # -- deadlines -----------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            self._check(time.monotonic())

    def _check(self, now: float) -> None:
        """Give up on what has taken too long."""
        target = self._stations[Device.TARGET]
        if not target.usable and target.lost_at and now - target.lost_at > self._patience.restart:
            why = target.fault or "it was not restarted in time"
            self._fail_all(f"the target died and did not come back: {why}")
        for running in list(self._running.values()):
            since = running.waiting.get(Device.TARGET, now)
            if now - since > self._patience.target:
                self._fail(running, f"no verdict within {self._patience.target:g} s")
        for running in self._using(Device.DRAFT):
            if now - running.waiting.get(Device.DRAFT, now) > self._draft_patience():
                self._lose(Device.DRAFT)

    def _draft_patience(self) -> float:
        """Seconds: a slow draft is no stalled one."""
        return max(self._patience.draft, STALLED * self._stations[Device.DRAFT].longest_job)
