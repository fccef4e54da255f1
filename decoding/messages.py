"""What a schedule and its devices say to each other.

A schedule gives *commands*; a driver carries them to a device and brings *events* back.

    Propose(job, epoch, base, pending, count)   draft: write up to `count` tokens after these
    Judge(job, epoch, base, pending, hold)      target: one pass over the pending tokens
    Cancel(epoch)                               draft: whatever is older than this is not wanted
    Foresight(job, restarts, window)            target: what is known of its next job

    Proposed(job, epoch, start, drafted, complete)   the draft's answer, from `start` on
    Judged(job, epoch, base, judged, kept, token)    the target's answer
    DeviceLost(device), DeviceBack(device)           the driver's own news

A job has a number, and so has its answer: an event that does not answer the job a schedule waits
for is ignored. `base` counts the committed tokens a job stands on. A job says everything it stands
on, so it can be sent twice, late, or to a device that has just been restarted, and the answer is
the same.

Positions count generated tokens: position 0 is the first token after the prompt.
"""

from __future__ import annotations

import enum
from typing import Final, TypeAlias

import msgspec

TokenId: TypeAlias = int


class Role(enum.StrEnum):
    """What a model is for."""

    DRAFT = "draft"
    TARGET = "target"

    # An enum's own hash is a function in Python, and every round looks up devices many times.
    __hash__ = str.__hash__


class Device(msgspec.Struct, frozen=True, array_like=True, cache_hash=True):
    """A place where a model runs: its role, and its number among those of that role."""

    role: Role
    number: int = 0

    def __str__(self) -> str:
        """Its role; of several, with its number."""
        return f"{self.role} {self.number}" if self.number else str(self.role)


DRAFT: Final = Device(Role.DRAFT)
TARGET: Final = Device(Role.TARGET)
DEVICES: Final = (DRAFT, TARGET)
"""The devices of an engine."""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True, gc=False):
    """Base of everything that may cross a wire: immutable, compared by value, tagged by name.

    They are made by the million, and none can be part of a cycle: the garbage collector is spared.
    """


class Drafted(Message, frozen=True, gc=False):
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


NOTHING: Final = Drafted()


class Propose(Message, frozen=True, gc=False):
    """Draft: write up to `count` tokens after `base` committed and the `pending` ones.

    `job` counts the jobs that a request had for this device, as in `Judge`; one that is sent again
    keeps its number.
    """

    job: int
    epoch: int
    base: int
    pending: tuple[TokenId, ...]
    count: int
    device: Device = DRAFT

    @property
    def start(self) -> int:
        """The position of the first token to write."""
        return self.base + len(self.pending)


class Judge(Message, frozen=True, gc=False):
    """Target: say how many of the pending tokens you agree with, and what comes next.

    With `hold`, a target that agrees with all of them does not choose the next token: it keeps
    that row, and the next job's first pending token is tested against it. `alone`: no draft works
    beside it, so that its cores are free.
    """

    job: int
    epoch: int
    base: int
    pending: Drafted = NOTHING
    hold: bool = False
    alone: bool = False
    device: Device = TARGET


class Cancel(Message, frozen=True, gc=False):
    """Draft: stop writing for any epoch before this one."""

    epoch: int
    device: Device = DRAFT


class Foresight(Message, frozen=True, gc=False):
    """Target: what is known of the job that will follow job number `job` (`decoding.foresight`).

    `restarts`: whether a pass with nothing pending follows a rejection at once. `window` is what
    was written beside the job; empty where no window will come, None while it is not there.
    """

    job: int
    restarts: bool
    window: tuple[TokenId, ...] | None = None
    device: Device = TARGET


class Proposed(Message, frozen=True, gc=False):
    """The draft's answer: a window that may be shorter than asked.

    `complete` unless the job was cancelled half-way. `began` and `ended` are seconds on the
    device's clock; schedules use only their difference.
    """

    job: int
    epoch: int
    start: int
    drafted: Drafted
    complete: bool = True
    began: float = 0.0
    ended: float = 0.0
    device: Device = DRAFT


class Judged(Message, frozen=True, gc=False):
    """The target's answer: the first `kept` of `judged` pending tokens stand.

    `token` is the target's own choice at the next position: the replacement after a rejection, or
    the one beyond the last kept token. It is None only when every pending token was kept and the
    job asked to `hold`. `passes` is the number of forward passes spent (0 when a held row
    already decided), `read` the tokens of all requests that were read in it (0: unknown).
    """

    job: int
    epoch: int
    base: int
    judged: int
    kept: int
    token: TokenId | None
    passes: int = 1
    began: float = 0.0
    ended: float = 0.0
    read: int = 0
    device: Device = TARGET

    def answers(self, job: Judge) -> bool:
        """Whether it is the verdict on this job.

        The number alone does not say it: a target that went on by itself
        (`pearl.decoding.foresight`) may have begun something else, where a policy has changed its
        mind meanwhile.
        """
        return self.job == job.job and self.judged == len(job.pending.tokens)


class DeviceLost(Message, frozen=True, gc=False):
    """The device died, or stopped answering."""

    device: Device


class DeviceBack(Message, frozen=True, gc=False):
    """The device can be sent jobs again; it remembers nothing."""

    device: Device


class Order(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True, gc=False):
    """One command for one request, as it is carried to a device.

    `fresh` are the committed tokens from position `start` on, which the device has not seen yet;
    `foresight` is what is known of the job after this one.
    """

    request: int
    command: Propose | Judge | Cancel | Foresight
    start: int = 0
    fresh: tuple[TokenId, ...] = ()
    foresight: Foresight | None = None


Command: TypeAlias = Propose | Judge | Cancel
"""What a schedule gives; foresight is the driver's own."""
Event: TypeAlias = Proposed | Judged | DeviceLost | DeviceBack
ANSWERS: Final = (Proposed, Judged)
