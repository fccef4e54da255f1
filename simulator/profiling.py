"""From recorded runs to a profile: what every job took, and where the time between jobs went.

A job's seconds are its device's own (`began` to `ended`); the way of a message is what lies
between them and the scheduler's clock, so both ends must share one clock: one machine. What a
job read is not in a trace and need not be, it follows from the jobs before: the cache holds what
was read and not refused.

    samples     one a job: tokens read, rows that shared the forward, context, seconds
    fit         samples as a table of means, with straight lines between
    network     means of the way out and back, of jobs that found their device idle
    luck        agreement position by position, and how it clusters
"""

from __future__ import annotations

import bisect
import dataclasses
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from pearl.decoding.errors import SettingError
from pearl.decoding.exchanges import agreement, comparisons, correlation, exchanges
from pearl.decoding.exchanges import passes as judged_in
from pearl.decoding.exchanges import windows as written_in
from pearl.decoding.messages import (
    DRAFT,
    TARGET,
    Device,
    DeviceLost,
    Judge,
    Judged,
    Propose,
    Proposed,
)
from pearl.decoding.settings import Settings
from pearl.decoding.stopping import StopRules
from pearl.decoding.trace import Received, Record, Sent
from pearl.simulator.acceptance import Replay
from pearl.simulator.costs import Measured
from pearl.simulator.links import Link, Network
from pearl.simulator.profiles import Beside, Luck, Profile
from pearl.simulator.world import Pair

FEWEST: Final = 4  # samples of one size that make a point of the table
ENOUGH: Final = 32  # passes beside windows of one size that make a table of their own
PROMPT_POINTS: Final = 4  # of the table beyond the windows' sizes


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """One request's trace, and what a replay must know besides.

    Args:
        prompt: tokens of its prompt.
        stop: when it had to end; by default where it did.
    """

    prompt: int
    records: tuple[Record, ...]
    stop: StopRules | None = None

    @property
    def tokens(self) -> int:
        """How many were generated."""
        return sum(len(record.tokens) for record in self.records if isinstance(record, Received))

    @property
    def losses(self) -> int:
        """How often a device was lost."""
        events = [record.event for record in self.records if isinstance(record, Received)]
        return sum(isinstance(event, DeviceLost) for event in events)


def profile(
    groups: Sequence[Sequence[Recording]],
    *,
    luck: Sequence[Recording],
    settings: Settings,
    machine: dict[str, str],
    models: dict[str, str],
) -> Profile:
    """Everything that was recorded, as one profile.

    Args:
        groups: recordings, those of one group at the same time.
        luck: the recordings that acceptance is read from; their requests are the workload.
        settings: what those ran with.
        machine, models: to tell profiles apart.
    """
    written = [sample for group in groups for sample in windows(group)]
    judged = [sample for group in groups for sample in passes(group)]
    alone = [sample for sample in judged if not sample.beside] or judged
    target = fit([*alone, *(s for s in judged if s.is_prompt and s.beside)])
    return Profile(
        machine=machine,
        models=models,
        settings=settings,
        pair=Pair(draft=fit(written), target=target),
        beside=tuple(_beside(judged, slope=target.per_position)),
        network=network([group[0] for group in groups if len(group) == 1]),
        luck=luck_of(luck),
        prompts=tuple(recording.prompt for recording in luck),
        outputs=tuple(recording.tokens for recording in luck),
    )


def _beside(judged: Sequence[Sample], slope: float) -> Iterator[Beside]:
    """A table for each window that was often written beside passes; prompts are in all of them."""
    prompts = [sample for sample in judged if sample.is_prompt]
    single = [s for s in judged if s.batch == 1 and s.beside and not s.is_prompt]
    for window, count in sorted(Counter(s.beside for s in single).items()):
        if count >= ENOUGH:
            own = [sample for sample in single if sample.beside == window]
            yield Beside(window=window, target=fit([*own, *prompts], slope))


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One job of a device.

    Args:
        tokens: read by the job's first forward.
        forwards: 1 for a pass of the target, the tokens written for a window.
        batch: rows that shared the forwards, about.
        context: positions behind the row at the end.
        beside: tokens that the draft was to write for the same request meanwhile.
    """

    tokens: int
    forwards: int
    batch: int = 1
    context: int
    beside: int = 0
    began: float
    ended: float

    @property
    def is_prompt(self) -> bool:
        """Whether a pass read all there was."""
        return self.tokens == self.context

    @property
    def seconds(self) -> float:
        """Of all its forwards."""
        return self.ended - self.began


def passes(together: Sequence[Recording]) -> list[Sample]:
    """The target's passes of requests that ran at the same time."""
    found = [sample for recording in together for sample in _passes(recording)]
    rows: defaultdict[tuple[float, float], list[int]] = defaultdict(list)
    for sample in found:  # rows of one forward begin and end as one
        rows[sample.began, sample.ended].append(sample.tokens)
    return [
        msgspec.structs.replace(sample, batch=len(tokens), tokens=max(tokens))
        for sample in found
        for tokens in [rows[sample.began, sample.ended]]
    ]


