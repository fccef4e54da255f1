"""The two devices: a model runner, a queue of jobs from many requests, and turns.

A host takes packets (`take`) and works in turns (`turn`): the draft writes one token for every
proposing request in one forward, the target judges every waiting window in one ragged forward.
So requests that come and go share each pass: continuous batching falls out.

What each request has been told, and how much of it a turn reads, is in `actors.transcripts`; that
one request's failure is nobody else's, in `actors.isolation`.

May import: decoding, actors.isolation, actors.transcripts, actors.wire, actors.runners.interface.
Must never: know about sockets, Ray or asyncio.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, final

import numpy as np
from array_api_compat import array_namespace, device

from actors.isolation import isolated, must_read, spoilt
from actors.runners.interface import Feed, Runner
from actors.transcripts import Transcripts, Wanted
from actors.wire import Ahead, Alive, Answer, Close, Open, Probe, Revoke, Spoilt, ToDevice, Work
from decoding.foresight import Foresight, onward
from decoding.messages import Device, Drafted, Judge, Judged, Propose, Proposed, TokenId
from decoding.verification import Verdict

Clock: TypeAlias = Callable[[], float]
Logits: TypeAlias = Any  # a tensor, shape (rows, vocab): only runners and verifiers look inside
Said: TypeAlias = Answer | Spoilt | Alive


class Host(Protocol):
    """What a device's loop drives."""

    @property
    def busy(self) -> bool:
        """Whether a turn would do something."""

    def take(self, packet: ToDevice) -> Sequence[Said]:
        """Note a packet; the answers are those of jobs it put an end to."""

    def turn(self) -> list[Answer | Spoilt]:
        """One batched forward; the answers that are complete with it.

        Raises:
            PeerError: the device can do nothing any more.
        """

    def forget(self) -> None:
        """Forget every request: the scheduler will tell of those that are under way."""

    def alive(self) -> Alive:
        """That this device can work, and how."""


@dataclasses.dataclass(slots=True)
class Writing:
    """A window that is being written."""

    job: Propose
    began: float
    tokens: tuple[TokenId, ...] = ()
    laws: tuple[bytes, ...] = ()

    def answer(self, request: int, ended: float) -> Answer:
        """What was written so far; the whole window, unless it was cancelled."""
        event = Proposed(
            epoch=self.job.epoch,
            start=self.job.base + len(self.job.pending),
            drafted=Drafted(tokens=self.tokens, laws=self.laws),
            began=self.began,
            ended=ended,
        )
        return Answer(request=request, event=event)


