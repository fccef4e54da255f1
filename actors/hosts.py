"""The two devices: a model runner, a queue of jobs from many requests, and turns.

A host takes packets (`take`) and works in turns (`turn`): the draft writes one token for every
proposing request in one forward, the target judges every waiting window in one ragged forward.
So requests that come and go share each pass: continuous batching falls out.

A job says what it stands on. A host keeps, per request, the tokens its cache row really holds,
and reads only what differs: rolling back, catching up after a restart and answering the same job
twice are all that one comparison.

May import: decoding, actors.wire, actors.runners.interface.
Must never: know about sockets, Ray or asyncio.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, final

import numpy as np
from array_api_compat import array_namespace, device

from actors.runners.interface import Feed, Runner
from actors.wire import Ahead, Alive, Answer, Close, Open, Probe, Revoke, ToDevice, Work
from decoding.foresight import Foresight, onward
from decoding.messages import Drafted, Judge, Judged, Propose, Proposed, TokenId
from decoding.verification import Verdict, Verifier, make_verifier

Clock: TypeAlias = Callable[[], float]
Logits: TypeAlias = Any  # a tensor, shape (rows, vocab): only runners and verifiers look inside


class Host(Protocol):
    """What a device's loop drives."""

    @property
    def busy(self) -> bool:
        """Whether a turn would do something."""

    def take(self, packet: ToDevice) -> Sequence[Answer | Alive]:
        """Note a packet; the answers are those of jobs it put an end to."""

    def turn(self) -> list[Answer]:
        """One batched forward; the answers that are complete with it."""


@final
class Transcript:
    """One request on one device: its text so far, and what its cache row holds of it."""

    def __init__(self, opened: Open, row: int) -> None:
        self.row = row
        self.verifier: Verifier = make_verifier(opened.verifier, opened.sampling, opened.seed)
        self._ends = frozenset(opened.eos)
        self._capacity = opened.capacity
        self._prompt = len(opened.prompt)
        self._text = list(opened.prompt)  # prompt and committed tokens
        self._cached: list[TokenId] = []  # position by position, what the row holds
        self._agreed = 0  # below this, cached and text are the same for sure

    def learn(self, start: int, fresh: Sequence[TokenId]) -> None:
        """Committed tokens from position `start` on; learning them twice changes nothing."""
        known = len(self._text) - self._prompt
        self._text.extend(fresh[known - start :] if known >= start else ())

    def may_go_on(self, fresh: Sequence[TokenId], base: int, pending: int) -> bool:
        """Whether the text is not over with these tokens, and has room for one after a job."""
        room = self._capacity - self.end(base) - pending
        return room > 0 and self._ends.isdisjoint(fresh)

    def end(self, base: int) -> int:
        """How long the text is with `base` committed tokens."""
        return self._prompt + base

    def feed(self, base: int, pending: Sequence[TokenId], logits: int) -> Feed:
        """What to read so that the row holds `base` committed tokens and the pending ones.

        The last `logits` positions are read in any case: their logits are wanted.
        """
        start, unread = self._difference(base, pending)
        missing = logits - len(unread)
        if missing > 0:
            start -= missing
            unread = self._cached[start : start + missing] + unread
        self._cached[start:] = unread
        return Feed(row=self.row, start=start, tokens=unread, logits=logits)

    def _difference(self, base: int, pending: Sequence[TokenId]) -> tuple[int, list[TokenId]]:
        """Where cache and job part, and the job's tokens from there on."""
        end = self.end(base)
        agreed = min(self._agreed, end)
        wanted = [*self._text[agreed:end], *pending]
        same = agreed + _common_prefix(self._cached[agreed:], wanted)
        self._agreed = min(same, end)
        return same, wanted[same - agreed :]


def _common_prefix(a: Sequence[TokenId], b: Sequence[TokenId]) -> int:
    for index, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return index
    return min(len(a), len(b))


