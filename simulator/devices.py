"""A draft and a target without models: the hosts' turns on a virtual clock.

They keep the rules of `pearl.actors.hosts`, and the same desks (`pearl.decoding.desks`). Orders are
taken between two turns. A turn of the draft writes one token for every open window; a turn of the
target judges every waiting window in one pass. A device need not read again what it holds of a
text, so a first job reads the prompt and a restart reads everything, in pieces where that is long
(`pearl.decoding.turns`).

Tokens are those of a `Text`: 1 where draft and target agree, 0 where they do not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, final

from simpy import Environment, Interrupt

from pearl.decoding.desks import DraftDesk, TargetDesk, Writing, judged
from pearl.decoding.messages import (
    DRAFT,
    TARGET,
    Cancel,
    Device,
    Foresight,
    Judge,
    Judged,
    Order,
    Propose,
    Proposed,
)
from pearl.decoding.turns import SHORT, portions
from pearl.simulator.acceptance import AGREES, DIFFERS, Text
from pearl.simulator.ledger import DOWN, WORKS, Ledger

if TYPE_CHECKING:
    from pearl.simulator.costs import Clock

Process: TypeAlias = Generator[Any, Any, None]
Reply: TypeAlias = Callable[[int, "Proposed | Judged"], None]


class VirtualHost(Protocol):
    """What a device does with its jobs; `Worker` gives it time to do it in."""

    @property
    def device(self) -> Device:
        """Which of the two it is."""

    @property
    def jobs(self) -> Mapping[int, Any]:
        """What is to be done in the next turn, by request; always the same object."""

    def open(self, request: int, prompt: int, text: Text, limit: int) -> None:
        """A request that jobs will come for, until its text has so many tokens."""

    def close(self, request: int) -> None:
        """Forget a request."""

    def take(self, request: int, order: Order, now: float) -> None:
        """Note a job, that one is not wanted any more, or what will follow."""

    def begin(self, now: float) -> float:
        """Begin a turn; the seconds it takes."""

    def end(self, now: float) -> None:
        """End the turn, and answer what is complete with it."""

    def forget(self) -> None:
        """Lose everything but the list of requests."""


@final
class VirtualRow:
    """One request on one device."""

    __slots__ = ("cached", "end", "held", "limit", "missed", "prompt", "text")

    def __init__(self, prompt: int, text: Text, limit: int) -> None:
        self.prompt = prompt
        self.text = text
        self.limit = limit
        self.forget()

    def forget(self) -> None:
        """As after a restart."""
        self.cached = 0  # positions that need not be read again
        self.end = 0  # of the text with what is written of a window
        self.missed: int | None = None  # where the draft first wrote what is not the text
        self.held: int | None = None  # where the row of a verdict that was left open predicts

    def cut_back(self, job: Propose) -> None:
        """Forget what the job does not stand on: what is behind it, and what was refused."""
        pending, start = job.pending, job.base + len(job.pending)
        end = start
        if self.missed is not None and self.missed < job.base:
            end = self.missed
        self.missed = job.base + pending.index(DIFFERS) if DIFFERS in pending else None
        self.cached = min(self.cached, self.prompt + end)
        self.end = self.prompt + start

    def unread(self, job: Judge) -> int:
        """Tokens that a pass must read: at least those whose logits it wants."""
        pending = len(job.pending.tokens)
        end = self.prompt + job.base + pending
        return max(pending + (self.held != job.base), end - self.cached)

    def has_room(self, job: Judge) -> bool:
        """Whether the text may have the token that a job will yield."""
        return job.base + len(job.pending.tokens) < self.limit


@final
class VirtualDraft:
    """Writes windows, one token a turn for every request that wants one.

    Args:
        beside: whether the target works now; None where steps take as long in any case.
    """

    device = DRAFT

    def __init__(
        self, clock: Clock, reply: Reply, beside: Callable[[], bool] | None = None
    ) -> None:
        self._clock = clock
        self._reply = reply
        self._beside = beside
        self._rows: dict[int, VirtualRow] = {}
        self._desk = DraftDesk()
        self.jobs: Mapping[int, Writing] = self._desk.writing
        self._portions: dict[int, int] = {}  # of this turn, where one reads but a part
        self._turn_ended = 0.0

    def open(self, request: int, prompt: int, text: Text, limit: int) -> None:
        """A request that jobs will come for, until its text has so many tokens."""
        self._rows[request] = VirtualRow(prompt, text, limit)

    def close(self, request: int) -> None:
        """Forget a request."""
        self._cut_short(request, self._desk.close(request))
        self._rows.pop(request, None)

    def forget(self) -> None:
        """Lose everything but the list of requests."""
        self._desk.forget()
        self._portions = {}
        for row in self._rows.values():
            row.forget()

    def take(self, request: int, order: Order, now: float) -> None:
        """A newer job and a cancellation put an end to the older window."""
        if request not in self._rows:
            return
        match order.command:
            case Propose() as job:
                self._cut_short(request, self._desk.begin(request, job, now))
            case Cancel(epoch=epoch):
                self._cut_short(request, self._desk.cancel(request, epoch))
            case _:
                pass  # nothing for a draft

    def begin(self, now: float) -> float:
        """One forward for all windows."""
        unread, context, rows = 1, 0, self._rows
        for request, writing in self.jobs.items():
            row = rows[request]
            if not writing.written:
                row.cut_back(writing.job)
            context = max(context, row.end)
            unread = max(unread, row.end - row.cached)
        rest, beside = now - self._turn_ended, self._beside is not None and self._beside()
        if unread <= SHORT:
            return self._clock(unread, len(self.jobs), context, rest, beside)
        self._portions = portions({r: rows[r].end - rows[r].cached for r in self.jobs})
        reading = _pass(self._portions, {r: rows[r].cached for r in self.jobs})
        return self._clock(*reading, rest, beside)

    def end(self, now: float) -> None:
        """Every window is one token longer, but for those whose text is not read yet."""
        self._turn_ended = now
        whole, rows, parts = [], self._rows, self._portions
        for request, writing in self.jobs.items():
            row = rows[request]
            if parts and self._is_partial(request, row):
                continue
            row.cached = row.end  # what is written now has not been read yet
            row.end += 1
            writing.written += 1
            if writing.whole:
                whole.append(request)
        if parts:
            self._portions = {}
        for request in whole:
            self._cut_short(request, self._desk.close(request))

    def _is_partial(self, request: int, row: VirtualRow) -> bool:
        """Whether this turn has read only a part of what its text has; that is noted."""
        read = self._portions[request]
        if read == row.end - row.cached:
            return False
        row.cached += read
        return True

    def _cut_short(self, request: int, writing: Writing | None) -> None:
        """Answer with what there is, so that wasted work is counted too."""
        if writing is None or not writing.written:
            return
        row, start = self._rows[request], writing.job.start
        writing.tokens = row.text.window(start, writing.written)
        if row.missed is None and DIFFERS in writing.tokens:
            row.missed = start + writing.tokens.index(DIFFERS)
        self._reply(request, writing.answer(self._turn_ended))


@final
class VirtualTarget:
    """Judges windows, all waiting ones in one pass.

    Args:
        beside: tokens that the draft is to write for a request meanwhile; None where passes take
            as long in any case.
    """

    device = TARGET

    def __init__(
        self, clock: Clock, reply: Reply, beside: Callable[[int], int] | None = None
    ) -> None:
        self._clock = clock
        self._reply = reply
        self._beside = beside
        self._rows: dict[int, VirtualRow] = {}
        self._desk = TargetDesk(self._may_go_on)
        self.jobs: Mapping[int, Judge] = self._desk.waiting
        self._judging: dict[int, Judge] = {}
        self._began = 0.0
        self._first: dict[int, float] = {}  # when the first piece of a long read was begun
        self._portions: dict[int, int] = {}  # of this turn, where one reads but a part
        self._read = 0  # tokens of the pass under way, of all requests, padding included

    def open(self, request: int, prompt: int, text: Text, limit: int) -> None:
        """A request that jobs will come for, until its text has so many tokens."""
        self._rows[request] = VirtualRow(prompt, text, limit)

    def close(self, request: int) -> None:
        """Forget a request."""
        self._desk.close(request)
        self._first.pop(request, None)
        self._rows.pop(request, None)

    def forget(self) -> None:
        """Lose everything but the list of requests."""
        self._desk.forget()
        self._first.clear()
        self._judging.clear()
        for row in self._rows.values():
            row.forget()

    def take(self, request: int, order: Order, now: float) -> None:  # noqa: ARG002 - as in `begin`
        """A newer job replaces an older one of the same request."""
        if request not in self._rows:
            return
        match order.command:
            case Judge() as job:
                self._desk.take(request, job, order.foresight)
            case Foresight() as foresight:
                self._desk.foresee(request, foresight)
            case _:
                pass  # nothing for a target

    def begin(self, now: float) -> float:
        """One pass for all windows that a held row does not decide."""
        self._judging, self._began = dict(self._desk.waiting), now
        self._desk.waiting.clear()
        unread = context = batch = 0
        for request, job in self._judging.items():
            row = self._rows[request]
            if _decided(row, job):
                continue
            batch += 1
            unread = max(unread, row.unread(job))
            context = max(context, row.prompt + job.base + len(job.pending.tokens))
        self._portions, self._read = {}, batch * unread
        if unread <= SHORT:
            beside = 0 if self._beside is None else self._meanwhile()
            return self._clock(unread, batch, context, 0.0, beside) if batch else 0.0
        return self._begin_pieces()

    def _begin_pieces(self) -> float:
        """The same where a text to be read is long."""
        jobs = {r: (self._rows[r], job) for r, job in self._judging.items()}
        asked = {r: row.unread(job) for r, (row, job) in jobs.items() if not _decided(row, job)}
        self._portions = portions(asked)
        told = [tokens for tokens in self._portions.values() if tokens]
        self._read = len(told) * max(told)
        starts = {
            r: row.prompt + job.base + len(job.pending) - asked[r]
            for r, (row, job) in jobs.items()
            if r in asked
        }
        return self._clock(*_pass(self._portions, starts), 0.0, self._meanwhile())

    def _meanwhile(self) -> int:
        """Tokens of the longest window that is written beside this pass."""
        return max(map(self._beside, self._judging)) if self._beside is not None else 0

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
                self._desk.settle(request, job, verdict)
                self._desk.go_on(request)
                self._reply(request, verdict)

    def _may_go_on(self, request: int, job: Judge, _: tuple[int, ...]) -> bool:
        return self._rows[request].has_room(job)

    def _is_partial(self, request: int, row: VirtualRow, job: Judge) -> bool:
        """Whether this turn has read but a part; then the job goes on with the next one."""
        read = self._portions.get(request)
        if read is None or read == row.unread(job):
            return False
        if read:
            row.cached += read
            self._first.setdefault(request, self._began)
        self._desk.waiting[request] = job
        return True


def _pass(now: dict[int, int], starts: dict[int, int]) -> tuple[int, int, int]:
    """A forward over these portions: the most tokens of a row, rows, and the longest context."""
    read = {request: tokens for request, tokens in now.items() if tokens}
    context = max(starts[request] + tokens for request, tokens in read.items())
    return max(read.values()), len(read), context


def _decided(row: VirtualRow, job: Judge) -> bool:
    """Whether the held row is all that is needed: it refuses the first token, or there is none."""
    tokens = job.pending.tokens
    return row.held == job.base and (not tokens or tokens[0] == DIFFERS)


def _verdict(row: VirtualRow, job: Judge, read: int, times: tuple[float, float]) -> Judged:
    tokens = job.pending.tokens
    decided = _decided(row, job)
    kept = tokens.index(DIFFERS) if DIFFERS in tokens else len(tokens)
    leaves_open = job.hold and kept == len(tokens)
    if not decided:
        row.cached = row.prompt + job.base + kept
        row.held = job.base + kept if leaves_open else None
    return judged(job, kept, None if leaves_open else AGREES, times, 0 if decided else read)


@final
class Worker:
    """A device on the virtual clock: read what came, take a turn, again.

    Args:
        onward_s: seconds between two turns at least: answers are sent, and what came is read.
    """

    def __init__(
        self, env: Environment, host: VirtualHost, ledger: Ledger, onward_s: float = 0.0
    ) -> None:
        self._env = env
        self._ledger = ledger
        self._onward_s = onward_s
        self._orders: deque[tuple[int, Order | None]] = deque()
        self._awake = env.event()
        self._stalled_until = 0.0
        self._owed = 0.0  # seconds that a stall took from the turn under way
        self._turn_began: float | None = None
        self.host = host
        self.slowness = 1.0
        self.down = False
        self._process = env.process(self._run())

    def take(self, request: int, order: Order | None) -> None:
        """An order has come, or with None the end of a request; a device that is down loses it."""
        if self.down:
            return
        self._orders.append((request, order))
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
        """The loop of `pearl.actors.device.serve`."""
        env, host, orders, jobs = self._env, self.host, self._orders, self.host.jobs
        works, working, ready = WORKS[host.device], False, 0.0
        while True:
            while orders:
                request, order = orders.popleft()
                if order is None:
                    host.close(request)
                else:
                    host.take(request, order, env.now)
            now = env.now
            if jobs and now >= ready:
                if not working:
                    self._ledger.set(works)
                    working = True
                self._turn_began = now
                yield env.timeout(self.slowness * host.begin(now))
                while self._owed:
                    owed, self._owed = self._owed, 0.0
                    yield env.timeout(owed)
                self._turn_began, now = None, env.now
                host.end(now)
                ready = now + self._onward_s
                continue
            self._ledger.clear(works)
            working = False
            if jobs:
                yield env.timeout(ready - now)
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
        self._orders.clear()
        self.host.forget()
        self._awake = self._env.event()
        yield self._awake
        self._ledger.clear(DOWN[device])
