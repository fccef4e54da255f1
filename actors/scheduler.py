"""The scheduler: drives any number of requests over one draft and one target.

It is the asyncio half of "one protocol, two clocks": for each request it carries the commands of a
pure schedule to the devices and their answers back, and streams what is committed. Nothing here
decides about tokens.

    a packet comes  ->  the schedule of its request takes the event
                    ->  committed tokens go to the client, new commands to the devices

Devices and clients dial in (`actors.peers`). A connection that ends is a device that is lost; a
device that dials in again is told everything it needs, because every job can be sent to a freshly
restarted device. Every wait has a deadline (`Patience`, `actors.stations`), and what goes wrong
with one request ends that request.

May import: the standard library, decoding, actors.peers, actors.running, actors.stations,
actors.wire.
Must never: compute anything of a model, or know about Ray.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import itertools
import logging
import secrets
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Final, final

from actors.peers import MOST_STRANGERS, Peer
from actors.running import Running
from actors.stations import MOST_LOSSES, Station
from actors.wire import (
    BEAT_S,
    MISSED_BEATS,
    Abort,
    Address,
    Alive,
    Answer,
    AnyPacket,
    Beat,
    Close,
    Failed,
    Fault,
    Hello,
    Leave,
    Probe,
    Spoilt,
    Submit,
    Tokens,
)
from decoding.errors import PearlError, PeerError
from decoding.measured import Measured
from decoding.messages import (
    Device,
    DeviceBack,
    DeviceLost,
    Event,
    Judged,
    Proposed,
    device_of,
)
from decoding.sampling import refuse_unless
from decoding.stopping import StopRules
from decoding.trace import Sent, without_laws

if TYPE_CHECKING:
    from collections.abc import Callable

    from decoding.text import Detokenizer

CHECK_EVERY_S: Final = 0.1
OVERSLEPT_S: Final = 0.5  # a watchdog that is so late has not watched
SILENCE_S: Final = BEAT_S * MISSED_BEATS
REMEMBERED: Final = 64  # reasons in the statistics
WITHOUT_END: Final = 10  # times a deadline: nobody waits for longer, whoever else is served

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait, in seconds, before going on without; longer jobs are given more.

    Args:
        draft: for a window; the request then goes on alone until the draft has caught up.
        target: for a verdict; the request then fails.
        restart: for a lost target to come back; its requests then fail.
    """

    draft: float = 1.0
    target: float = 300.0
    restart: float = 120.0

    def __post_init__(self) -> None:
        """Refuse what is no time."""
        for name in ("draft", "target", "restart"):
            refuse_unless(self, name, "seconds, more than 0", fine=is_time(getattr(self, name)))