def windows(together: Sequence[Recording]) -> list[Sample]:
    """The draft's windows of requests that ran at the same time."""
    found = sorted(
        (sample for recording in together for sample in _windows(recording)),
        key=lambda sample: sample.began,
    )
    begun = [sample.began for sample in found]
    longest = max((sample.seconds for sample in found), default=0.0)

    def others(sample: Sample) -> float:
        """How many other windows were written meanwhile, on average."""
        near = slice(
            bisect.bisect_left(begun, sample.began - longest),
            bisect.bisect_right(begun, sample.ended),
        )
        shared = sum(
            max(0.0, min(o.ended, sample.ended) - max(o.began, sample.began)) for o in found[near]
        )
        return shared / sample.seconds - 1

    return [
        msgspec.structs.replace(sample, batch=1 + round(others(sample)))
        for sample in found
        if sample.seconds
    ]


def _passes(recording: Recording) -> Iterator[Sample]:
    cached = 0
    # A window beside a pass stands on what the pass judges.
    beside = {(job.epoch, job.base, job.pending): job.count for job in _proposals(recording)}
    for _, job, answer in judged_in(recording.records):
        if not answer.passes:
            continue
        end = recording.prompt + job.base + len(job.pending)
        yield Sample(
            tokens=max(1, end - cached),
            forwards=1,
            context=end,
            beside=beside.get((job.epoch, job.base, job.pending.tokens), 0),
            began=answer.began,
            ended=answer.ended,
        )
        cached = recording.prompt + job.base + answer.kept


def _proposals(recording: Recording) -> Iterator[Propose]:
    """The draft's jobs but for head starts, which no pass runs beside."""
    judging = False
    for record in recording.records:
        match record:
            case Sent(command=Judge()):
                judging = True
            case Sent(command=Propose() as job) if judging:
                yield job
            case Received(event=Judged()):
                judging = False
            case _:
                pass


def _windows(recording: Recording) -> Iterator[Sample]:
    cached, epoch = 0, 0
    for _, job, answer in written_in(recording.records):
        end = recording.prompt + job.base + len(job.pending)
        # A new epoch begins with a token that is not the draft's own.
        cached = min(cached, end if job.epoch == epoch else recording.prompt + job.base - 1)
        written = len(answer.drafted)
        yield Sample(
            tokens=max(1, end - cached),
            forwards=written,
            context=end + written - 1,
            began=answer.began,
            ended=answer.ended,
        )
        cached, epoch = end + written - 1, job.epoch


# -- times -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Forward:
    """One forward, or the mean of several alike."""

    tokens: int
    batch: int
    context: float
    seconds: float
    weight: int = 1

    @property
    def is_prompt(self) -> bool:
        """Whether it read all there was."""
        return self.tokens == self.context

    def at(self, context: float, slope: float) -> float:
        """Seconds that it would have taken behind so many positions."""
        return max(self.seconds - slope * self.batch * (self.context - context), self.seconds / 2)


