"""The two devices: a model runner, a queue of jobs from many requests, and turns.

A host takes packets (`take`) and works in turns (`turn`): the draft writes one token for every
proposing request in one forward, the target judges every waiting window in one ragged forward.
So requests that come and go share each pass: continuous batching falls out.

Which job of a request counts is decided in `pearl.decoding.desks`; the text of each request, and
how much of it a turn reads, in `pearl.actors.transcripts`; that one request's failure harms no
other, in `pearl.actors.isolation`.

May import: decoding, actors.isolation, actors.transcripts, actors.wire, actors.runners.interface.
Must never: know about sockets, Ray or asyncio.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, final

import numpy as np
from array_api_compat import array_namespace, device
from array_api_compat import numpy as _numpy  # noqa: F401 - else the first draw waits .2 s for it

from pearl.actors.isolation import isolated, must_read, spoilt
from pearl.actors.transcripts import Transcripts, Wanted
from pearl.actors.wire import Alive, Alone, Close, JobDone, Open, Probe, Spoilt, ToDevice
from pearl.decoding.desks import DraftDesk, TargetDesk, Writing, judged
from pearl.decoding.messages import Cancel, Drafted, Foresight, Judge, Judged, Order, Propose, Role

if TYPE_CHECKING:
    from pearl.actors.runners.interface import Feed, Runner
    from pearl.decoding.messages import TokenId
    from pearl.decoding.verification import Verdict

Clock: TypeAlias = Callable[[], float]
Logits: TypeAlias = Any  # a tensor, shape (rows, vocab): only runners and verifiers look inside
Said: TypeAlias = JobDone | Spoilt | Alive


class Work(Protocol):
    """What a device does with its jobs; `Host` does what both devices have in common."""

    role: Role
    jobs: Mapping[int, Any]
    """What is to be done, by request."""

    def take(self, order: Order) -> list[JobDone]:
        """Note an order; the answers are those of jobs it put an end to."""

    def step(self, requests: Sequence[int]) -> list[JobDone | Spoilt]:
        """One forward for these; nothing is changed before all of it has succeeded."""

    def close(self, request: int) -> list[JobDone]:
        """Forget a request; the answers are those of jobs that this put an end to."""

    def forget(self) -> None:
        """Forget every request."""


@final
class Host:
    """One device: what comes is noted, and worked on in turns."""

    def __init__(
        self,
        work: Work,
        runner: Runner,
        transcripts: Transcripts,
        alone: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._work = work
        self._runner = runner
        self._transcripts = transcripts
        self._alone = alone

    @property
    def busy(self) -> bool:
        """Whether a turn would do something."""
        if not self._transcripts.queued:
            return bool(self._work.jobs)
        return bool(self._transcripts.admitted(self._work.jobs))

    def take(self, packet: ToDevice) -> Sequence[Said]:
        """Note a packet; the answers are those of jobs it put an end to."""
        try:
            return self._take(packet)
        except BaseException as error:
            if not isinstance(packet, Open | Order):
                raise
            return self._give_back([spoilt(packet.request, error, self._work.role)])

    def turn(self) -> list[JobDone | Spoilt]:
        """One batched forward; the answers that are complete with it.

        Raises:
            PeerError: the device can do nothing any more.
        """
        work, requests = self._work, self._transcripts.admitted(self._work.jobs)
        said = None
        if not self._transcripts.apart:
            try:
                said = work.step(requests)
            except BaseException:  # noqa: BLE001 - as in `isolated`
                self._transcripts.distrust(requests)
        if said is None:
            said = isolated(requests, work.step, self._transcripts, work.role)
        return self._give_back(said)

    def forget(self) -> None:
        """Forget every request: the scheduler will open those that are under way again."""
        self._work.forget()
        self._transcripts.close_all()

    def alive(self) -> Alive:
        """That this device can work, and how."""
        return Alive(slower=self._runner.statistics().slower)

    def _take(self, packet: ToDevice) -> Sequence[Said]:
        match packet:
            case Order() as order:
                return self._work.take(order) if self._transcripts.learn(order) else []
            case Open():
                self._work.close(packet.request)
                self._transcripts.open(packet)
            case Close():
                ended = self._work.close(packet.request)
                self._transcripts.close(packet.request)
                return ended
            case Alone():
                self._alone(packet.alone)
            case Probe():
                return [self.alive()]
            case _:
                pass  # nothing for a device
        return []

    def _give_back(self, said: list[JobDone | Spoilt]) -> list[JobDone | Spoilt]:
        """Forget the requests that cannot go on."""
        gone = [each.request for each in said if isinstance(each, Spoilt)]
        for request in gone:
            self._work.close(request)
            self._transcripts.close(request)
        if gone:
            must_read(self._runner, self._work.role)
        return said


def draft_host(runner: Runner, clock: Clock = time.monotonic) -> Host:
    """A draft that writes with this model."""
    transcripts = Transcripts(runner, waits=False)
    return Host(Drafting(runner, transcripts, clock), runner, transcripts)


def target_host(
    runner: Runner,
    clock: Clock = time.monotonic,
    alone: Callable[[bool], None] = lambda _: None,
) -> Host:
    """A target that judges with this model.

    Args:
        alone: is told when the cores of the drafts are free, and when they are not any more.
    """
    transcripts = Transcripts(runner, waits=True)
    return Host(Judging(runner, transcripts, clock), runner, transcripts, alone)


@final
class Drafting:
    """Writes windows, one token a turn for every request that wants one."""

    role = Role.DRAFT

    def __init__(self, runner: Runner, transcripts: Transcripts, clock: Clock) -> None:
        self._runner = runner
        self._transcripts = transcripts
        self._clock = clock
        self._desk = DraftDesk()
        self._turn_ended = 0.0
        self.jobs: Mapping[int, Writing] = self._desk.writing

    def take(self, order: Order) -> list[JobDone]:
        """A newer job and a cancellation put an end to the older window."""
        request, ended = order.request, None
        match order.command:
            case Propose() as job:
                ended = self._desk.begin(request, job, self._clock())
            case Cancel(epoch=epoch):
                ended = self._desk.cancel(request, epoch)
            case _:
                pass  # nothing for a draft
        return self._so_far(request, ended)

    def step(self, requests: Sequence[int]) -> list[JobDone | Spoilt]:
        """One token for each of these, or a piece of what it must read before."""
        writing = {request: self._desk.writing[request] for request in requests}
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
        for request, new in drafted.items():
            writing[request].add(new)
        whole = [request for request in drafted if writing[request].whole]
        return [answer for request in whole for answer in self.close(request)]

    def close(self, request: int) -> list[JobDone]:
        """Forget a request, and answer with what there is."""
        return self._so_far(request, self._desk.close(request))

    def forget(self) -> None:
        """Forget every request."""
        self._desk.forget()

    def _so_far(self, request: int, ended: Writing | None) -> list[JobDone]:
        """What there is of a window, so that wasted work is counted too."""
        if ended is None or not ended.written:
            return []
        return [JobDone(request=request, event=ended.answer(self._turn_ended))]

    def _drafted(self, request: int, writing: Writing, logits: Logits) -> Drafted:
        position = writing.job.start + writing.written
        return self._transcripts[request].verifier.draft(logits, position)


class Held(NamedTuple):
    """The row of logits that a verdict left open: it predicts position `base`."""

    base: int
    logits: Logits


@final
class Judging:
    """Judges windows, all that wait in one ragged pass."""

    role = Role.TARGET

    def __init__(self, runner: Runner, transcripts: Transcripts, clock: Clock) -> None:
        self._runner = runner
        self._transcripts = transcripts
        self._clock = clock
        self._desk = TargetDesk(self._may_go_on)
        self._held: dict[int, Held] = {}
        self._began: dict[int, float] = {}  # when the first piece of a long read was begun
        self.jobs: Mapping[int, Judge] = self._desk.waiting

    def take(self, order: Order) -> list[JobDone]:
        """A newer job replaces an older one of the same request."""
        match order.command:
            case Judge() as job:
                self._desk.take(order.request, job, order.foresight)
            case Foresight() as foresight:
                self._desk.foresee(order.request, foresight)
            case _:
                pass  # nothing for a target
        return []

    def step(self, requests: Sequence[int]) -> list[JobDone | Spoilt]:
        """A verdict for each of these, or a piece of what must be read before."""
        began = self._clock()
        jobs = {request: self._desk.waiting[request] for request in requests}
        verdicts = {r: v for r, job in jobs.items() if (v := self._without_pass(r, job))}
        feeds = self._transcripts.feeds({
            request: self._wanted(request, job)
            for request, job in jobs.items()
            if request not in verdicts
        })  # fmt: skip
        found = self._with_pass(jobs, feeds) if feeds else {}
        self._transcripts.note(feeds)
        read = len(feeds) * max((len(feed.tokens) for feed in feeds.values()), default=0)
        ended = self._clock()
        if len(found) < len(feeds):
            for request in feeds.keys() - found.keys():
                self._began.setdefault(request, began)
        events = {r: judged(jobs[r], v.kept, v.token, (began, ended)) for r, v in verdicts.items()}
        for request, (verdict, held) in found.items():
            times = (self._began.pop(request, began), ended)
            events[request] = judged(jobs[request], verdict.kept, verdict.token, times, read)
            self._hold(request, held)
        for request, event in events.items():
            self._desk.settle(request, jobs[request], event)
        return self._answers(events)

    def close(self, request: int) -> list[JobDone]:
        """Forget a request."""
        self._desk.close(request)
        self._held.pop(request, None)
        self._began.pop(request, None)
        return []

    def forget(self) -> None:
        """Forget every request."""
        self._desk.forget()
        self._held.clear()
        self._began.clear()

    def _answers(self, events: Mapping[int, Judged]) -> list[JobDone | Spoilt]:
        """The answers; where it is known what follows, that is begun."""
        said: list[JobDone | Spoilt] = []
        for request, event in events.items():
            said.append(JobDone(request=request, event=event))
            try:
                self._desk.go_on(request)
            except BaseException as error:  # noqa: BLE001 - as in `isolated`
                said.append(spoilt(request, error, self.role))
        return said

    def _may_go_on(self, request: int, job: Judge, fresh: tuple[TokenId, ...]) -> bool:
        """Whether the text is not over with these tokens; then they are part of it."""
        transcript = self._transcripts[request]
        if not transcript.may_go_on(fresh, job.base, len(job.pending)):
            return False
        transcript.learn(job.base - len(fresh), fresh)
        return True

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


def _quick(rows: Logits) -> Logits:
    """On a CPU, the same memory as a numpy array: small operations cost half of torch's there."""
    return np.asarray(rows) if str(device(rows)) == "cpu" else rows


def _joined(parts: Sequence[Logits]) -> Logits:
    """Rows of logits in one new array."""
    return array_namespace(parts[0]).concat(parts)