@final
class DraftHost:
    """Writes windows, one token a turn for every request that wants one."""

    def __init__(self, runner: Runner, clock: Clock = time.monotonic) -> None:
        self._runner = runner
        self._clock = clock
        self._transcripts = Transcripts(runner, waits=False)
        self._writing: dict[int, Writing] = {}
        self._turn_ended = 0.0

    @property
    def busy(self) -> bool:
        """Whether a window is being written."""
        if not self._transcripts.queued:
            return bool(self._writing)
        return bool(self._transcripts.admitted(self._writing))

    def take(self, packet: ToDevice) -> Sequence[Said]:
        """Note a packet; a newer job and a revocation put an end to the older window."""
        try:
            return self._take(packet)
        except BaseException as error:  # noqa: BLE001 - as in `isolated`
            return self._give_back([taken_amiss(packet, error, Device.DRAFT)])

    def turn(self) -> list[Answer | Spoilt]:
        """Write one token for every open window."""
        requests = self._transcripts.admitted(self._writing)
        if not self._transcripts.apart:
            try:
                return self._step(requests)
            except BaseException:  # noqa: BLE001 - as in `isolated`
                self._transcripts.distrust(requests)
        return self._give_back(isolated(requests, self._step, self._transcripts, Device.DRAFT))

    def forget(self) -> None:
        """Forget every request."""
        self._writing.clear()
        self._transcripts.close_all()

    def alive(self) -> Alive:
        """That it can work, and how."""
        return Alive(slower=self._runner.statistics().slower)

    def _take(self, packet: ToDevice) -> Sequence[Said]:
        match packet:
            case Open():
                self._writing.pop(packet.request, None)
                self._transcripts.open(packet)
            case Work(command=Propose() as job):
                return self._begin(packet, job)
            case Revoke():
                return self._revoke(packet.request, packet.epoch)
            case Close():
                ended = self._give_up(packet.request)
                self._transcripts.close(packet.request)
                return ended
            case Probe():
                return [self.alive()]
            case _:
                pass  # nothing for this device
        return []

    def _step(self, requests: Sequence[int]) -> list[Answer | Spoilt]:
        """One token for each of these, or a piece of what it must read before."""
        writing = {request: self._writing[request] for request in requests}
        feeds = self._transcripts.feeds({
            request: (w.job.base, w.job.pending + w.tokens, 1)
            for request, w in writing.items()
        })  # fmt: skip
        logits = self._runner.forward(list(feeds.values()))
        drafted = {
            request: self._drafted(request, writing[request], _quick(rows))
            for (request, feed), rows in zip(feeds.items(), logits, strict=True)
            if feed.logits
        }
        self._transcripts.note(feeds)
        self._turn_ended = self._clock()
        for request, written in drafted.items():
            writing[request].tokens += written.tokens
            writing[request].laws += written.laws
        whole = [r for r in drafted if len(writing[r].tokens) == writing[r].job.count]
        return [self._writing.pop(request).answer(request, self._turn_ended) for request in whole]

    def _give_back(self, said: list[Answer | Spoilt]) -> list[Answer | Spoilt]:
        """Forget the requests that cannot go on."""
        gone = [each.request for each in said if isinstance(each, Spoilt)]
        for request in gone:
            self._writing.pop(request, None)
            self._transcripts.close(request)
        if gone:
            must_read(self._runner, Device.DRAFT)
        return said

    def _begin(self, packet: Work, job: Propose) -> list[Answer]:
        if not self._transcripts.learn(packet):
            return []
        ended = self._give_up(packet.request)
        self._writing[packet.request] = Writing(job, began=self._clock())
        return ended

    def _revoke(self, request: int, epoch: int) -> list[Answer]:
        writing = self._writing.get(request)
        return self._give_up(request) if writing and writing.job.epoch < epoch else []

    def _give_up(self, request: int) -> list[Answer]:
        """Answer with what there is, so that work in vain is counted too."""
        writing = self._writing.pop(request, None)
        if writing is None or not writing.tokens:
            return []
        return [writing.answer(request, self._turn_ended)]

    def _drafted(self, request: int, writing: Writing, logits: Logits) -> Drafted:
        position = writing.job.base + len(writing.job.pending) + len(writing.tokens)
        return self._transcripts[request].verifier.draft(logits, position)


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """The row of logits that a verdict left open: it predicts position `base`."""

    base: int
    logits: Logits