def fit(samples: Sequence[Sample], slope: float | None = None) -> Measured:
    """A table of means by tokens and rows, all brought to one context.

    Args:
        samples: of one device.
        slope: seconds for every further position of context; None finds it in the samples.

    Raises:
        SettingError: there are too few samples of single rows.
    """
    forwards = list(_forwards(samples))
    context = _mean_of([(f.context * f.weight, f.weight) for f in forwards if not f.is_prompt])
    steep = _slope([f for f in forwards if f.batch == 1]) if slope is None else slope
    level = [dataclasses.replace(f, seconds=f.at(context, steep)) for f in forwards]
    by_batch = {batch: [f for f in level if f.batch == batch] for batch in {f.batch for f in level}}
    points = _points(by_batch.pop(1, []))
    if not points:
        message = f"{len(forwards)} forwards were recorded, too few of one row; record more"
        raise SettingError(message)
    crowds = {batch: _row(points, found) for batch, found in sorted(by_batch.items())}
    rows = {1: list(points.values())} | {batch: row for batch, row in crowds.items() if row}
    return Measured(
        tokens=tuple(points),
        batches=tuple(rows),
        grid=tuple(map(tuple, rows.values())),
        context=context,
        per_position=steep,
    )


def _forwards(samples: Sequence[Sample]) -> Iterator[Forward]:
    """Windows taken apart: their first forward may read more than the others."""
    step = {
        batch: _mean_of(
            [(s.seconds, s.forwards) for s in samples if s.batch == batch and s.tokens == 1]
        )
        for batch in {sample.batch for sample in samples}
    }
    for s in samples:
        if s.tokens == 1:
            yield Forward(1, s.batch, s.context, s.seconds / s.forwards, s.forwards)
        elif s.forwards == 1:
            yield Forward(s.tokens, s.batch, s.context, s.seconds)
        else:
            seconds = s.seconds - (s.forwards - 1) * step[s.batch]
            if seconds > 0:  # nan where no step of this batch was timed
                yield Forward(s.tokens, s.batch, s.context - (s.forwards - 1), seconds)


def _mean_of(pairs: Sequence[tuple[float, int]]) -> float:
    weight = sum(count for _, count in pairs)
    return sum(seconds for seconds, _ in pairs) / weight if weight else math.nan


def _points(forwards: Sequence[Forward]) -> dict[int, float]:
    """Seconds by tokens: sizes seen often, and the readings of prompts in a few groups."""
    often = _means(forward for forward in forwards if not forward.is_prompt)
    largest = max(often, default=0)
    prompts = sorted((f for f in forwards if f.tokens > largest), key=lambda f: f.tokens)
    for group in np.array_split(np.arange(len(prompts)), PROMPT_POINTS):
        if len(group):
            found = [prompts[i] for i in group]
            often[round(statistics.mean(f.tokens for f in found))] = _mean(found)
    return dict(sorted(often.items()))


def _means(forwards: Iterable[Forward]) -> dict[int, float]:
    """Seconds by tokens, ascending, of sizes that were seen often."""
    sizes = sorted(_by_size(forwards).items())
    return {tokens: _mean(found) for tokens, found in sizes if len(found) >= FEWEST}


def _by_size(forwards: Iterable[Forward]) -> dict[int, list[Forward]]:
    found: defaultdict[int, list[Forward]] = defaultdict(list)
    for forward in forwards:
        found[forward.tokens].append(forward)
    return found


def _mean(forwards: Sequence[Forward]) -> float:
    return _mean_of([(f.seconds * f.weight, f.weight) for f in forwards])


def _slope(forwards: Sequence[Forward]) -> float:
    """Seconds that every further position takes: least squares among forwards of one size."""
    above = below = 0.0
    for found in _by_size(forward for forward in forwards if not forward.is_prompt).values():
        weight = np.array([f.weight for f in found])
        context, seconds = (
            np.array([getattr(f, n) for f in found]) for n in ("context", "seconds")
        )
        away = context - np.average(context, weights=weight)
        above += float(weight @ (away * seconds))
        below += float(weight @ away**2)
    return max(0.0, above / below) if below else 0.0


def _row(points: Mapping[int, float], forwards: Sequence[Forward]) -> list[float]:
    """The table's row for a batch: the single row's times what the batch took of it."""
    if not (found := _means(forwards)):
        return []
    single = np.interp(list(found), list(points), list(points.values()))
    ratio = np.array(list(found.values())) / single
    there = np.interp(list(points), list(found), ratio)
    return [float(r * seconds) for r, seconds in zip(there, points.values(), strict=True)]


# -- ways --------------------------------------------------------------------------------------