@final
class Transcripts:
    """The requests that are open on one device."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._open: dict[int, Transcript] = {}

    def open(self, packet: Open) -> None:
        """Begin a request, or begin it again."""
        self.close(packet.request)
        row = self._runner.allocate(packet.capacity)
        self._open[packet.request] = Transcript(packet, row)

    def close(self, request: int) -> None:
        """Forget a request and free its row."""
        gone = self._open.pop(request, None)
        if gone is not None:
            self._runner.release(gone.row)

    def learn(self, packet: Work) -> bool:
        """Note a job's committed tokens; False for a request that is not open here."""
        sequence = self._open.get(packet.request)
        if sequence is not None:
            sequence.learn(packet.start, packet.fresh)
        return sequence is not None

    def __getitem__(self, request: int) -> Transcript:
        return self._open[request]


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
        self._transcripts = Transcripts(runner)
        self._writing: dict[int, Writing] = {}
        self._turn_ended = 0.0

    @property
    def busy(self) -> bool:
        """Whether a window is being written."""
        return bool(self._writing)

    def take(self, packet: ToDevice) -> Sequence[Answer | Alive]:
        """Note a packet; a newer job and a revocation put an end to the older window."""
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
                return [Alive()]
            case _:
                pass  # nothing for this device
        return []

    def turn(self) -> list[Answer]:
        """Write one token for every open window."""
        jobs = list(self._writing.items())
        feeds = [
            self._transcripts[request].feed(w.job.base, w.job.pending + w.tokens, 1)
            for request, w in jobs
        ]
        logits = self._runner.forward(feeds)
        for (request, writing), row in zip(jobs, logits, strict=True):
            self._write(request, writing, _quick(row))
        self._turn_ended = self._clock()
        whole = [request for request, w in jobs if len(w.tokens) == w.job.count]
        return [self._writing.pop(request).answer(request, self._turn_ended) for request in whole]

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

    def _write(self, request: int, writing: Writing, logits: Logits) -> None:
        position = writing.job.base + len(writing.job.pending) + len(writing.tokens)
        drafted = self._transcripts[request].verifier.draft(logits, position)
        writing.tokens += drafted.tokens
        writing.laws += drafted.laws


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
        self._transcripts = Transcripts(runner)
        self._waiting: dict[int, Judge] = {}
        self._held: dict[int, Held] = {}
        self._done: dict[int, tuple[Judge, Judged]] = {}  # the last verdict, while nothing follows
        self._foresight: dict[int, Foresight] = {}
        self._own: dict[int, Judge] = {}  # begun before it was told to

    @property
    def busy(self) -> bool:
        """Whether a window waits to be judged."""
        return bool(self._waiting)

    def take(self, packet: ToDevice) -> Sequence[Answer | Alive]:
        """Note a packet; a newer job replaces an older one of the same request."""
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
                return [Alive()]
            case _:
                pass  # nothing for this device
        return []

    def turn(self) -> list[Answer]:
        """Judge everything that waits."""
        began = self._clock()
        jobs, self._waiting = self._waiting, {}
        verdicts = {r: v for r, job in jobs.items() if (v := self._without_pass(r, job))}
        passes = {request: job for request, job in jobs.items() if request not in verdicts}
        feeds = {request: self._feed(request, job) for request, job in passes.items()}
        judged = self._with_pass(passes, feeds) if passes else {}
        times = (began, self._clock())
        read = sum(len(feed.tokens) for feed in feeds.values())
        events = {r: _judged(jobs[r], v, times) for r, v in verdicts.items()}
        events |= {r: _judged(jobs[r], v, times, read) for r, v in judged.items()}
        for request, event in events.items():
            self._done[request] = jobs[request], event
            self._go_on(request)
        return [Answer(request=request, event=event) for request, event in events.items()]

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

    def _with_pass(self, jobs: dict[int, Judge], feeds: dict[int, Feed]) -> dict[int, Verdict]:
        logits = self._runner.forward(list(feeds.values()))
        return {
            request: self._verdict(request, job, _quick(rows))
            for (request, job), rows in zip(jobs.items(), logits, strict=True)
        }

    def _feed(self, request: int, job: Judge) -> Feed:
        held = self._held.get(request)
        rows = len(job.pending) + (held is None or held.base != job.base)
        return self._transcripts[request].feed(job.base, job.pending.tokens, rows)

    def _verdict(self, request: int, job: Judge, rows: Logits) -> Verdict:
        held = self._held.pop(request, None)
        if len(rows) == len(job.pending) and held is not None:
            rows = _joined([held.logits, rows])
        verdict = self._judge(request, rows, job.pending, job.base, hold=job.hold)
        if verdict.token is None:
            # A copy: what is held outlives the pass and must not keep all its rows alive.
            last = _joined([rows[-1:]])
            self._held[request] = Held(job.base + len(job.pending), last)
        return verdict

    def _judge(
        self, request: int, rows: Logits, drafted: Drafted, base: int, *, hold: bool
    ) -> Verdict:
        return self._transcripts[request].verifier.judge(rows, drafted, base, hold=hold)

    def _forget(self, request: int) -> None:
        for known in (self._waiting, self._held, self._done, self._foresight, self._own):
            known.pop(request, None)


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
