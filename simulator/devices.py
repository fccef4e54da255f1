"""A draft and a target without models: the hosts' turns on a virtual clock.

They keep the rules of `actors.hosts`. A packet is taken between two turns. A turn of the draft
writes one token for every open window; a turn of the target judges every window that waits, in
one pass. A newer job of a request replaces the older one. The target begins what follows a verdict
before it is told, where that is known (`decoding.foresight`). What a device holds of a request's
text is what it need not read again, so a first job reads the prompt and a restart reads everything,
in pieces where that is long (`decoding.turns`).

Tokens are those of a `Text`: 1 where draft and target agree, 0 where they do not.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Protocol, TypeAlias, final

from simpy import Environment, Interrupt

from decoding.foresight import Foresight, onward
from decoding.messages import Cancel, Device, Drafted, Judge, Judged, Propose, Proposed
from decoding.turns import SHORT, portions
from simulator.acceptance import AGREES, DIFFERS, Text
from simulator.costs import Clock
from simulator.ledger import DOWN, WORKS, Ledger
from simulator.links import Foretold, Packet

Process: TypeAlias = Generator[Any, Any, None]
Reply: TypeAlias = Callable[[int, "Proposed | Judged"], None]


class Host(Protocol):
    """What a device does with its jobs; `Worker` gives it time to do it in."""

    @property
    def device(self) -> Device:
        """Which of the two it is."""

    @property
    def busy(self) -> bool:
        """Whether a turn would do something."""

    def open(self, request: int, prompt: int, text: Text, limit: int) -> None:
        """A request that jobs will come for, until its text has so many tokens."""

    def close(self, request: int) -> None:
        """Forget a request."""

    def take(self, request: int, packet: Packet, now: float) -> None:
        """Note a job, that one is not wanted any more, or what will follow."""

    def begin(self, now: float) -> float:
        """Begin a turn; the seconds it takes."""

    def end(self, now: float) -> None:
        """End the turn, and answer what is complete with it."""

    def forget(self) -> None:
        """Lose everything but the list of requests."""


@final
class Row:
    """One request on one device."""

    __slots__ = ("cached", "held", "limit", "missed", "prompt", "text")

    def __init__(self, prompt: int, text: Text, limit: int) -> None:
        self.prompt = prompt
        self.text = text
        self.limit = limit
        self.forget()

    def forget(self) -> None:
        """As after a restart."""
        self.cached = 0  # positions that need not be read again
        self.missed: int | None = None  # where the draft first wrote what is not the text
        self.held: int | None = None  # where the row of a verdict that was left open predicts

    def cut_back(self, job: Propose) -> None:
        """Forget what the job does not stand on: what is behind it, and what was refused."""
        pending, end = job.pending, job.base + len(job.pending)
        if self.missed is not None and self.missed < job.base:
            end = self.missed
        self.missed = job.base + pending.index(DIFFERS) if DIFFERS in pending else None
        self.cached = min(self.cached, self.prompt + end)

    def unread(self, job: Judge) -> int:
        """Tokens that a pass must read: at least those whose logits it wants."""
        end = self.prompt + job.base + len(job.pending)
        return max(len(job.pending) + (self.held != job.base), end - self.cached)

    def has_room(self, job: Judge) -> bool:
        """Whether the text may have the token that a job will yield."""
        return job.base + len(job.pending) < self.limit


@dataclasses.dataclass(slots=True)
class Window:
    """A window that is being written; `end` is where its row's text will be after this turn."""

    job: Propose
    row: Row
    start: int
    end: int
    began: float
    written: int = 0


