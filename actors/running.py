"""One request under way: its conversation, its client, and what its devices owe it.

May import: the standard library, decoding, actors.peers, actors.stations, actors.wire.
Must never: send anything, or decide about tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from pearl.actors.stations import Asked
from pearl.actors.wire import Finished, Open, Submit
from pearl.decoding.conversation import Conversation
from pearl.decoding.messages import DRAFT, TARGET, Cancel, Device, Judge, Order, Propose, Role

if TYPE_CHECKING:
    from pearl.actors.peers import Peer
    from pearl.decoding.conversation import Carry
    from pearl.decoding.measured import Measurements
    from pearl.decoding.stopping import StopRules


@final
class Running:
    """What the scheduler keeps for one request."""

    def __init__(
        self,
        number: int,
        submit: Submit,
        client: Peer,
        stop: StopRules,
        carry: Carry,
        *,
        now: float,
        measured: Measurements | None = None,
    ) -> None:
        self.number = number
        self.submit = submit
        self.client = client
        self.conversation = Conversation(
            number,
            submit.settings,
            stop,
            carry,
            now=now,
            measured=measured,
            reach=submit.reach,
            label=submit.request,
            records=[] if submit.trace else None,
        )
        self.unread: dict[Device, int] = {}  # of prompt and text, what a device has yet to read
        self.waiting: dict[Device, Asked] = {}  # jobs that are unanswered
        self.has: set[Device] = set()  # devices that are sent its jobs
        self.opened: dict[Device, Peer] = {}  # connections on which it was opened
        self.drafts = False  # whether its draft is asked for windows
        self.blame: dict[Device, int] = {}  # times one died of it, since its last answer
        wants_draft = submit.settings.widest > 0 and (submit.reach is None or submit.reach > 0)
        self.devices: tuple[Device, ...] = (TARGET, DRAFT) if wants_draft else (TARGET,)

    def open_packet(self, device: Device) -> Open:
        """What a device must know before its first job."""
        settings, prompt, reach = self.submit.settings, self.submit.prompt, self.submit.reach
        # No job goes beyond the limit: schedules shorten the last windows.
        new = settings.max_new_tokens
        if device.role is Role.DRAFT and reach is not None:
            new = min(new, reach)
        self.conversation.restarted(device)
        self.unread[device] = len(prompt)
        return Open(
            request=self.number,
            prompt=prompt,
            capacity=len(prompt) + new,
            eos=self.submit.eos,
            verifier=settings.effective_verifier,
            sampling=settings.sampling,
            seed=settings.seed,
        )

    def note(self, device: Device, order: Order, now: float) -> None:
        """An order leaves for a device: what it has to do is owed from now on."""
        match order.command:
            case Propose(count=tokens):
                pass
            case Judge(pending=pending):
                tokens = len(pending) + 1
            case Cancel():
                self.waiting.pop(device, None)
                return
            case _:
                return
        unread = self.unread[device] = self.unread[device] + len(order.fresh)
        self.waiting[device] = Asked(now, unread + tokens)

    def answered(self, device: Device) -> Asked | None:
        """Its job was done; what it was, unless it is not waited for any more."""
        self.unread[device] = 0
        return self.waiting.pop(device, None)

    def finished(self) -> Finished:
        """What the client gets at the end."""
        return Finished(
            request=self.submit.request,
            reason=self.conversation.schedule.finish_reason,
            metrics=self.conversation.metrics(),
            trace=tuple(self.conversation.records or ()),
        )