def network(recordings: Sequence[Recording]) -> Network:
    """Means of the ways of messages, out and back, for each direction half of both.

    The scheduler's own work is in them: a trace cannot tell it from the link. A job that the target
    began by itself (`pearl.decoding.foresight`) says nothing of the way out; where no other job
    does either, the way out counts as long as the way back, which every answer shows. In recordings
    where no job was ever begun before it was sent, the target waits for every command.
    """
    goes_on = any(_goes_on(recording.records) for recording in recordings)
    target = _link(recordings, TARGET, goes_on=goes_on)
    onward = [s for each in recordings for s in _onward(each.records, target.latency_s)]
    return Network(
        draft=_link(recordings, DRAFT),
        target=target,
        foresight=goes_on,
        onward_s=statistics.fmean(onward) if onward else 0.0,
    )


def _onward(records: Sequence[Record], out_s: float) -> Iterator[float]:
    """Seconds from a verdict to the job behind it, where the target had foresight of it.

    Only of jobs that it began by itself.
    """
    ended = math.nan
    for exchange, known in zip(exchanges(records), _known(records), strict=True):
        if exchange.device != TARGET or exchange.answer is None:
            continue
        job = exchange.answer.event
        assert isinstance(job, Judged)
        if job.began < exchange.at and known + out_s <= ended:
            yield job.began - ended
        ended = job.ended


def _known(records: Iterable[Record]) -> Iterator[float]:
    """Of each command, when the last thing that it follows from was sent: a job, or its window."""
    known = -math.inf
    for record in records:
        if isinstance(record, Sent):
            yield known
        if isinstance(
            record.command if isinstance(record, Sent) else record.event, Judge | Proposed
        ):
            known = record.at


def _goes_on(records: Iterable[Record]) -> bool:
    """Whether the target began a job before it was sent."""
    return any(answer.began < exchange.at for exchange, _, answer in judged_in(records))


def _link(recordings: Sequence[Recording], device: Device, *, goes_on: bool = False) -> Link:
    ways = [way for each in recordings for way in _ways(each.records, device)]
    out = [way.out for way in ways if not (goes_on and way.foreseen)]
    seen = [statistics.fmean(way) for way in (out, [way.back for way in ways]) if way]
    return Link(latency_s=max(0.0, statistics.fmean(seen)) if seen else 0.0)


@dataclasses.dataclass(frozen=True, slots=True)
class Way:
    """Seconds from the sending of a job to its beginning, and from its end to its answer.

    `foreseen` if all that the job needs was known before it was sent: its command follows a
    verdict, which the target has heard first.
    """

    out: float
    back: float
    foreseen: bool


def _ways(records: Sequence[Record], device: Device) -> Iterator[Way]:
    """Of each job that found its device idle, but for the first one."""
    free_at = math.inf
    for exchange, foreseen in zip(exchanges(records), _follow_verdicts(records), strict=True):
        heard = exchange.answer
        if exchange.device != device or heard is None:
            continue
        job = heard.event
        assert isinstance(job, Proposed | Judged)
        if free_at <= exchange.at:
            yield Way(job.began - exchange.at, heard.at - job.ended, foreseen)
        free_at = job.ended


def _follow_verdicts(records: Iterable[Record]) -> Iterator[bool]:
    """Of each command, whether a verdict gave rise to it."""
    heard = None
    for record in records:
        if isinstance(record, Received):
            heard = record.event
        else:
            yield isinstance(heard, Judged)


# -- luck --------------------------------------------------------------------------------------


def luck_of(recordings: Sequence[Recording]) -> Luck:
    """Agreement position by position, and how it clusters.

    One text a request, also where nothing was compared: the next one has its own.
    """
    texts = [next(iter(agreement(r.records).values()), "") or "?" for r in recordings]
    replay = Replay(tuple(texts))
    return Luck(
        rate=replay.mean,
        by_position=_by_position(recordings),
        correlation=correlation(texts, around=replay.mean),
        correlation_within=correlation(texts),
        texts=replay.texts,
    )


def _by_position(recordings: Sequence[Recording]) -> tuple[float, ...]:
    """Agreed of compared, for each position of a window; positions seen too rarely are left out."""
    kept: Counter[int] = Counter()
    compared: Counter[int] = Counter()
    for recording in recordings:
        for _, same in comparisons(recording.records):
            compared.update(range(len(same)))
            kept.update(position for position, agreed in enumerate(same) if agreed)
    often = [position for position in sorted(compared) if compared[position] >= FEWEST]
    return tuple(kept[position] / compared[position] for position in often)
