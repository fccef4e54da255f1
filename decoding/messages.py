"""What a schedule and its devices say to each other.

A schedule gives *commands*; a driver carries them to a device and brings *events* back.

    Propose(epoch, base, pending, count)   draft: write `count` tokens after base + pending
    Judge(epoch, base, pending, hold)      target: one pass over the pending tokens
    Cancel(epoch)                          draft: whatever is older than this epoch is not wanted

    Proposed(epoch, start, tokens)         the draft's answer, written from position `start` on
    Judged(epoch, base, judged, kept, token)   the target's answer
    DeviceLost(device), DeviceBack(device)     the driver's own news

`base` counts the committed tokens a job stands on. A job says everything it stands on, so it can
be sent twice, late, or to a device that has just been restarted, and the answer is the same. An
event that does not answer the command a schedule waits for (`answers`) is ignored.

Positions count generated tokens: position 0 is the first token after the prompt.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

import msgspec

TokenId: TypeAlias = int


class Device(enum.StrEnum):
    """The two places where a model runs."""

    DRAFT = "draft"
    TARGET = "target"

    # An enum's own hash is a function in Python, and every round looks up devices many times.
    __hash__ = str.__hash__


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of everything that may cross a wire: immutable, compared by value, tagged by name."""


class Drafted(Message, frozen=True):
    """Tokens a draft wrote, in order.

    `laws[i]` is the distribution `tokens[i]` was really drawn from (float32, little-endian bytes).
    It travels only where the verifier needs it; otherwise `laws` is empty.
    """

    tokens: tuple[TokenId, ...] = ()
    laws: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    def after(self, count: int) -> Drafted:
        """What is left when the first `count` tokens are gone."""
        return Drafted(tokens=self.tokens[count:], laws=self.laws[count:])


class Propose(Message, frozen=True):
    """Draft: write `count` tokens after `base` committed and the `pending` ones."""

    epoch: int
    base: int
    pending: tuple[TokenId, ...]
    count: int


class Judge(Message, frozen=True):
    """Target: say how many of the pending tokens you agree with, and what comes next.

    With `hold`, a target that agrees with all of them does not choose the next token: it keeps
    that row, and the next job's first pending token is tested against it.
    """

    epoch: int
    base: int
    pending: Drafted
    hold: bool = False


class Cancel(Message, frozen=True):
    """Draft: stop writing for any epoch before this one."""

    epoch: int


class Proposed(Message, frozen=True):
    """The draft's answer, also when it was cancelled half-way (then `drafted` is shorter).

    `began` and `ended` are seconds on the device's clock; schedules use only their difference.
    """

    epoch: int
    start: int
    drafted: Drafted
    began: float = 0.0
    ended: float = 0.0

    def answers(self, command: Propose) -> bool:
        """Whether this is the whole answer to `command`."""
        return (
            self.epoch == command.epoch
            and self.start == command.base + len(command.pending)
            and len(self.drafted) == command.count
        )


class Judged(Message, frozen=True):
    """The target's answer: the first `kept` of `judged` pending tokens stand.

    `token` is the target's own choice at the next position: the replacement after a rejection, or
    the one beyond the last kept token. It is None only when every pending token was kept and the
    job asked to `hold`. `passes` is the number of forward passes spent (0 when a held row
    already decided), `read` the tokens of all requests that were read in it (0: nobody says).
    """

    epoch: int
    base: int
    judged: int
    kept: int
    token: TokenId | None
    passes: int = 1
    began: float = 0.0
    ended: float = 0.0
    read: int = 0

    def answers(self, command: Judge) -> bool:
        """Whether this is the answer to `command`."""
        return (
            self.epoch == command.epoch
            and self.base == command.base
            and self.judged == len(command.pending)
        )


class DeviceLost(Message, frozen=True):
    """The device died, or stopped answering."""

    device: Device


class DeviceBack(Message, frozen=True):
    """The device can be sent jobs again; it remembers nothing."""

    device: Device


Command: TypeAlias = Propose | Judge | Cancel
Event: TypeAlias = Proposed | Judged | DeviceLost | DeviceBack


def device_of(command: Command) -> Device:
    """Who a command is for."""
    return Device.TARGET if isinstance(command, Judge) else Device.DRAFT
