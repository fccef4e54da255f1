"""A hostile network between a schedule and its devices, and a referee.

A script is a list of moves: deliver this message, double that one, drop another, cut a window
short, lose a device, bring it back. Where the script ends a fair ending follows, so that every
run ends: all is delivered, and when nothing is under way the devices are lost and come back, which
makes the schedule send again what it waits for.

The referee looks at every command and after every event; see `Network`.
"""

from __future__ import annotations

import enum
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar, final

import msgspec

from pearl.decoding.foresight import onward
from pearl.decoding.messages import (
    DRAFT,
    TARGET,
    Cancel,
    Command,
    DeviceBack,
    DeviceLost,
    Drafted,
    Event,
    Judge,
    Judged,
    Propose,
    Proposed,
    TokenId,
)
from pearl.decoding.policies import AutoPolicy
from pearl.decoding.schedules import TwoModelSchedule
from pearl.decoding.stopping import FinishReason, StopRules
from tests.decoding.toys import Prefix, ToyDevices

T = TypeVar("T")

MOST_STEPS: Final = 2000  # of the fair ending


class DisorderError(AssertionError):
    """A rule of the protocol was broken."""


class Move(enum.Enum):
    """What the network can do next; `which` picks the message, counted around."""

    WORK = enum.auto()  # a job reaches its device, which answers
    WORK_AND_KEEP = enum.auto()  # ... and the job will come once more
    DROP_JOB = enum.auto()
    HEAR = enum.auto()  # an answer reaches the schedule
    HEAR_AND_KEEP = enum.auto()  # ... and will come once more
    HEAR_CUT = enum.auto()  # a window arrives without its last token, as if cancelled half-way
    DROP_ANSWER = enum.auto()
    LOSE_DRAFT = enum.auto()
    LOSE_TARGET = enum.auto()
    DRAFT_BACK = enum.auto()
    TARGET_BACK = enum.auto()
    RESTART = enum.auto()  # the devices forget everything, and nobody is told


