"""A recorded run once more, on a virtual clock.

`replay` drives a fresh conversation with devices that answer every job as they did. A job's way:

    Sent.at  --out-->  began  --service-->  ended  --back-->  Received.at

With the delays of each job the replay must be the recorded run: the same commands, commits and
epochs, in the same time. With the mean delays of each device it shows how well one number
describes the links; what the devices took stays as it was, one job after the other. (A target
with foresight has begun before `Sent.at`.)

An answer carries its own times, so that `gamma="auto"` decides as it did, provided that it had
learned nothing before: of the requests of an engine, the first with `auto` can be replayed.

May import: simpy, decoding.  Must never: know torch, Ray, or the wall clock.
"""

from __future__ import annotations

import pathlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, TypeAlias, final

import msgspec
import simpy

from pearl.decoding import trace
from pearl.decoding.conversation import Conversation
from pearl.decoding.errors import MalformedTraceError, SettingError
from pearl.decoding.exchanges import Exchange, Heard, exchanges
from pearl.decoding.messages import (
    ANSWERS,
    DEVICES,
    Command,
    Device,
    DeviceLost,
    Event,
    Foresight,
    Judged,
    Order,
    Propose,
    Proposed,
    TokenId,
)
from pearl.decoding.settings import Settings
from pearl.decoding.stopping import FinishReason, StopRules
from pearl.decoding.trace import Received, Record, Sent

Delays: TypeAlias = Literal["exact", "mean", "none"]
Way: TypeAlias = Callable[[Exchange, Heard, int], int]

