"""Requests on their devices: which requests have which device, and what is sent where.

    an event comes  ->  the conversation of its request takes it
                    ->  committed tokens go to the client, new orders to the devices

A device that is lost is taken away from the requests that have it, and given back when it can work
again; every job can be sent to a freshly restarted device. Which requests may have a device that
has died, and in which order, is said at the top of `pearl.actors.stations`. What goes wrong with
one request ends that request.

May import: the standard library, decoding, actors.peers, actors.running, actors.stations,
actors.wire.
Must never: decide about tokens, or know about Ray.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Final, final

from pearl.actors.running import Running
from pearl.actors.stations import MOST_LOSSES, Station
from pearl.actors.wire import Alone, Close, Failed, Probe, Tokens
from pearl.decoding.measured import Measurements
from pearl.decoding.messages import TARGET, Device, DeviceBack, DeviceLost, Event, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pearl.actors.peers import Peer
    from pearl.actors.wire import JobDone, Spoilt, Submit
    from pearl.decoding.messages import Order
    from pearl.decoding.stopping import StopRules

REMEMBERED: Final = 64  # reasons in the statistics

log = logging.getLogger(__name__)


@final
class Dispatch:
    """The requests that run, on the devices that are there.

    Args:
        devices: there can be jobs for these.
        restarts: whether a device that died is restarted.
        changed: called when a device can work, or cannot start.
    """

    def __init__(
        self, devices: Iterable[Device], *, restarts: bool, changed: Callable[[], None]
    ) -> None:
        self.stations = {device: Station() for device in devices}
        self.running: dict[int, Running] = {}
        self.ended: Counter[str] = Counter()
        self.reasons: deque[str] = deque(maxlen=REMEMBERED)
        self._restarts = restarts
        self._changed = changed
        self._measured = Measurements()  # what `gamma auto` knows of these devices
        self._begun = 0
        self._drafting = 0  # requests whose draft is asked for windows

    def note(self, line: str) -> None:
        """What went wrong, for the statistics and the log."""
        self.reasons.append(line)
        log.info("%s", line)

    # -- requests ------------------------------------------------------------------------------

    def begin(self, client: Peer, submit: Submit, stop: StopRules) -> None:
        """A new request."""
        now = time.monotonic()
        running = Running(
            self._begun, submit, client, stop, self._carry, now=now, measured=self._measured
        )
        self._begun += 1
        self.running[running.number] = running
        for device in running.devices:
            if self.stations[device].serves(running.number):
                self._give(running, device)
        running.conversation.foretells = not self.stations[TARGET].suspects
        away = [device for device in running.devices if device not in running.has]
        running.conversation.begin(now, away)
        self._note_rest(running)

    def missing(self, submit: Submit) -> str | None:
        """Why a request cannot be begun."""
        target = self.stations[TARGET]
        if submit.settings.widest > 0 and not any(d.role is Role.DRAFT for d in self.stations):
            return f"schedule {submit.settings.schedule} needs a draft and none was started"
        if not submit.prompt:
            return "the prompt has 0 tokens; it needs at least one"
        if target.dead:
            return f"the target cannot be started: {target.fault or 'it ends while it loads'}"
        if target.losses and not target.usable and not self._restarts:
            return f"the target is gone: {target.fault or 'it died'}"
        return None

    def refuse(self, client: Peer, submit: Submit, message: str) -> None:
        """A request that is not begun."""
        self.ended["refused"] += 1
        self.note(f"request {submit.request} of a client was refused: {message}")
        client.send([Failed(request=submit.request, message=message)])

    def of(self, client: Peer) -> list[Running]:
        """The requests of a client."""
        return [running for running in self.running.values() if running.client is client]

    def using(self, device: Device) -> list[Running]:
        """The requests that work with a device when it is there."""
        return [running for running in self.running.values() if device in running.devices]

    def answer(self, answer: JobDone, device: Device) -> None:
        """A device has done a job."""
        running, event = self.running.get(answer.request), answer.event
        if running is None:
            return
        station = self.stations[device]
        wanted = running.conversation.schedule.awaits(event)
        if wanted and (asked := running.answered(device)) is not None:
            station.observe(asked, event.ended - event.began, time.monotonic())
        running.blame.pop(device, None)
        if station.suspects:
            self._acquit(running, device)
        self._deliver(running, event)

    def spoilt(self, packet: Spoilt, device: Device) -> None:
        """A device cannot go on with a request."""
        running = self.running.get(packet.request)
        if running is None:
            return
        if packet.crowded and device.role is Role.DRAFT:
            self._go_on_without(running, device, packet.message)
        else:
            self.fail(running, packet.message)

    def fail(self, running: Running, message: str) -> None:
        """A request cannot go on."""
        if running.number in self.running:
            self.ended["failed"] += 1
            self.note(f"request {running.number} failed: {message}")
            running.client.send([Failed(request=running.submit.request, message=message)])
            self.forget(running)

    def fail_all(self, message: str) -> None:
        """None can."""
        for running in list(self.running.values()):
            self.fail(running, message)

    def forget(self, running: Running) -> None:
        """A request is not wanted any more."""
        del self.running[running.number]
        self._note_rest(running)
        for device in running.devices:
            station = self.stations[device]
            if station.peer is not None:
                station.peer.send([Close(request=running.number)])
            self.clear(running, device)

    def _deliver(self, running: Running, event: Event) -> None:
        """An event goes in, tokens and orders come out; what fails is the request."""
        conversation, request = running.conversation, running.submit.request
        # A suspect begins no job by itself, or a loss could not be blamed on one request.
        conversation.foretells = not self.stations[TARGET].suspects
        try:
            tokens = conversation.hear(event, time.monotonic())
            if tokens:
                running.client.send([Tokens(request=request, tokens=tokens)])
            if conversation.schedule.finish_reason is not None:
                running.client.send([running.finished()])
                self.ended["finished"] += 1
                self.forget(running)
            else:
                self._note_rest(running)
        except Exception as error:  # noqa: BLE001 - a tokenizer's own code may raise anything
            self.fail(running, f"the scheduler failed with {type(error).__name__}: {error}")

    def _note_rest(self, running: Running) -> None:
        """Tell the target when no draft has anything to do any more, and when one has again."""
        drafts = running.number in self.running and running.conversation.schedule.drafts
        if drafts is not running.drafts:
            alone = not self._drafting
            running.drafts = drafts
            self._drafting += 1 if drafts else -1
            if alone is not (not self._drafting):
                self._say_alone()

    def _say_alone(self) -> None:
        target = self.stations[TARGET].peer
        if target is not None:
            target.send([Alone(alone=not self._drafting)])

    def _carry(self, device: Device, order: Order) -> None:
        """Send an order; what a device does not get now is given again when it is back."""
        running, peer = self.running[order.request], self.stations[device].peer
        if peer is not None and device in running.has:
            running.note(device, order, time.monotonic())
            peer.send([order])

    # -- devices that come and go --------------------------------------------------------------

    def dialled_in(self, device: Device, peer: Peer, *, again: bool) -> None:
        """A device is there, for the first time or after a restart; it remembers nothing.

        It gets the requests under way, and jobs as soon as it says that it can work.

        Args:
            again: its connection was cut, and it lives: no request has killed it.
        """
        station = self.stations[device]
        if (old := station.peer) is not None:
            old.cut()
            self.gone(device, old)
        if again:
            station.suspects.clear()
            for running in self.using(device):
                running.blame.pop(device, None)
        station.peer, station.fault = peer, None
        station.starts += 1
        if device.role is Role.TARGET:
            self._say_alone()

    def gone(self, device: Device, peer: Peer) -> None:
        """The connection to a device has ended."""
        station = self.stations[device]
        station.peer = None
        if peer.has_worked:
            self.lose(device, station.fault or f"the {device} died")
            self._accuse(device)
        else:
            station.failed_to_start()
            self._changed()
            if station.dead and device.role is Role.TARGET:
                self.fail_all(f"the target cannot be started: {station.fault or 'it ends early'}")

    def lose(self, device: Device, why: str) -> None:
        """A device is gone, or has not answered for too long."""
        station = self.stations[device]
        if not station.usable:
            return
        station.usable = False
        station.losses += 1
        station.lost_at = time.monotonic()
        self.note(f"the {device} was lost: {why}")
        if station.peer is not None:  # it has stalled
            station.peer.send([Probe()])
        using = self.using(device)
        station.asked = [running.number for running in using if device in running.waiting]
        for running in using:
            running.waiting.pop(device, None)
            self._take_away(running, device)
        if device.role is Role.TARGET and not self._restarts:
            self.fail_all(why)

    def regain(self, device: Device) -> None:
        """A device can work: its model is loaded, or it had stalled and has caught up."""
        station = self.stations[device]
        if not station.usable:
            station.regained()
            self._changed()
            self._admit(device)

    def clear(self, running: Running, device: Device) -> None:
        """A request is no suspect any more: the next one's turn."""
        station = self.stations[device]
        if running.number in station.suspects:
            station.suspects.remove(running.number)
            self._admit(device)

    def _accuse(self, device: Device) -> None:
        """A device died: a request that had it alone is to blame, else all are suspects."""
        station = self.stations[device]
        asked = [running for running in self.using(device) if running.number in station.asked]
        station.asked.clear()
        if len(asked) == 1:
            asked[0].blame[device] = asked[0].blame.get(device, 0) + 1
        numbers = {running.number for running in asked} | set(station.suspects)
        station.suspects = sorted(numbers, key=lambda n: (self.running[n].blame.get(device, 0), n))
        for running in asked:
            if running.blame.get(device, 0) >= MOST_LOSSES:
                self._give_up_on(running, device)

    def _give_up_on(self, running: Running, device: Device) -> None:
        """A request that a device has died of again and again has it no more."""
        fault = self.stations[device].fault
        how = f"the {device} died {MOST_LOSSES} times while it ran"
        how = f"{how}; the last time: {fault}" if fault else how
        if device.role is Role.TARGET:
            self.fail(running, how)
        else:
            self._go_on_without(running, device, how)

    def _go_on_without(self, running: Running, draft: Device, why: str) -> None:
        self.note(f"request {running.number} goes on without a draft: {why}")
        running.devices = tuple(device for device in running.devices if device != draft)
        running.waiting.pop(draft, None)
        self._take_away(running, draft)
        self.clear(running, draft)

    def _acquit(self, running: Running, device: Device) -> None:
        """A suspect has had its answer. It waits with the others until all have had theirs."""
        station = self.stations[device]
        if running.number in station.suspects and len(station.suspects) > 1:
            if station.peer is not None:
                station.peer.send([Close(request=running.number)])  # its memory is for the others
            running.opened.pop(device, None)
            running.has.discard(device)
            if device.role is Role.DRAFT:
                self._deliver(running, DeviceLost(device=device))
        self.clear(running, device)

    def _admit(self, device: Device) -> None:
        """Give a device to the requests that may have it now."""
        station = self.stations[device]
        station.suspect_since = time.monotonic()
        for running in self.using(device):
            if device not in running.has and station.serves(running.number):
                self._give(running, device)
                self._deliver(running, DeviceBack(device=device))

    def _give(self, running: Running, device: Device) -> None:
        """Open the request on the device, and send its jobs there from now on."""
        running.has.add(device)
        peer = self.stations[device].peer
        if peer is not None and running.opened.get(device) is not peer:
            running.opened[device] = peer
            peer.send([running.open_packet(device)])

    def _take_away(self, running: Running, device: Device) -> None:
        if device in running.has:
            running.has.discard(device)
            self._deliver(running, DeviceLost(device=device))
