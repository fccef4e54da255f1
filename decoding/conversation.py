"""The heart of every driver: one request between its schedule and its devices.

A driver (the asyncio scheduler, the simulator's world, a replay) gives a conversation what comes,
with the time at which it came, and carries to the devices what leaves:

    tokens = conversation.hear(event, now)      meanwhile carry(device, order) for all that follows

The conversation keeps what is the same for all of them: the schedule, the figures, the trace, and
which committed tokens each device has seen.

Rule: it never waits, and has no clock of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias, final

from pearl.decoding.messages import (
    ANSWERS,
    Cancel,
    Command,
    Device,
    DeviceLost,
    Event,
    Foresight,
    Judge,
    Order,
)
from pearl.decoding.metrics import Meter, Metrics
from pearl.decoding.trace import Received, Record, Sent, without_laws

if TYPE_CHECKING:
    from pearl.decoding.measured import Measurements
    from pearl.decoding.messages import TokenId
    from pearl.decoding.schedules import Schedule
    from pearl.decoding.settings import Settings
    from pearl.decoding.stopping import StopRules

Carry: TypeAlias = Callable[[Device, Order], None]


@final
class Conversation:
    """One request, between its schedule and its devices.

    Args:
        number: the name that driver and devices have for it.
        settings, stop: what was asked for, and when it ends.
        carry: takes an order to a device.
        now: seconds, as in all that follows.
        measured: what `gamma="auto"` knows already.
        reach: the most tokens after the prompt that the draft can hold; None: as many as asked.
        label: its number in the trace, where that is another one.
        records: where the trace is kept, if it is.
    """

    def __init__(
        self,
        number: int,
        settings: Settings,
        stop: StopRules,
        carry: Carry,
        *,
        now: float,
        measured: Measurements | None = None,
        reach: int | None = None,
        label: int | None = None,
        records: list[Record] | None = None,
    ) -> None:
        self.number = number
        self.schedule: Schedule = settings.start(stop, measured, reach)
        self.records = records
        self.foretells = True
        """Whether the target gets foresight: what is known of its next job."""
        self._settings = settings
        self._carry = carry
        self._label = number if label is None else label
        self._meter = Meter(now)
        self._told: dict[Device, int] = {}  # committed tokens each device knows of
        self._foreseen: Foresight | None = None  # what the target knows of its next job

    def begin(self, now: float, away: Iterable[Device] = ()) -> None:
        """The first orders go out, but none to devices that are not there."""
        for device in away:
            lost = DeviceLost(device=device)
            tokens = self.schedule.receive(lost)
            if self.records is not None:
                self.records.append(self._received(lost, now, tokens, wanted=True))
        self._speak(now)

    def hear(self, event: Event, now: float) -> tuple[TokenId, ...]:
        """An event goes in; orders go out, and the tokens that it commits come back."""
        answer = event if isinstance(event, ANSWERS) else None
        wanted = answer is None or self.schedule.awaits(answer)
        tokens = self.schedule.receive(event)
        if self.records is not None:
            self.records.append(self._received(event, now, tokens, wanted=wanted))
        self._speak(now)  # the devices first: what follows is done while they work
        if answer is not None:
            self._meter.add(answer, wanted=wanted)
        if tokens:
            self._meter.commit(now)
        return tokens

    def _speak(self, now: float) -> None:
        """Carry what the schedule wants to the devices, and to the target what will follow."""
        knows_all = not self.foretells
        for command in self.schedule.commands():
            order = self._order(command)
            knows_all = knows_all or order.foresight is not None
            self._carry(command.device, order)
            if self.records is not None:
                sent = Sent(at=now, request=self._label, command=without_laws(command))
                self.records.append(sent)
        if not knows_all:
            self._foretell()

    def restarted(self, device: Device) -> None:
        """The device begins with the request anew, and knows none of its tokens."""
        self._told[device] = 0

    def metrics(self) -> Metrics:
        """Its figures so far."""
        return self._meter.metrics(
            self.schedule.counts,
            schedule=str(self._settings.schedule),
            verifier=str(self._settings.effective_verifier),
            gamma=self.schedule.window,
            tokens=len(self.schedule.committed),
            alone_s=self.schedule.alone_s,
        )

    def _order(self, command: Command) -> Order:
        """A command as its device gets it: with the committed tokens that it has not seen."""
        if isinstance(command, Cancel):
            return Order(request=self.number, command=command)
        device, base, foresight = command.device, command.base, None
        start = min(self._told.get(device, 0), base)
        self._told[device] = base
        if self.foretells and isinstance(command, Judge):
            foresight = self._foreseen = self.schedule.foresight()
        return Order(
            request=self.number,
            command=command,
            start=start,
            fresh=tuple(self.schedule.committed[start:base]) if start < base else (),
            foresight=foresight,
        )

    def _foretell(self) -> None:
        """Carry to the target what it does not know yet of its next job."""
        foresight = self.schedule.foresight()
        if foresight is not None and foresight != self._foreseen:
            self._foreseen = foresight
            self._carry(foresight.device, Order(request=self.number, command=foresight))

    def _received(
        self, event: Event, now: float, tokens: tuple[TokenId, ...], *, wanted: bool
    ) -> Received:
        counts = self.schedule.counts
        return Received(
            at=now,
            request=self._label,
            event=without_laws(event),
            wanted=wanted,
            tokens=tokens,
            epoch=self.schedule.epoch,
            kept=counts.kept,
            rejections=counts.rejections,
        )