def is_time(value: Any) -> bool:
    """Whether it is a number of seconds to wait."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and bool(value > 0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerStatistics:
    """How the scheduler is, at one moment.

    Args:
        running, finished, failed, refused: requests; those that failed had begun.
        devices: that can work now.
        processes: of these, by role.
        losses: times a device that could work was lost.
        restarts: times a device came back as a new process, or on a new connection.
        slower: why a device works by a slower way than it could, by role.
        reasons: the last failures, refusals and losses, a line each.
    """

    running: int
    finished: int
    failed: int = 0
    refused: int = 0
    devices: tuple[Device, ...]
    processes: dict[str, int]
    losses: dict[str, int]
    restarts: dict[str, int] = dataclasses.field(default_factory=dict)
    slower: dict[str, str] = dataclasses.field(default_factory=dict)
    reasons: tuple[str, ...] = ()


@final
class Scheduler:
    """Runs requests; see the top of this file.

    Args:
        devices: the devices that will dial in; without a draft only `ar` can be asked for.
        load_text: gives the detokenizer, which is needed for stop strings only.
        restarts: whether somebody restarts a device that died.
        patience: deadlines.
        restart: ends and restarts a device that gives no sign of life, where somebody can.
    """

    def __init__(
        self,
        devices: tuple[Device, ...] = tuple(Device),
        *,
        load_text: Callable[[], Detokenizer] | None = None,
        restarts: bool = False,
        patience: Patience | None = None,
        restart: Callable[[Hello], None] | None = None,
    ) -> None:
        self._secret = secrets.token_hex(32)
        self._stations = {device: Station() for device in devices}
        self._load_text = load_text
        self._text: Detokenizer | None = None
        self._text_lock = asyncio.Lock()
        self._loading: dict[tuple[Peer, int], asyncio.Task[None]] = {}
        self._restarts = restarts
        self._restart = restart
        self._patience = patience or Patience()
        self._peers: set[Peer] = set()
        self._running: dict[int, Running] = {}
        self._measured = Measured()  # what `gamma auto` knows of these devices
        self._numbers = itertools.count()
        self._ended: Counter[str] = Counter()
        self._reasons: deque[str] = deque(maxlen=REMEMBERED)
        self._changed = asyncio.Event()
        self._opened_at = 0.0
        self._server: asyncio.Server | None = None
        self._watchdog: asyncio.Task[None] | None = None

    # -- life ----------------------------------------------------------------------------------

    async def open(
        self, host: str = "127.0.0.1", port: int = 0, secret: str | None = None
    ) -> Address:
        """Listen on this interface.

        Args:
            host: the interface's address.
            port: 0 takes a free one.
            secret: what opens the door; None makes one. A scheduler that is restarted takes port
                and secret of the one before, so that its peers find it.
        """
        self._secret = secret or self._secret
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Peer(self), host, port)
        self._watchdog = loop.create_task(self._watch())
        self._opened_at = time.monotonic()
        found: int = self._server.sockets[0].getsockname()[1]
        return Address(host=host, port=found, secret=self._secret)

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
        """Hang up on everybody, for good."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self._server is not None:
            self._server.close()
        for running in list(self._running.values()):
            self._fail(running, "the scheduler was closed")
        for peer in list(self._peers):
            if peer.hello is not None:
                peer.send([Leave()])
            peer.close()

    def has_given_up(self, device: Device) -> bool:
        """Whether nobody waits for this device any more: it has failed to start again and again."""
        return self._stations[device].dead

    def statistics(self) -> SchedulerStatistics:
        """How it is."""
        stations = {str(device): station for device, station in self._stations.items()}
        peers = {d: s.peer for d, s in stations.items() if s.usable and s.peer is not None}
        return SchedulerStatistics(
            running=len(self._running),
            finished=self._ended["finished"],
            failed=self._ended["failed"],
            refused=self._ended["refused"],
            devices=tuple(device for device, s in self._stations.items() if s.usable),
            processes={d: peer.hello.process for d, peer in peers.items() if peer.hello},
            losses={device: station.losses for device, station in stations.items()},
            restarts={device: station.restarts for device, station in stations.items()},
            slower={device: s.slower for device, s in stations.items() if s.slower},
            reasons=tuple(self._reasons),
        )

    def _raise_faults(self) -> None:
        for device, station in self._stations.items():
            if station.fault is not None:
                raise PeerError(station.fault)
            if station.dead:
                message = f"the {device} ended again and again before it could work"
                raise PeerError(message)

    def _note(self, line: str) -> None:
        """What went wrong, for the statistics and the log."""
        self._reasons.append(line)
        log.info("%s", line)

    # -- packets -------------------------------------------------------------------------------

    def take(self, peer: Peer, packet: AnyPacket) -> None:
        """Handle one packet.

        Raises:
            PeerError: the peer is not allowed to say this.
        """
        if peer.hello is None:
            self._welcome(peer, packet)
        elif (device := peer.hello.device) is not None:
            if isinstance(packet, Answer):  # by far the most
                if self._stations[device].peer is peer:  # and not one that has been replaced
                    self._on_answer(packet, device)
            else:
                self._take_from_device(peer, packet, device)
        else:
            self._take_from_client(peer, packet)

    def _take_from_device(self, peer: Peer, packet: AnyPacket, device: Device) -> None:
        station = self._stations[device]
        match packet:
            case Spoilt() | Alive() if station.peer is not peer:
                pass  # a device that has been replaced
            case Spoilt():
                self._on_spoilt(packet, device)
            case Alive():
                if packet.slower != station.slower:
                    station.slower = packet.slower
                    self._note(f"the {device} is slower than it could be: {packet.slower}")
                peer.has_worked = True
                self._regain(device)
            case Fault():
                station.fault = packet.message
                self._changed.set()
            case Beat():
                pass  # its time was noted
            case _:
                raise _out_of_place(packet)

    def _take_from_client(self, peer: Peer, packet: AnyPacket) -> None:
        match packet:
            case Submit():
                self._on_submit(peer, packet)
            case Abort():
                self._on_abort(peer, packet)
            case Beat():
                peer.send([Beat()])
            case Answer() | Alive():
                pass  # harmless
            case _:
                raise _out_of_place(packet)

    def _welcome(self, peer: Peer, packet: AnyPacket) -> None:
        if not isinstance(packet, Hello) or not self._admits(packet.secret):
            message = "a peer did not say hello with the right secret"
            raise PeerError(message)
        peer.welcome(packet)
        peer.send([Beat()])  # so that it knows that it was let in
        if packet.device is not None:
            self._on_device(packet.device, peer, packet)

    def _admits(self, secret: str) -> bool:
        return hmac.compare_digest(secret.encode(), self._secret.encode())

    def dialled(self, peer: Peer) -> None:
        """A connection began; whose it is, its first packet says."""
        self._peers.add(peer)
        if sum(each.hello is None for each in self._peers) > MOST_STRANGERS:
            peer.cut()

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
            self._on_gone(peer.hello.device, peer)

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
        except Exception as error:  # noqa: BLE001 - a tokenizer's own code may raise anything
            self._refuse(client, submit, str(error) or type(error).__name__)
        else:
            self._begin(client, submit)

    def _begin(self, client: Peer, submit: Submit) -> None:
        missing = self._missing(submit)
        if missing is not None:
            self._refuse(client, submit, missing)
            return
        now = time.monotonic()
        schedule = submit.settings.start(self._stop_rules(submit), self._measured, submit.reach)
        running = Running(next(self._numbers), submit, client, schedule, now)
        self._running[running.number] = running
        for device in running.devices:
            if self._stations[device].serves(running.number):
                self._give(running, device)
        for device in set(running.devices) - running.has:
            self._deliver(running, DeviceLost(device=device))
        self._send(running)

    def _missing(self, submit: Submit) -> str | None:
        """Why a request cannot be begun."""
        target = self._stations[Device.TARGET]
        if submit.settings.widest > 0 and Device.DRAFT not in self._stations:
            return f"schedule {submit.settings.schedule} needs a draft and none was started"
        if not submit.prompt:
            return "the prompt has 0 tokens; it needs at least one"
        if target.dead:
            return f"the target cannot be started: {target.fault or 'it ends while it loads'}"
        if target.losses and not target.usable and not self._restarts:
            return f"the target is gone: {target.fault or 'it died'}"
        return None

    def _refuse(self, client: Peer, submit: Submit, message: str) -> None:
        self._ended["refused"] += 1
        self._note(f"request {submit.request} of a client was refused: {message}")
        client.send([Failed(request=submit.request, message=message)])

    def _stop_rules(self, submit: Submit) -> StopRules:
        return StopRules(
            limit=submit.settings.max_new_tokens,
            eos=frozenset(submit.eos),
            strings=submit.settings.stop,
            text=self._text,
        )

    def _on_answer(self, answer: Answer, device: Device) -> None:
        running, event = self._running.get(answer.request), answer.event
        if running is None:
            return
        wanted = running.schedule.awaits(event)
        station = self._stations[device]
        if wanted and (asked := running.answered(device)) is not None:
            station.observe(asked, event.ended - event.began, time.monotonic())
        running.blame.pop(device, None)
        if station.suspects:
            self._acquit(running, device)
        self._deliver(running, event, wanted=wanted)

    def _on_spoilt(self, packet: Spoilt, device: Device) -> None:
        running = self._running.get(packet.request)
        if running is None:
            return
        if packet.crowded and device is Device.DRAFT:
            self._go_on_without_draft(running, packet.message)
        else:
            self._fail(running, packet.message)

    def _deliver(self, running: Running, event: Event, *, wanted: bool = True) -> None:
        """The heart: an event goes in, tokens and commands come out; what fails is the request."""
        try:
            tokens = running.schedule.receive(event)
            now = time.monotonic()
            if running.records is not None:
                running.records.append(running.received(event, now, tokens, wanted=wanted))
            self._send(running, now)  # the devices first: what follows is done while they work
            if isinstance(event, Proposed | Judged):
                running.meter.add(event, wanted=wanted)
            if tokens:
                running.meter.commit(now)
                running.client.send([Tokens(request=running.submit.request, tokens=tokens)])
            if running.schedule.finish_reason is not None:
                running.client.send([running.finished()])
                self._ended["finished"] += 1
                self._forget(running)
        except Exception as error:  # noqa: BLE001 - a tokenizer's own code may raise anything
            self._fail(running, f"the scheduler failed with {type(error).__name__}: {error}")

    def _send(self, running: Running, now: float | None = None) -> None:
        """Carry the schedule's commands to the devices that are there."""
        now = time.monotonic() if now is None else now
        for command in running.schedule.commands():
            device = device_of(command)
            station = self._stations[device]
            if station.peer is None or device not in running.has:
                continue  # it is sent again when the device is back
            alone = bool(station.suspects)  # then it does nothing by itself, or nobody knows whose
            station.peer.send([running.packet(command, device, now, foretell=not alone)])
            if running.records is not None:
                bare = without_laws(command)
                running.records.append(Sent(at=now, request=running.submit.request, command=bare))
        target = self._stations[Device.TARGET]
        has_it = Device.TARGET in running.has and not target.suspects
        if target.peer is not None and has_it and (news := running.news()) is not None:
            target.peer.send([news])

    def _on_abort(self, client: Peer, abort: Abort) -> None:
        if (client, abort.request) in self._loading:
            self._loading[client, abort.request].cancel()
            client.send([Failed(request=abort.request, message="interrupted before it began")])
        for running in list(self._running.values()):
            if running.client is client and running.submit.request == abort.request:
                client.send([running.finished()])
                self._forget(running)

    def _fail(self, running: Running, message: str) -> None:
        if running.number in self._running:
            self._ended["failed"] += 1
            self._note(f"request {running.number} failed: {message}")
            running.client.send([Failed(request=running.submit.request, message=message)])
            self._forget(running)

    def _forget(self, running: Running) -> None:
        del self._running[running.number]
        for device in running.devices:
            station = self._stations[device]
            if station.peer is not None:
                station.peer.send([Close(request=running.number)])
            self._clear(running, device)

    # -- devices that come and go --------------------------------------------------------------

    def _on_device(self, device: Device, peer: Peer, hello: Hello) -> None:
        """A device dialled in, for the first time or after a restart; it remembers nothing.

        It is told of the requests under way, and sent jobs as soon as it says that it can work.
        """
        if device not in self._stations:
            message = f"a {device} dialled in, and none is wanted"
            raise PeerError(message)
        station = self._stations[device]
        if (old := station.peer) is not None:
            old.cut()
            self._on_gone(device, old)
        if hello.again:  # its connection was cut, and it lives: no request has killed it
            station.suspects.clear()
            for running in self._using(device):
                running.blame.pop(device, None)
        station.peer, station.fault = peer, None
        station.starts += 1

    def _on_gone(self, device: Device, peer: Peer) -> None:
        """The connection to a device has ended."""
        station = self._stations[device]
        station.peer = None
        if peer.has_worked:
            self._lose(device, station.fault or f"the {device} died")
            self._accuse(device)
        else:
            station.failed_to_start()
            self._changed.set()
            if station.dead and device is Device.TARGET:
                self._fail_all(f"the target cannot be started: {station.fault or 'it ends early'}")

    def _lose(self, device: Device, why: str) -> None:
        """The device is gone, or has not answered for too long."""
        station = self._stations[device]
        if not station.usable:
            return
        station.usable = False
        station.losses += 1
        station.lost_at = time.monotonic()
        self._note(f"the {device} was lost: {why}")
        if station.peer is not None:  # it has stalled
            station.peer.send([Probe()])
        using = self._using(device)
        station.asked = [running.number for running in using if device in running.waiting]
        for running in using:
            running.waiting.pop(device, None)
            self._take_away(running, device)
        if device is Device.TARGET and not self._restarts:
            self._fail_all(why)

    def _accuse(self, device: Device) -> None:
        """A device died: whoever had it alone is to blame, else all who had it are suspects."""
        station = self._stations[device]
        asked = [self._running[number] for number in station.asked if number in self._running]
        station.asked.clear()
        if len(asked) == 1:
            asked[0].blame[device] = asked[0].blame.get(device, 0) + 1
        numbers = {running.number for running in asked} | set(station.suspects)
        station.suspects = sorted(numbers, key=lambda n: (self._running[n].blame.get(device, 0), n))
        for running in asked:
            if running.blame.get(device, 0) >= MOST_LOSSES:
                self._give_up_on(running, device)

    def _give_up_on(self, running: Running, device: Device) -> None:
        """A request that a device has died of again and again has it no more."""
        fault = self._stations[device].fault
        how = f"the {device} died {MOST_LOSSES} times while it ran"
        how = f"{how}; the last time: {fault}" if fault else how
        if device is Device.TARGET:
            self._fail(running, how)
        else:
            self._go_on_without_draft(running, how)

    def _go_on_without_draft(self, running: Running, why: str) -> None:
        self._note(f"request {running.number} goes on without a draft: {why}")
        running.devices = (Device.TARGET,)
        running.waiting.pop(Device.DRAFT, None)
        self._take_away(running, Device.DRAFT)
        self._clear(running, Device.DRAFT)

    def _regain(self, device: Device) -> None:
        """A device can work: its model is loaded, or it had stalled and has caught up."""
        station = self._stations[device]
        if not station.usable:
            station.regained()
            self._changed.set()
            self._admit(device)

    def _acquit(self, running: Running, device: Device) -> None:
        """A suspect has had its answer. It waits with the others until all have had theirs."""
        station = self._stations[device]
        if running.number in station.suspects and len(station.suspects) > 1:
            if station.peer is not None:
                station.peer.send([Close(request=running.number)])  # its memory is for the others
            running.opened.pop(device, None)
            running.has.discard(device)
            if device is Device.DRAFT:
                self._deliver(running, DeviceLost(device=device))
        self._clear(running, device)

    def _clear(self, running: Running, device: Device) -> None:
        """A request is no suspect any more: the next one's turn."""
        station = self._stations[device]
        if running.number in station.suspects:
            station.suspects.remove(running.number)
            self._admit(device)

    def _admit(self, device: Device) -> None:
        """Give a device to the requests that may have it now."""
        station = self._stations[device]
        station.suspect_since = time.monotonic()
        for running in self._using(device):
            if device not in running.has and station.serves(running.number):
                self._give(running, device)
                self._deliver(running, DeviceBack(device=device))

    def _give(self, running: Running, device: Device) -> None:
        """From now on the device is sent its jobs, of which it is told first."""
        running.has.add(device)
        peer = self._stations[device].peer
        if peer is not None and running.opened.get(device) is not peer:
            running.opened[device] = peer
            peer.send([running.open_packet(device)])

    def _take_away(self, running: Running, device: Device) -> None:
        if device in running.has:
            running.has.discard(device)
            self._deliver(running, DeviceLost(device=device))

    def _using(self, device: Device) -> list[Running]:
        return [running for running in self._running.values() if device in running.devices]

    def _fail_all(self, message: str) -> None:
        for running in list(self._running.values()):
            self._fail(running, message)

    # -- deadlines -----------------------------------------------------------------------------

    async def _watch(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            now = time.monotonic()
            if now - last > CHECK_EVERY_S + OVERSLEPT_S:
                self._overslept(now - last)
            last = now
            try:
                self._check(now)
            except Exception:  # without it nobody would have a deadline any more
                log.exception("the watchdog failed, and goes on")

    def _overslept(self, seconds: float) -> None:
        """Nobody was heard meanwhile because nobody listened."""
        for peer in self._peers:
            peer.heard += seconds
        for running in self._running.values():
            for device, asked in running.waiting.items():
                running.waiting[device] = asked._replace(since=asked.since + seconds)

    def _check(self, now: float) -> None:
        """Give up on what has taken too long."""
        for peer in list(self._peers):
            self._check_peer(peer, now)
        target = self._stations[Device.TARGET]
        lost_at = target.lost_at or self._opened_at
        if not target.usable and self._running and now - lost_at > self._patience.restart:
            why = target.fault or "it was not restarted in time"
            self._fail_all(f"the target died and did not come back: {why}")
        for device, station in self._stations.items():
            if station.usable:
                self._check_jobs(device, now)
                self._check_suspect(device, now)

    def _check_peer(self, peer: Peer, now: float) -> None:
        device = None if peer.hello is None else peer.hello.device
        if device is None:  # a stranger, or a client
            if peer.is_flooded() or peer.is_late(now):
                peer.cut()
        elif peer.is_late(now) and self._stations[device].peer is peer:
            self._lose(device, f"no sign of life for {SILENCE_S:g} s")
            overdue = peer.has_worked and now - peer.heard > 2 * SILENCE_S
            if overdue and self._restart is not None and peer.hello is not None:
                peer.heard = now  # it has so long to be restarted
                self._restart(peer.hello)

    def _check_jobs(self, device: Device, now: float) -> None:
        station, using = self._stations[device], self._using(device)
        waiting = [running for running in using if device in running.waiting]
        tokens = sum(running.waiting[device].tokens for running in waiting)
        patience = max(getattr(self._patience, device), station.patience(tokens))
        if device is Device.DRAFT:
            if any(now - running.waiting[device].since > patience for running in waiting):
                self._lose(device, f"no window within {patience:g} s")
            return
        for running in waiting:
            # While it answers others this one may wait for memory, but not for ever.
            since = running.waiting[device].since
            idle = now - max(since, station.answered_at)
            if idle > patience or now - since > WITHOUT_END * patience:
                self._fail(running, f"no verdict within {patience:g} s")

    def _check_suspect(self, device: Device, now: float) -> None:
        """Nobody waits for a suspect that has no job for the device."""
        station = self._stations[device]
        if station.suspects and now - station.suspect_since > SILENCE_S:
            running = self._running[station.suspects[0]]
            if device not in running.waiting:
                self._clear(running, device)


def _out_of_place(packet: AnyPacket) -> PearlError:
    return PeerError(f"{type(packet).__name__} is nothing that a peer may say here")