Script: TypeAlias = Sequence[tuple[Move, int]]
NEWS: Final[dict[Move, DeviceLost | DeviceBack]] = {
    Move.LOSE_DRAFT: DeviceLost(device=DRAFT),
    Move.LOSE_TARGET: DeviceLost(device=TARGET),
    Move.DRAFT_BACK: DeviceBack(device=DRAFT),
    Move.TARGET_BACK: DeviceBack(device=TARGET),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An event under way, with the job it answers and the text that job stands on."""

    job: Propose | Judge
    context: Prefix
    event: Proposed | Judged


@final
class Network:
    """Carries messages as a script says, and refuses any disorder.

    Claims, checked at every step:
        what is committed never changes, nor goes beyond the limit or the end of the text;
        `receive` returns what it commits, the epoch never goes back;
        a job stands on all that is committed, goes on without a gap and stays below the limit;
        each command is given once, but for those a device that is back is given again;
        an answer is awaited if and only if it answers the job that is open, and one that is not
        changes nothing at all;
        what was foreseen of the target's next job is what it is asked next;
        at no place of the text are two draft tokens compared, and behind its end none is.
    """

    def __init__(self, schedule: TwoModelSchedule, devices: ToyDevices, stop: StopRules) -> None:
        self.schedule = schedule
        self._devices = devices
        self._stop = stop
        self._jobs: list[Propose | Judge] = []
        self._answers: list[Answer] = []
        self._given: set[Command] = set()
        self._text: Prefix = ()
        self._epoch = 0
        self.foreseen = 0
        """Jobs of the target that were known before they were asked for."""
        self._collect()

    def play(self, script: Script) -> None:
        """Make every move of the script."""
        for move, which in script:
            self._move(move, which)

    def finish(self) -> None:
        """The fair ending."""
        for _ in range(MOST_STEPS):
            if self.schedule.finish_reason is not None:
                return
            if self._jobs:
                self._move(Move.WORK, 0)
            elif self._answers:
                self._move(Move.HEAR, 0)
            else:
                for news in NEWS.values():
                    self._tell(news)
        raise DisorderError(f"not finished: {self._text}")

    def _move(self, move: Move, which: int) -> None:
        match move:
            case Move.WORK | Move.WORK_AND_KEEP | Move.DROP_JOB if self._jobs:
                job = self._pick(self._jobs, which, keep=move is Move.WORK_AND_KEEP)
                if move is not Move.DROP_JOB:
                    self._answers.append(self._work(job))
            case Move.HEAR | Move.HEAR_AND_KEEP | Move.DROP_ANSWER if self._answers:
                answer = self._pick(self._answers, which, keep=move is Move.HEAR_AND_KEEP)
                if move is not Move.DROP_ANSWER:
                    self._hear(answer)
            case Move.HEAR_CUT if self._answers:
                answer = self._pick(self._answers, which, keep=True)
                if isinstance(answer.event, Proposed):
                    self._ignores(_cut(answer.event))
            case Move.RESTART:
                self._devices.restart()
            case _ if move in NEWS:
                self._tell(NEWS[move])
            case _:
                pass  # nothing is under way

    def _pick(self, under_way: list[T], which: int, *, keep: bool) -> T:
        index = which % len(under_way)
        return under_way[index] if keep else under_way.pop(index)

    def _work(self, job: Propose | Judge) -> Answer:
        context = self._text[: job.base]
        context += job.pending if isinstance(job, Propose) else job.pending.tokens
        return Answer(job=job, context=context, event=self._devices.answer(job, self._text))

    # -- the referee ---------------------------------------------------------------------------

    def _hear(self, answer: Answer) -> None:
        if self._is_awaited(answer):
            _require(self.schedule.awaits(answer.event), "a wanted answer is refused", answer)
            self._tell(answer.event)
        else:
            self._ignores(answer.event)

    def _is_awaited(self, answer: Answer) -> bool:
        """What `awaits` should say, found without it: the job is the open one, word for word."""
        if self.schedule.finish_reason is not None:
            return False
        if isinstance(answer.job, Judge):
            return answer.job == self.schedule._judge
        job = self.schedule._propose
        if job is None:
            return False
        wanted = (job.job, job.epoch, job.count, self._text[: job.base] + job.pending)
        asked = answer.job
        return wanted == (asked.job, asked.epoch, asked.count, answer.context)

    def _ignores(self, event: Proposed | Judged) -> None:
        before = pickle.dumps(self.schedule)
        tokens = self.schedule.receive(event)
        _require(tokens == (), "a stale answer commits", event)
        _require(pickle.dumps(self.schedule) == before, "a stale answer is not ignored", event)
        _require(not self.schedule.commands(), "a stale answer gives commands", event)

    def _tell(self, event: Event) -> None:
        foreseen = self._foreseen(event)
        tokens = self.schedule.receive(event)
        if foreseen is not None and self.schedule.finish_reason is None:
            asked = self.schedule._judge
            _require(asked == foreseen, f"foreseen was {foreseen}, asked is", asked)
            self.foreseen += 1
        text = tuple(self.schedule.committed)
        _require(text == self._text + tokens, "what is committed changed, or was not told", event)
        _require(self.schedule.epoch >= self._epoch, "the epoch went back", event)
        self._text, self._epoch = text, self.schedule.epoch
        counts = self.schedule.counts
        _require(counts.kept + counts.rejections <= len(text), "more compared than said", counts)
        self._inspect_end()
        self._collect(again=isinstance(event, DeviceBack))

    def _foreseen(self, event: Event) -> Judge | None:
        """The job that a target would go on with after this verdict."""
        job, foresight = self.schedule._judge, self.schedule.foresight()
        if not isinstance(event, Judged) or job is None or foresight is None:
            return None
        if isinstance(self.schedule.policy, AutoPolicy):  # the verdict itself may change its mind
            return None
        return onward(job, event, foresight) if self.schedule.awaits(event) else None

    def _inspect_end(self) -> None:
        text, reason = self._text, self.schedule.finish_reason
        _require(len(text) <= self._stop.limit, "longer than the limit", text)
        ended = [count for count in range(1, len(text) + 1) if self._ends(text[:count])]
        _require(ended == ([len(text)] if reason else []), f"finished for {reason}", text)

    def _ends(self, text: Prefix) -> FinishReason | None:
        """Why a text ends, the slow way: all of it is looked at."""
        if text[-1] in self._stop.eos:
            return FinishReason.EOS
        written = self._stop.text(text) if self._stop.text is not None else ""
        if any(string in written for string in self._stop.strings):
            return FinishReason.STOP
        return FinishReason.LENGTH if len(text) == self._stop.limit else None

    def _collect(self, *, again: bool = False) -> None:
        for command in self.schedule.commands():
            repeated = command in self._given
            _require(again or not repeated, "given twice", command)
            self._given.add(command)
            if isinstance(command, Cancel):
                _require(command.epoch == self.schedule.epoch, "cancels another epoch", command)
                continue
            if not repeated:
                self._inspect(command)
            self._jobs.append(command)

    def _inspect(self, job: Propose | Judge) -> None:
        _require(self.schedule.finish_reason is None, "a job after the end", job)
        _require(job.epoch == self.schedule.epoch, "a job of another epoch", job)
        _require(job.base == len(self._text), "does not stand on all that is committed", job)
        _require(job.base + len(job.pending) < self._stop.limit, "judges beyond the limit", job)
        if isinstance(job, Propose):
            last = job.base + len(job.pending) + job.count
            _require(job.count > 0, "writes nothing", job)
            _require(last < self._stop.limit, "writes what the limit forbids", job)
            beside = self.schedule._judge
            pending: tuple[TokenId, ...] = () if beside is None else beside.pending.tokens
            _require(job.pending == pending, "leaves a gap", job)


def _cut(event: Proposed) -> Proposed:
    drafted = Drafted(tokens=event.drafted.tokens[:-1], laws=event.drafted.laws[:-1])
    return msgspec.structs.replace(event, drafted=drafted, complete=False)


def _require(fine: bool, claim: str, about: object) -> None:  # noqa: FBT001 - reads like assert
    if not fine:
        raise DisorderError(f"{claim}: {about}")
