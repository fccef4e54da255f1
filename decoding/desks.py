"""Where a device keeps its jobs: a desk for the draft and one for the target.

Real hosts (`pearl.actors.hosts`) and virtual ones (`pearl.simulator.devices`) share them. A newer
job of a request replaces the older one; a cancellation ends the jobs of older epochs. The target's
desk also begins the next job by itself, where it knows it (`pearl.decoding.foresight`).

How a job is done and how long it takes is for the host to say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, final

from msgspec.structs import replace

from pearl.decoding.foresight import onward
from pearl.decoding.messages import Drafted, Judge, Judged, Propose, Proposed

if TYPE_CHECKING:
    from pearl.decoding.messages import Foresight, TokenId

MayGoOn: TypeAlias = Callable[[int, Judge, "tuple[TokenId, ...]"], bool]


@dataclasses.dataclass(slots=True)
class Writing:
    """A window that is being written: the job, since when, and what there is of it."""

    job: Propose
    began: float
    written: int = 0
    tokens: tuple[TokenId, ...] = ()
    laws: tuple[bytes, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether it has all tokens that were asked for."""
        return self.written == self.job.count

    def add(self, drafted: Drafted) -> None:
        """More was written."""
        self.written += len(drafted.tokens)
        self.tokens += drafted.tokens
        self.laws += drafted.laws

    def answer(self, ended: float) -> Proposed:
        """What was written."""
        job = self.job
        return Proposed(
            device=job.device,
            job=job.job,
            epoch=job.epoch,
            start=job.start,
            drafted=Drafted(tokens=self.tokens, laws=self.laws),
            complete=self.whole,
            began=self.began,
            ended=ended,
        )


@final
class DraftDesk:
    """Windows that are being written, by request."""

    def __init__(self) -> None:
        self.writing: dict[int, Writing] = {}

    def begin(self, request: int, job: Propose, now: float) -> Writing | None:
        """Note a new job; return the window that it ends, if any."""
        older = self.writing.get(request)
        self.writing[request] = Writing(job, now)
        return older

    def cancel(self, request: int, epoch: int) -> Writing | None:
        """End a job of an earlier epoch than this; return its window, if any."""
        writing = self.writing.get(request)
        if writing is None or writing.job.epoch >= epoch:
            return None
        return self.writing.pop(request)

    def close(self, request: int) -> Writing | None:
        """The request has ended; return the window that it was writing, if any."""
        return self.writing.pop(request, None)

    def forget(self) -> None:
        """Drop the jobs of all requests."""
        self.writing.clear()


@final
class TargetDesk:
    """Windows that wait for a pass, by request.

    Args:
        may_go_on: whether a request may begin a job that no command has asked for yet, and for
            which these tokens are committed. Where it may, it does.
    """

    def __init__(self, may_go_on: MayGoOn) -> None:
        self.waiting: dict[int, Judge] = {}
        self._may_go_on = may_go_on
        self._done: dict[int, tuple[Judge, Judged]] = {}  # the last verdict, while nothing follows
        self._foresight: dict[int, Foresight] = {}
        self._own: dict[int, Judge] = {}  # begun before the command

    def take(self, request: int, job: Judge, foresight: Foresight | None) -> None:
        """Note a job that was commanded, unless it was begun already; a job is done once."""
        own = self._own.pop(request, None)
        if own is None or replace(own, alone=job.alone) != job:
            self.waiting[request] = job
            self._done.pop(request, None)
        if foresight is not None:
            self.foresee(request, foresight)

    def foresee(self, request: int, foresight: Foresight) -> None:
        """Note what is known of the next job."""
        self._foresight[request] = foresight
        self.go_on(request)

    def settle(self, request: int, job: Judge, verdict: Judged) -> None:
        """A job is done."""
        if self.waiting.get(request) is job:  # and no newer one came meanwhile
            del self.waiting[request]
        self._done[request] = job, verdict

    def go_on(self, request: int) -> None:
        """Begin the job that follows a verdict, where it is known."""
        done, foresight = self._done.get(request), self._foresight.get(request)
        if done is None or foresight is None or request in self._own:
            return
        job, verdict = done
        following = onward(job, verdict, foresight)
        if following is None:
            return
        assert verdict.token is not None  # with a held row there is no foresight
        fresh = (*job.pending.tokens[: verdict.kept], verdict.token)
        if self._may_go_on(request, following, fresh):
            self.waiting[request] = self._own[request] = following
            del self._done[request]

    def close(self, request: int) -> None:
        """The request has ended."""
        for known in (self.waiting, self._done, self._foresight, self._own):
            known.pop(request, None)

    def forget(self) -> None:
        """Drop the jobs of all requests."""
        for known in (self.waiting, self._done, self._foresight, self._own):
            known.clear()


def judged(
    job: Judge, kept: int, token: TokenId | None, times: tuple[float, float], read: int = 0
) -> Judged:
    """The answer to a job; without a pass nothing was read."""
    return Judged(
        device=job.device,
        job=job.job,
        epoch=job.epoch,
        base=job.base,
        judged=len(job.pending.tokens),
        kept=kept,
        token=token,
        passes=1 if read else 0,
        read=read,
        began=times[0],
        ended=times[1],
    )