@final
class DraftHost:
    """Writes windows, one token a turn for every request that wants one."""

    device = Device.DRAFT

    def __init__(self, clock: Clock, reply: Reply) -> None:
        self._clock = clock
        self._reply = reply
        self._rows: dict[int, Row] = {}
        self._writing: dict[int, Window] = {}
        self._portions: dict[int, int] = {}  # of this turn, where one reads but a part
        self._turn_ended = 0.0

    @property
    def busy(self) -> bool:
        """Whether a window is being written."""
        return bool(self._writing)

    def open(self, request: int, prompt: int, text: Text, limit: int) -> None:
        """A request that jobs will come for, until its text has so many tokens."""
        self._rows[request] = Row(prompt, text, limit)

    def close(self, request: int) -> None:
        """Forget a request."""
        self._give_up(request)
        self._rows.pop(request, None)

    def forget(self) -> None:
        """Lose everything but the list of requests."""
        self._writing.clear()
        for row in self._rows.values():
            row.forget()

    def take(self, request: int, packet: Packet, now: float) -> None:
        """A newer job and a cancellation put an end to the older window."""
        if request not in self._rows:
            return
        if isinstance(packet, Propose):
            self._give_up(request)
            row = self._rows[request]
            start = packet.base + len(packet.pending)
            self._writing[request] = Window(packet, row, start, row.prompt + start, began=now)
        elif isinstance(packet, Cancel):
            window = self._writing.get(request)
            if window is not None and window.job.epoch < packet.epoch:
                self._give_up(request)

    def begin(self, now: float) -> float:  # noqa: ARG002 - a turn takes as long at any time
        """One forward for all windows."""
        unread, context = 1, 0
        for window in self._writing.values():
            if not window.written:
                window.row.cut_back(window.job)
            unread = max(unread, window.end - window.row.cached)
            context = max(context, window.end)
        self._portions = {}
        if unread <= SHORT:
            return self._clock(unread, len(self._writing), context)
        rows = self._writing.items()
        self._portions = portions({r: window.end - window.row.cached for r, window in rows})
        return self._clock(*_pass(self._portions, {r: w.row.cached for r, w in rows}))

    def end(self, now: float) -> None:
        """Every window is one token longer, but for those whose text is not read yet."""
        self._turn_ended = now
        whole = []
        for request, window in self._writing.items():
            if self._is_partial(request, window):
                continue
            window.row.cached = window.end  # what is written now has not been read yet
            window.end += 1
            window.written += 1
            if window.written == window.job.count:
                whole.append(request)
        for request in whole:
            self._answer(request, self._writing.pop(request))

    def _is_partial(self, request: int, window: Window) -> bool:
        """Whether this turn has read but a part of what its text has; that is noted."""
        read = self._portions.get(request)
        if read is None or read == window.end - window.row.cached:
            return False
        window.row.cached += read
        return True

    def _give_up(self, request: int) -> None:
        """Answer with what there is, so that work in vain is counted too."""
        window = self._writing.pop(request, None)
        if window is not None and window.written:
            self._answer(request, window)

    def _answer(self, request: int, window: Window) -> None:
        row, tokens = window.row, window.row.text.window(window.start, window.written)
        if row.missed is None and DIFFERS in tokens:
            row.missed = window.start + tokens.index(DIFFERS)
        self._reply(
            request,
            Proposed(
                epoch=window.job.epoch,
                start=window.start,
                drafted=Drafted(tokens=tokens),
                began=window.began,
                ended=self._turn_ended,
            ),
        )