TICKS: Final = 2**80  # a second: any float from 10 ns on is a whole number of them
LATEST_S: Final = 1e12  # no clock shows more


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run that was run again.

    Args:
        same_commands, same_commits, same_epochs: whether the schedule gave the same commands,
            committed the same tokens together, and was in the same epoch after each event; all
            of it in order.
        commands: how many there were in the recorded run.
        recorded_s, simulated_s: from the first record to the last.
        whole: whether the recorded run was there to its end. Otherwise the replay went as far as
            the records go.
        records: of the replay.
    """

    same_commands: bool
    same_commits: bool
    same_epochs: bool
    commands: int
    recorded_s: float
    simulated_s: float
    whole: bool
    records: tuple[Record, ...]


def replay_file(path: pathlib.Path, *, delays: Delays = "exact") -> Replayed:
    """Run again what `pearl generate --trace` has written.

    Raises:
        MalformedTraceError: the file is no trace, or does not say how it was run.
        SettingError: the run cannot be replayed; see `replay`.
    """
    header, records, whole = trace.read(path)
    about = trace.about(path, header)
    if about.finish_reason is FinishReason.STOP:
        message = f"{path} was ended by a stop string, which takes a tokenizer; record without stop"
        raise SettingError(message)
    stop = StopRules(limit=about.settings.max_new_tokens, eos=frozenset(about.eos))
    return replay(records, about.settings, stop, reach=about.reach, whole=whole, delays=delays)


def replay(
    records: Sequence[Record],
    settings: Settings,
    stop: StopRules,
    *,
    reach: int | None = None,
    whole: bool = True,
    delays: Delays = "exact",
) -> Replayed:
    """Run a recorded request again, with a fresh schedule on a virtual clock.

    Args:
        records: of one request.
        settings, stop, reach: those of the recorded run.
        whole: False if the records may end before the run did.
        delays: of each message as it was, the mean of those of its device, or none. Only with
            exact ones must the commands be the same: `gamma="auto"` decides by what it hears
            first.

    Raises:
        MalformedTraceError: the records are none of one request, or their times make no sense.
        SettingError: with `gamma="auto"`, earlier requests had already taught the plan.
    """
    _check(records)
    again = _Run(records, settings, stop, reach, delays).records()
    if settings.adapts:
        _check_unlearned(records, again)
    length = None if whole else len(_commands(records))  # what followed the last event is cut off
    return Replayed(
        same_commands=_commands(again)[:length] == _commands(records),
        same_commits=_commits(again) == _commits(records),
        same_epochs=_epochs(again) == _epochs(records),
        commands=len(_commands(records)),
        recorded_s=records[-1].at - records[0].at,
        simulated_s=again[-1].at - again[0].at if again else 0.0,
        whole=whole,
        records=again,
    )


def _commands(records: Iterable[Record]) -> list[Command]:
    return [record.command for record in records if isinstance(record, Sent)]


def _commits(records: Iterable[Record]) -> list[tuple[TokenId, ...]]:
    return [r.tokens for r in records if isinstance(r, Received) and r.tokens]


def _epochs(records: Iterable[Record]) -> list[int]:
    return [record.epoch for record in records if isinstance(record, Received)]


def _check(records: Sequence[Record]) -> None:
    """Refuse what cannot have been recorded."""
    requests = sorted({record.request for record in records})
    if len(requests) != 1:
        found = f"requests {', '.join(map(str, requests))}" if requests else "no request"
        raise MalformedTraceError(f"the trace has records of {found}; a replay takes one")
    times = [record.at for record in records]
    events = [record.event for record in records if isinstance(record, Received)]
    jobs = [event for event in events if isinstance(event, ANSWERS)]
    clocks = [time for job in jobs for time in (job.began, job.ended)]
    if times != sorted(times) or not all(0 <= time <= LATEST_S for time in times + clocks):
        message = "the times in the trace are no clock's: they must ascend, from 0 s on"
        raise MalformedTraceError(message)


def _check_unlearned(recorded: Sequence[Record], again: Sequence[Record]) -> None:
    """Refuse a first window that a fresh plan would not have asked for."""
    first, fresh = (_asked_first(_commands(run)) for run in (recorded, again))
    if first is not None and first != fresh:
        message = (
            f"gamma auto asked for a window after {first} passes here, and otherwise where it has "
            "learned nothing; replay the first request of an engine"
        )
        raise SettingError(message)


def _asked_first(commands: Iterable[Command]) -> int | None:
    """Passes before the first window; None without one."""
    for index, command in enumerate(commands):
        if isinstance(command, Propose):
            return index
    return None


@final
class _Run:
    """A conversation, and two devices that do as they did.

    The clock counts ticks, and within a tick the records of the trace: sums are exact, and
    whatever was recorded has an instant of its own, so that what came at once keeps its order.
    """

    def __init__(
        self,
        records: Sequence[Record],
        settings: Settings,
        stop: StopRules,
        reach: int | None,
        delays: Delays,
    ) -> None:
        self._recorded = records
        self._conversation = Conversation(
            records[0].request,
            settings,
            stop,
            self._carry,
            now=records[0].at,
            reach=reach,
            records=[],
        )
        self._conversation.foretells = False  # whatever that was good for shows in the times
        jobs = exchanges(records)
        self._way: Way = _as_recorded if delays == "exact" else _MeanWay(jobs, delays)
        self._answers = {job.answer.index for job in jobs if job.answer is not None}
        self._jobs: defaultdict[Command | Foresight, deque[Exchange]] = defaultdict(deque)
        for job in jobs:
            self._jobs[job.command].append(job)
        self._env = simpy.Environment(_ticks(records[0].at) * len(records))

    def records(self) -> tuple[Record, ...]:
        """Run to the end, or until no message is left."""
        away = _away(self._recorded)
        for index, record in enumerate(self._recorded):
            if index < len(away) or index in self._answers:
                continue
            if isinstance(record, Received):  # the driver's own news
                self._deliver_at(_ticks(record.at), Heard(index, record.at, record.event))
        self._conversation.begin(self._now / TICKS, away)
        self._env.run()
        return tuple(self._conversation.records or ())

    @property
    def _now(self) -> int:
        """In ticks."""
        return int(self._env.now) // len(self._recorded)

    def _deliver_at(self, ticks: int, heard: Heard) -> None:
        instant = ticks * len(self._recorded) + heard.index
        arrival = self._env.timeout(max(0, instant - int(self._env.now)))
        arrival.callbacks.append(lambda _: self._deliver(heard))

    def _deliver(self, heard: Heard) -> None:
        if self._conversation.schedule.finish_reason is None:
            event = _later(heard.event, (self._now - _ticks(heard.at)) / TICKS)
            self._conversation.hear(event, self._now / TICKS)

    def _carry(self, _: Device, order: Order) -> None:
        """Carry a command to its device; what that will say is known."""
        jobs = self._jobs[order.command]
        job = jobs.popleft() if jobs else None
        if job is not None and job.answer is not None:
            self._deliver_at(self._way(job, job.answer, self._now), job.answer)


def _away(records: Iterable[Record]) -> list[Device]:
    """Devices that were not there when the request began."""
    away = []
    for record in records:
        if not (isinstance(record, Received) and isinstance(record.event, DeviceLost)):
            break
        away.append(record.event.device)
    return away


def _later(event: Event, seconds: float) -> Event:
    """The event of a device that was so much later."""
    if not isinstance(event, ANSWERS):
        return event
    began, ended = event.began + seconds, event.ended + seconds
    return msgspec.structs.replace(event, began=began, ended=ended)


# -- ways ------------------------------------------------------------------------------------------


def _as_recorded(job: Exchange, answer: Heard, now: int) -> int:
    """When the answer to a job arrives that is sent now: after as long as it took."""
    return now + _ticks(answer.at) - _ticks(job.at)


@final
class _MeanWay:
    """Every message takes the mean of its device's, or no time; a device does job after job.

    A job that the target began before it was sent waits for no message, but as long as such jobs
    did on average behind the one before.
    """

    def __init__(self, jobs: Sequence[Exchange], delays: Delays) -> None:
        out: defaultdict[Device, list[int]] = defaultdict(list)
        back: defaultdict[Device, list[int]] = defaultdict(list)
        rest: list[int] = []
        free: defaultdict[Device, int] = defaultdict(int)
        for job in jobs if delays == "mean" else ():
            if job.answer is not None:
                began, ended = _times(job.answer.event)
                if began < _ticks(job.at):
                    rest.append(began - free[job.device])
                else:
                    out[job.device].append(began - max(_ticks(job.at), free[job.device]))
                back[job.device].append(_ticks(job.answer.at) - ended)
                free[job.device] = ended
        self._goes_on = delays == "mean"
        self._out = {device: _mean(out[device]) for device in DEVICES}
        self._back = {device: _mean(back[device]) for device in DEVICES}
        self._rest = _mean(rest)
        self._free: defaultdict[Device, int] = defaultdict(int)

    def __call__(self, job: Exchange, answer: Heard, now: int) -> int:
        began, ended = _times(answer.event)
        free = self._free[job.device]
        if self._goes_on and began < _ticks(job.at):
            begin = free + self._rest
        else:
            begin = max(now, free) + self._out[job.device]
        self._free[job.device] = begin + ended - began
        return self._free[job.device] + self._back[job.device]


def _mean(ticks: Sequence[int]) -> int:
    return sum(ticks) // len(ticks) if ticks else 0


def _times(event: Event) -> tuple[int, int]:
    """When the job began and ended, in ticks."""
    assert isinstance(event, Proposed | Judged)
    return _ticks(event.began), _ticks(event.ended)


def _ticks(seconds: float) -> int:
    return int(seconds * TICKS)