@final
class TargetHost:
    """Judges windows, all that wait in one ragged pass."""

    def __init__(self, runner: Runner, clock: Clock = time.monotonic) -> None:
        self._runner = runner
        self._clock = clock
        self._transcripts = Transcripts(runner, waits=True)
        self._waiting: dict[int, Judge] = {}
        self._held: dict[int, Held] = {}
        self._done: dict[int, tuple[Judge, Judged]] = {}  # the last verdict, while nothing follows
        self._foresight: dict[int, Foresight] = {}
        self._own: dict[int, Judge] = {}  # begun before it was told to
        self._began: dict[int, float] = {}  # when the first piece of a long read was begun
        self._known: tuple[dict[int, Any], ...] = (
            self._waiting, self._held, self._done, self._foresight, self._own, self._began,
        )  # fmt: skip

    @property
    def busy(self) -> bool:
        """Whether a window waits to be judged."""
        if not self._transcripts.queued:
            return bool(self._waiting)
        return bool(self._transcripts.admitted(self._waiting))

    def take(self, packet: ToDevice) -> Sequence[Said]:
        """Note a packet; a newer job replaces an older one of the same request."""
        try:
            return self._take(packet)
        except BaseException as error:  # noqa: BLE001 - as in `isolated`
            return self._give_back([taken_amiss(packet, error, Device.TARGET)])

    def turn(self) -> list[Answer | Spoilt]:
        """Judge everything that waits."""
        requests = self._transcripts.admitted(self._waiting)
        if not self._transcripts.apart:
            try:
                return self._judge_all(requests)
            except BaseException:  # noqa: BLE001 - as in `isolated`
                self._transcripts.distrust(requests)
        return self._give_back(
            isolated(requests, self._judge_all, self._transcripts, Device.TARGET)
        )

    def forget(self) -> None:
        """Forget every request."""
        for known in self._known:
            known.clear()
        self._transcripts.close_all()

    def alive(self) -> Alive:
        """That it can work, and how."""
        return Alive(slower=self._runner.statistics().slower)

    def _take(self, packet: ToDevice) -> Sequence[Said]:
        match packet:
            case Open():
                self._forget(packet.request)
                self._transcripts.open(packet)
            case Work(command=Judge() as job):
                if self._transcripts.learn(packet):
                    self._take_job(packet.request, job, packet.foresight)
            case Ahead():
                self._foresee(packet.request, packet.foresight)
            case Close():
                self._forget(packet.request)
                self._transcripts.close(packet.request)
            case Probe():
                return [self.alive()]
            case _:
                pass  # nothing for this device
        return []

    def _judge_all(self, requests: Sequence[int]) -> list[Answer | Spoilt]:
        """A verdict for each of these, or a piece of what must be read before."""
        began = self._clock()
        jobs = {request: self._waiting[request] for request in requests}
        verdicts = {r: v for r, job in jobs.items() if (v := self._without_pass(r, job))}
        feeds = self._transcripts.feeds({
            request: self._wanted(request, job)
            for request, job in jobs.items()
            if request not in verdicts
        })  # fmt: skip
        judged = self._with_pass(jobs, feeds) if feeds else {}
        self._transcripts.note(feeds)
        read = sum(len(feed.tokens) for feed in feeds.values())
        ended = self._clock()
        if len(judged) < len(feeds):
            for request in feeds.keys() - judged.keys():
                self._began.setdefault(request, began)
        events = {r: _judged(jobs[r], v, (began, ended)) for r, v in verdicts.items()}
        for request, (verdict, held) in judged.items():
            times = (self._began.pop(request, began), ended)
            events[request] = _judged(jobs[request], verdict, times, read)
            self._hold(request, held)
        for request, event in events.items():
            del self._waiting[request]
            self._done[request] = jobs[request], event
        said: list[Answer | Spoilt] = []
        for request, event in events.items():
            said.append(Answer(request=request, event=event))
            try:
                self._go_on(request)
            except BaseException as error:  # noqa: BLE001 - as in `isolated`
                said += self._give_back([spoilt(request, error, Device.TARGET)])
        return said

    def _give_back(self, said: list[Answer | Spoilt]) -> list[Answer | Spoilt]:
        """Forget the requests that cannot go on."""
        gone = [each.request for each in said if isinstance(each, Spoilt)]
        for request in gone:
            self._forget(request)
            self._transcripts.close(request)
        if gone:
            must_read(self._runner, Device.TARGET)
        return said

    def _take_job(self, request: int, job: Judge, foresight: Foresight | None) -> None:
        """A job is done once, also where it was begun before it was asked for."""
        if self._own.pop(request, None) != job:
            self._waiting[request] = job
            self._done.pop(request, None)
        if foresight is not None:
            self._foresee(request, foresight)

    def _foresee(self, request: int, foresight: Foresight) -> None:
        self._foresight[request] = foresight
        self._go_on(request)

    def _go_on(self, request: int) -> None:
        """Begin what follows a verdict, where that is known."""
        done, foresight = self._done.get(request), self._foresight.get(request)
        if done is None or foresight is None or request in self._own:
            return
        job, verdict = done
        following = onward(job, verdict, foresight)
        if following is None:
            return
        assert verdict.token is not None  # of a row that is held nothing is foreseen
        fresh = (*job.pending.tokens[: verdict.kept], verdict.token)
        transcript = self._transcripts[request]
        if transcript.may_go_on(fresh, following.base, len(following.pending)):
            transcript.learn(job.base, fresh)
            self._waiting[request] = self._own[request] = following
            del self._done[request]

    def _without_pass(self, request: int, job: Judge) -> Verdict | None:
        """The verdict, where the held row alone decides it."""
        held = self._held.get(request)
        if held is None or held.base != job.base:
            return None
        first = Drafted(tokens=job.pending.tokens[:1], laws=job.pending.laws[:1])
        if len(first):
            rows = _joined([held.logits, held.logits])  # the second is held open: it is not read
            verdict = self._judge(request, rows, first, job.base, hold=True)
            return None if verdict.kept else verdict
        return self._judge(request, held.logits, first, job.base, hold=job.hold)

    def _with_pass(
        self, jobs: Mapping[int, Judge], feeds: Mapping[int, Feed]
    ) -> dict[int, tuple[Verdict, Held | None]]:
        """Verdicts on what is read to its end, each with the row that it leaves open."""
        logits = self._runner.forward(list(feeds.values()))
        return {
            request: self._verdict(request, jobs[request], _quick(rows))
            for (request, feed), rows in zip(feeds.items(), logits, strict=True)
            if feed.logits
        }

    def _wanted(self, request: int, job: Judge) -> Wanted:
        held = self._held.get(request)
        rows = len(job.pending) + (held is None or held.base != job.base)
        return job.base, job.pending.tokens, rows

    def _verdict(self, request: int, job: Judge, rows: Logits) -> tuple[Verdict, Held | None]:
        held = self._held.get(request)
        if len(rows) == len(job.pending) and held is not None:
            rows = _joined([held.logits, rows])
        verdict = self._judge(request, rows, job.pending, job.base, hold=job.hold)
        if verdict.token is not None:
            return verdict, None
        # A copy: what is held outlives the pass and must not keep all its rows alive.
        last = _joined([rows[-1:]])
        return verdict, Held(job.base + len(job.pending), last)

    def _hold(self, request: int, held: Held | None) -> None:
        self._held.pop(request, None)
        if held is not None:
            self._held[request] = held

    def _judge(
        self, request: int, rows: Logits, drafted: Drafted, base: int, *, hold: bool
    ) -> Verdict:
        return self._transcripts[request].verifier.judge(rows, drafted, base, hold=hold)

    def _forget(self, request: int) -> None:
        for known in self._known:
            known.pop(request, None)


def taken_amiss(packet: ToDevice, error: BaseException, name: str) -> Spoilt:
    """The end of the request that a packet was about; of no request, the error itself."""
    if not isinstance(packet, Open | Work | Ahead | Revoke):
        raise error
    return spoilt(packet.request, error, name)


def _judged(job: Judge, verdict: Verdict, times: tuple[float, float], read: int = 0) -> Judged:
    """The answer; without a pass nothing was read."""
    return Judged(
        epoch=job.epoch,
        base=job.base,
        judged=len(job.pending),
        kept=verdict.kept,
        token=verdict.token,
        passes=1 if read else 0,
        read=read,
        began=times[0],
        ended=times[1],
    )


def _quick(rows: Logits) -> Logits:
    """On a CPU, the same memory as a numpy array: small operations cost half of torch's there."""
    return np.asarray(rows) if str(device(rows)) == "cpu" else rows


def _joined(parts: Sequence[Logits]) -> Logits:
    """Rows of logits in one new array."""
    return array_namespace(parts[0]).concat(parts)