@final
class TargetHost:
    """Judges windows, all that wait in one pass."""

    device = Device.TARGET

    def __init__(self, clock: Clock, reply: Reply) -> None:
        self._clock = clock
        self._reply = reply
        self._rows: dict[int, Row] = {}
        self._waiting: dict[int, Judge] = {}
        self._judging: dict[int, Judge] = {}
        self._done: dict[int, tuple[Judge, Judged]] = {}  # the last verdict, while nothing follows
        self._foresight: dict[int, Foresight] = {}
        self._own: dict[int, Judge] = {}  # begun before it was told to
        self._began = 0.0
        self._first: dict[int, float] = {}  # when the first piece of a long read was begun
        self._portions: dict[int, int] = {}  # of this turn, where one reads but a part
        self._read = 0  # tokens of the pass under way, of all requests

    @property
    def _known(self) -> tuple[dict[int, Any], ...]:
        return self._waiting, self._done, self._foresight, self._own, self._first

    @property
    def busy(self) -> bool:
        """Whether a window waits to be judged."""
        return bool(self._waiting)

    def open(self, request: int, prompt: int, text: Text, limit: int) -> None:
        """A request that jobs will come for, until its text has so many tokens."""
        self._rows[request] = Row(prompt, text, limit)

    def close(self, request: int) -> None:
        """Forget a request."""
        for known in (*self._known, self._rows):
            known.pop(request, None)

    def forget(self) -> None:
        """Lose everything but the list of requests."""
        for known in (*self._known, self._judging):
            known.clear()
        for row in self._rows.values():
            row.forget()

    def take(self, request: int, packet: Packet, now: float) -> None:  # noqa: ARG002 - times begin with the turn
        """A newer job replaces an older one of the same request."""
        if request not in self._rows:
            return
        match packet:
            case Foretold(job=job, foresight=foresight):
                self._take_job(request, job)
                self._foresee(request, foresight)
            case Judge() as job:
                self._take_job(request, job)
            case Foresight() as foresight:
                self._foresee(request, foresight)
            case _:
                pass  # nothing for this device

    def _take_job(self, request: int, job: Judge) -> None:
        """A job is done once, also where it was begun before it was asked for."""
        if self._own.pop(request, None) != job:
            self._waiting[request] = job
            self._done.pop(request, None)

    def _foresee(self, request: int, foresight: Foresight) -> None:
        self._foresight[request] = foresight
        self._go_on(request)

    def _go_on(self, request: int) -> None:
        """Begin what follows a verdict, where that is known."""
        done, foresight = self._done.get(request), self._foresight.get(request)
        if done is None or foresight is None or request in self._own:
            return
        following = onward(*done, foresight)
        if following is not None and self._rows[request].has_room(following):
            self._waiting[request] = self._own[request] = following
            del self._done[request]

    def begin(self, now: float) -> float:
        """One pass for all windows that a held row does not decide."""
        self._judging, self._waiting, self._began = self._waiting, {}, now
        unread = context = batch = self._read = 0
        for request, job in self._judging.items():
            row = self._rows[request]
            if _decided(row, job):
                continue
            batch += 1
            own = row.unread(job)
            self._read += own
            unread = max(unread, own)
            context = max(context, row.prompt + job.base + len(job.pending))
        self._portions = {}
        if unread <= SHORT:
            return self._clock(unread, batch, context) if batch else 0.0
        return self._begin_pieces()

    def _begin_pieces(self) -> float:
        """The same where somebody's text is long."""
        jobs = {r: (self._rows[r], job) for r, job in self._judging.items()}
        asked = {r: row.unread(job) for r, (row, job) in jobs.items() if not _decided(row, job)}
        self._portions = portions(asked)
        self._read = sum(self._portions.values())
        starts = {
            r: row.prompt + job.base + len(job.pending) - asked[r]
            for r, (row, job) in jobs.items()
            if r in asked
        }
        return self._clock(*_pass(self._portions, starts))

    def end(self, now: float) -> None:
        """A verdict for each."""
        judging, self._judging = self._judging, {}
        for request, job in judging.items():
            row = self._rows.get(request)
            if row is None:  # it was closed meanwhile
                continue
            if not self._is_partial(request, row, job):
                began = self._first.pop(request, self._began)
                verdict = _verdict(row, job, self._read, (began, now))
                self._done[request] = job, verdict
                self._go_on(request)
                self._reply(request, verdict)

    def _is_partial(self, request: int, row: Row, job: Judge) -> bool:
        """Whether this turn has read but a part; then the job goes on with the next one."""
        read = self._portions.get(request)
        if read is None or read == row.unread(job):
            return False
        if read:
            row.cached += read
            self._first.setdefault(request, self._began)
        self._waiting[request] = job
        return True


def _pass(now: dict[int, int], starts: dict[int, int]) -> tuple[int, int, int]:
    """A forward over these portions: the most tokens of a row, rows, and the longest context."""
    read = {request: tokens for request, tokens in now.items() if tokens}
    context = max(starts[request] + tokens for request, tokens in read.items())
    return max(read.values()), len(read), context


