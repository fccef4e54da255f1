"""From recorded runs to a profile: what every job took, and where the time between jobs went.

A job's seconds are its device's own (`began` to `ended`); the way of a message is what lies
between them and the scheduler's clock, so both ends must share one clock: one machine. What a
job read is not in a trace and need not be, it follows from the jobs before: the cache holds what
was read and not refused.

    samples     one a job: tokens read, rows that shared the forward, context, seconds
    fit         samples as a table of means, with straight lines between
    network     medians of the way out and back, of jobs that found their device idle
    luck        agreement position by position, and how it clusters
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from decoding.errors import SettingError
from decoding.messages import Judged, Proposed
from decoding.settings import Settings
from decoding.trace import Received, Record
from simulator.acceptance import Replay
from simulator.costs import Measured
from simulator.exchanges import Exchange, agreement, comparisons
from simulator.exchanges import passes as judged_in
from simulator.exchanges import windows as written_in
from simulator.links import Link, Network
from simulator.profiles import Luck, Profile
from simulator.world import Pair

FEWEST: Final = 4  # samples of one size that make a point of the table
PROMPT_POINTS: Final = 4  # of the table beyond the windows' sizes


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """One request's trace, and the length of its prompt."""

    prompt: int
    records: tuple[Record, ...]

    @property
    def tokens(self) -> int:
        """How many were generated."""
        return sum(len(record.tokens) for record in self.records if isinstance(record, Received))


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
    return Profile(
        machine=machine,
        models=models,
        settings=settings,
        pair=pair(groups),
        network=network([group[0] for group in groups if len(group) == 1]),
        luck=luck_of(luck),
        prompts=tuple(recording.prompt for recording in luck),
        outputs=tuple(recording.tokens for recording in luck),
    )


