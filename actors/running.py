"""One request under way: its schedule, its client, and what its devices have been told.

May import: the standard library, decoding, actors.peers, actors.stations, actors.wire.
Must never: send anything, or decide about tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from actors.stations import Asked
from actors.wire import Ahead, Finished, Open, Revoke, Submit, Work
from decoding.messages import Cancel, Command, Device, Event, Judge, TokenId
from decoding.metrics import Meter
from decoding.trace import Received, Record, without_laws

if TYPE_CHECKING:
    from actors.peers import Peer
    from decoding.foresight import Foresight
    from decoding.schedules import TwoModelSchedule


@final
class Running:
    """What the scheduler keeps for one request."""

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
        self.unread: dict[Device, int] = {}  # of these and the prompt, what it has yet to read
        self.foreseen: Foresight | None = None  # what the target knows of its next job
        self.waiting: dict[Device, Asked] = {}  # jobs that are unanswered
        self.has: set[Device] = set()  # devices that are sent its jobs
        self.opened: dict[Device, Peer] = {}  # connections on which a device was told of it
        self.blame: dict[Device, int] = {}  # times one died of it, since its last answer
        wants_draft = submit.settings.widest > 0 and (submit.reach is None or submit.reach > 0)
        self.devices = (Device.TARGET, Device.DRAFT) if wants_draft else (Device.TARGET,)

    def open_packet(self, device: Device) -> Open:
        """What a device must know before its first job."""
        settings, prompt, reach = self.submit.settings, self.submit.prompt, self.submit.reach
        # No job goes beyond the limit: schedules shorten the last windows.
        new = settings.max_new_tokens
        if device is Device.DRAFT and reach is not None:
            new = min(new, reach)
        self.told[device], self.unread[device] = 0, len(prompt)
        return Open(
            request=self.number,
            prompt=prompt,
            capacity=len(prompt) + new,
            eos=self.submit.eos,
            verifier=settings.effective_verifier,
            sampling=settings.sampling,
            seed=settings.seed,
        )

    def packet(
        self, command: Command, device: Device, now: float, *, foretell: bool
    ) -> Work | Revoke:
        """A command as its device understands it: with the committed tokens it has not seen.

        With `foretell`, also with what is known of the target's next job.
        """
        if isinstance(command, Cancel):
            self.waiting.pop(device, None)
            return Revoke(request=self.number, epoch=command.epoch)
        start = min(self.told[device], command.base)
        fresh = tuple(self.schedule.committed[start : command.base])
        self.told[device] = command.base
        unread = self.unread[device] = self.unread[device] + len(fresh)
        foresight = None
        if isinstance(command, Judge):
            tokens = len(command.pending) + 1
            if foretell:
                foresight = self.foreseen = self.schedule.foresight()
        else:
            tokens = command.count
        self.waiting[device] = Asked(now, unread + tokens)
        return Work(
            request=self.number, start=start, fresh=fresh, command=command, foresight=foresight
        )

    def answered(self, device: Device) -> Asked | None:
        """Its job was done."""
        self.unread[device] = 0
        return self.waiting.pop(device, None)

    def news(self) -> Ahead | None:
        """What the target does not know yet of its next job."""
        foresight = self.schedule.foresight()
        if foresight is None or foresight == self.foreseen:
            return None
        self.foreseen = foresight
        return Ahead(request=self.number, foresight=foresight)

    def received(
        self, event: Event, now: float, tokens: tuple[TokenId, ...], *, wanted: bool
    ) -> Received:
        """What a trace says of an event."""
        counts = self.schedule.counts
        return Received(
            at=now,
            request=self.submit.request,
            event=without_laws(event),
            wanted=wanted,
            tokens=tokens,
            epoch=self.schedule.epoch,
            kept=counts.kept,
            rejections=counts.rejections,
        )

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