def _decided(row: Row, job: Judge) -> bool:
    """Whether the held row is all that is needed: it refuses the first token, or there is none."""
    tokens = job.pending.tokens
    return row.held == job.base and (not tokens or tokens[0] == DIFFERS)


def _verdict(row: Row, job: Judge, read: int, times: tuple[float, float]) -> Judged:
    tokens = job.pending.tokens
    passes = 0 if _decided(row, job) else 1
    kept = tokens.index(DIFFERS) if DIFFERS in tokens else len(tokens)
    leaves_open = job.hold and kept == len(tokens)
    if passes:
        row.cached = row.prompt + job.base + kept
        row.held = job.base + kept if leaves_open else None
    return Judged(
        epoch=job.epoch,
        base=job.base,
        judged=len(tokens),
        kept=kept,
        token=None if leaves_open else AGREES,
        passes=passes,
        read=read if passes else 0,
        began=times[0],
        ended=times[1],
    )


@final
class Worker:
    """A device on the virtual clock: read what came, take a turn, again.

    Args:
        onward_s: seconds between two turns at least: answers are sent, and what came is read.
    """

    def __init__(self, env: Environment, host: Host, ledger: Ledger, onward_s: float = 0.0) -> None:
        self._env = env
        self._ledger = ledger
        self._onward_s = onward_s
        self._packets: deque[tuple[int, Packet | None]] = deque()
        self._awake = env.event()
        self._stalled_until = 0.0
        self._owed = 0.0  # seconds that a stall took from the turn under way
        self._turn_began: float | None = None
        self.host = host
        self.slowness = 1.0
        self.down = False
        self._process = env.process(self._run())

    def take(self, request: int, packet: Packet | None) -> None:
        """A packet has come, or with None the end of a request; a device that is down loses it."""
        if self.down:
            return
        self._packets.append((request, packet))
        if not self._awake.triggered:
            self._awake.succeed()

    def stall(self, seconds: float) -> None:
        """Stand still for so long; a turn under way goes on afterwards where it was."""
        self._stalled_until = self._env.now + seconds
        if self._turn_began is not None:
            self._owed = seconds

    def crash(self) -> None:
        """Forget everything and do nothing until `restart`."""
        self.down = True
        self._process.interrupt()

    def restart(self) -> None:
        """Work again."""
        self.down = False
        self._awake.succeed()

    def _run(self) -> Process:
        while True:
            try:
                yield from self._serve()
            except Interrupt:
                yield from self._lie_down()

    def _serve(self) -> Process:
        """The loop of `actors.device.serve`."""
        env, host, packets = self._env, self.host, self._packets
        works, working, ready = WORKS[host.device], False, 0.0
        while True:
            while packets:
                request, packet = packets.popleft()
                if packet is None:
                    host.close(request)
                else:
                    host.take(request, packet, env.now)
            if host.busy and env.now >= ready:
                if not working:
                    self._ledger.set(works)
                    working = True
                self._turn_began = env.now
                yield env.timeout(self.slowness * host.begin(env.now))
                while self._owed:
                    owed, self._owed = self._owed, 0.0
                    yield env.timeout(owed)
                self._turn_began = None
                host.end(env.now)
                ready = env.now + self._onward_s
                continue
            self._ledger.clear(works)
            working = False
            if host.busy:
                yield env.timeout(ready - env.now)
                ready = env.now
            else:
                self._awake = env.event()
                yield self._awake
            if env.now < self._stalled_until:
                yield env.timeout(self._stalled_until - env.now)

    def _lie_down(self) -> Process:
        """Between a crash and the restart."""
        device = self.host.device
        if self._turn_began is not None:
            self._ledger.cut_short(device, self._env.now - self._turn_began)
            self._turn_began = None
            self._owed = 0.0
        self._ledger.clear(WORKS[device])
        self._ledger.set(DOWN[device])
        self._packets.clear()
        self.host.forget()
        self._awake = self._env.event()
        yield self._awake
        self._ledger.clear(DOWN[device])