def pair(groups: Sequence[Sequence[Recording]]) -> Pair:
    """Times of draft steps and target passes."""
    return Pair(
        draft=fit([sample for group in groups for sample in windows(group)]),
        target=fit([sample for group in groups for sample in passes(group)]),
    )


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One job of a device.

    Args:
        tokens: read by the job's first forward.
        forwards: 1 for a pass of the target, the tokens written for a window.
        batch: rows that shared the forwards, about.
        context: positions behind the row at the end.
        seconds: of the job.
    """

    tokens: int
    forwards: int
    batch: int
    context: int
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """Of all its forwards."""
        return self.ended - self.began


def passes(together: Sequence[Recording]) -> list[Sample]:
    """The target's passes of requests that ran at the same time."""
    found = [sample for recording in together for sample in _passes(recording)]
    # Rows of one forward begin and end as one.
    rows = collections.Counter((sample.began, sample.ended) for sample in found)
    longest: dict[tuple[float, float], int] = {}
    for sample in found:
        forward = (sample.began, sample.ended)
        longest[forward] = max(longest.get(forward, 0), sample.tokens)
    return [
        msgspec.structs.replace(
            sample,
            batch=rows[sample.began, sample.ended],
            tokens=longest[sample.began, sample.ended],
        )
        for sample in found
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
    for _, job, answer in judged_in(recording.records):
        if not answer.passes:
            continue
        end = recording.prompt + job.base + len(job.pending)
        yield Sample(
            tokens=max(1, end - cached),
            forwards=1,
            batch=1,
            context=end,
            began=answer.began,
            ended=answer.ended,
        )
        cached = recording.prompt + job.base + answer.kept


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
            batch=1,
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


def fit(samples: Sequence[Sample]) -> Measured:
    """A table of means by tokens and rows, and the slope over the context.

    Raises:
        SettingError: there are too few samples of single rows.
    """
    forwards = list(_forwards(samples))
    single = [forward for forward in forwards if forward.batch == 1]
    points = _points(single)
    if not points:
        message = f"{len(single)} forwards of one row were recorded; record more"
        raise SettingError(message)
    context, slope = _slope(single, points)
    batches = [1, *(b for b in sorted({f.batch for f in forwards}) if b > 1)]
    rows = {b: _row(points, [f for f in forwards if f.batch == b]) for b in batches[1:]}
    rows = {1: list(points.values())} | {b: row for b, row in rows.items() if row}
    return Measured(
        tokens=tuple(points),
        batches=tuple(rows),
        grid=tuple(map(tuple, rows.values())),
        context=context,
        per_position=slope,
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
    by_size = collections.defaultdict(list)
    for forward in forwards:
        if not forward.is_prompt:
            by_size[forward.tokens].append(forward)
    often = {n: _mean(found) for n, found in by_size.items() if len(found) >= FEWEST}
    largest = max(often, default=0)
    prompts = sorted((f for f in forwards if f.tokens > largest), key=lambda f: f.tokens)
    for group in np.array_split(np.arange(len(prompts)), PROMPT_POINTS):
        if len(group):
            found = [prompts[i] for i in group]
            often[round(statistics.mean(f.tokens for f in found))] = _mean(found)
    return dict(sorted(often.items()))


def _mean(forwards: Sequence[Forward]) -> float:
    return _mean_of([(f.seconds * f.weight, f.weight) for f in forwards])


def _slope(forwards: Sequence[Forward], points: Mapping[int, float]) -> tuple[float, float]:
    """The mean context, and the seconds that every further position takes."""
    near = [f for f in forwards if f.tokens in points]
    weight = np.array([f.weight for f in near])
    context = np.array([f.context for f in near])
    rest = np.array([f.seconds - points[f.tokens] for f in near])
    middle = float(np.average(context, weights=weight))
    spread = float(weight @ (context - middle) ** 2)
    slope = float(weight @ ((context - middle) * rest)) / spread if spread else 0.0
    return middle, max(0.0, slope)


def _row(points: Mapping[int, float], forwards: Sequence[Forward]) -> list[float]:
    """The table's row for a batch: the single row's times what the batch took of it."""
    sizes = collections.defaultdict(list)
    for forward in forwards:
        sizes[forward.tokens].append(forward)
    found = {n: _mean(f) for n, f in sorted(sizes.items()) if len(f) >= FEWEST}
    if not found:
        return []
    single = np.interp(list(found), list(points), list(points.values()))
    ratio = np.array(list(found.values())) / single
    there = np.interp(list(points), list(found), ratio)
    return [float(r * seconds) for r, seconds in zip(there, points.values(), strict=True)]


# -- ways --------------------------------------------------------------------------------------


def network(recordings: Sequence[Recording]) -> Network:
    """Means of the ways of messages: half of out and back for each direction.

    The scheduler's own work is in them: a trace cannot tell it from the link.
    """
    written = [_ways(written_in(recording.records)) for recording in recordings]
    judged = [_ways(judged_in(recording.records)) for recording in recordings]
    return Network(draft=_link(written), target=_link(judged))


def _link(ways: Iterable[Iterable[float]]) -> Link:
    found = list(itertools.chain.from_iterable(ways))
    return Link(latency_s=statistics.fmean(found) / 2 if found else 0.0)


def _ways(jobs: Iterable[tuple[Exchange, object, Proposed | Judged]]) -> Iterator[float]:
    """Seconds out and back of each job that found its device idle, but for the first one."""
    free_at = math.inf
    for exchange, _, answer in jobs:
        if free_at <= exchange.at and exchange.answer is not None:
            yield (exchange.answer.at - exchange.at) - (answer.ended - answer.began)
        free_at = answer.ended


# -- luck --------------------------------------------------------------------------------------


def luck_of(recordings: Sequence[Recording]) -> Luck:
    """Agreement position by position, and how it clusters."""
    texts = [text for r in recordings for text in agreement(r.records).values() if text.strip("?")]
    replay = Replay(tuple(texts))
    return Luck(
        rate=replay.mean,
        by_position=_by_position(recordings),
        correlation=_correlation(texts, replay.mean),
        correlation_within=_correlation(texts, None),
        texts=replay.texts,
    )


def _correlation(texts: Sequence[str], mean: float | None) -> float:
    """Of neighbouring positions; around each text's own mean where none is given."""
    above = below = 0.0
    for text in texts:
        known = np.array([math.nan if c == "?" else float(c) for c in text])
        around = known - (np.nanmean(known) if mean is None else mean)
        both = around[:-1] * around[1:]
        seen = ~np.isnan(both)
        above += float(both[seen].sum())
        below += float(((around[:-1] ** 2 + around[1:] ** 2) / 2)[seen].sum())
    return above / below if below else 0.0


def _by_position(recordings: Sequence[Recording]) -> tuple[float, ...]:
    """Agreed of compared, for each position of a window; positions seen too rarely are left out."""
    kept: collections.Counter[int] = collections.Counter()
    compared: collections.Counter[int] = collections.Counter()
    for recording in recordings:
        for _, same in comparisons(recording.records):
            compared.update(range(len(same)))
            kept.update(position for position, agreed in enumerate(same) if agreed)
    often = [position for position in sorted(compared) if compared[position] >= FEWEST]
    return tuple(kept[position] / compared[position] for position in often)
