"""From recorded runs to a profile: what every job took, and where the time between jobs went.

A job's seconds are its device's own (`began` to `ended`); the way of a message is what lies
between them and the scheduler's clock, so both ends must share one clock: one machine. What a
job read is not in a trace and need not be, it follows from the jobs before: the cache holds what
was read and not refused.

    samples     one a job: tokens read, rows that shared the forward, context, seconds
    times       of both devices (`pearl.simulator.fitting`), and how they drifted
    network     means of the ways of messages, by kind
    luck        agreement position by position, and how it clusters
"""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

import msgspec

from pearl.decoding.exchanges import Exchange, agreement, comparisons, correlation, exchanges
from pearl.decoding.exchanges import passes as judged_in
from pearl.decoding.exchanges import windows as written_in
from pearl.decoding.messages import (
    ANSWERS,
    DEVICES,
    DRAFT,
    TARGET,
    Device,
    DeviceLost,
    Event,
    Judge,
    Judged,
    Propose,
    Proposed,
)
from pearl.decoding.settings import Settings
from pearl.decoding.stopping import StopRules
from pearl.decoding.trace import Received, Record, Sent
from pearl.simulator import fitting
from pearl.simulator.acceptance import Replay
from pearl.simulator.costs import Measured
from pearl.simulator.fitting import Sample, expected_pass, expected_window
from pearl.simulator.links import Link, Network, Ways
from pearl.simulator.profiles import BlockLevel, Luck, Profile
from pearl.simulator.world import Pair

FEWEST: Final = 4  # windows that reach a position, for the rate there to be told


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
    blocks: Sequence[Sequence[Sequence[Recording]]],
    *,
    luck: Sequence[Recording],
    settings: Settings,
    machine: dict[str, str],
    models: dict[str, str],
) -> Profile:
    """Everything that was recorded, as one profile.

    Args:
        blocks: one after the other, each with groups of recordings that ran at the same time.
        luck: the recordings that acceptance is read from; their requests are the workload.
        settings: what those ran with.
        machine, models: to tell profiles apart.
    """
    every = [group for block in blocks for group in block]
    pair = Pair(
        draft=fitting.of_windows(list(map(windows, every))),
        target=fitting.of_passes(list(map(passes, every))),
    )
    ways = network(_single(every))
    return Profile(
        machine=machine,
        models=models,
        settings=settings,
        pair=_with_spread(pair, every),
        network=ways,
        levels=tuple(_level(pair, ways, block) for block in blocks),
        luck=luck_of(luck),
        prompts=tuple(recording.prompt for recording in luck),
        outputs=tuple(recording.tokens for recording in luck),
    )


def times_of(recordings: Sequence[Recording], known: Pair) -> Pair:
    """The mean times of requests that ran one by one; of a device without jobs those known."""
    written, judged = (
        [found for recording in recordings if (found := kind([recording]))]
        for kind in (windows, passes)
    )
    return Pair(
        draft=fitting.of_windows(written) if written else known.draft,
        target=fitting.of_passes(judged),
    )


def with_spread(pair: Pair, recordings: Sequence[Recording]) -> Pair:
    """Means of these requests, and how their jobs scatter around them."""
    return _with_spread(pair, [[recording] for recording in recordings])


def _with_spread(pair: Pair, groups: Sequence[Sequence[Recording]]) -> Pair:
    draft, target = pair.draft, pair.target
    if isinstance(draft, Measured):
        found = fitting.spread(draft, map(windows, groups), expected_window)
        draft = msgspec.structs.replace(draft, spread=found)
    if isinstance(target, Measured):
        found = fitting.spread(target, map(passes, groups), expected_pass)
        target = msgspec.structs.replace(target, spread=found)
    return Pair(draft=draft, target=target)


def _single(groups: Iterable[Sequence[Recording]]) -> list[Recording]:
    """Requests that ran alone."""
    return [group[0] for group in groups if len(group) == 1]


def _level(pair: Pair, known: Network, block: Sequence[Sequence[Recording]]) -> BlockLevel:
    """How slow the machine was in a block, of all of them."""
    assert isinstance(pair.draft, Measured)
    assert isinstance(pair.target, Measured)
    single = [[recording] for recording in _single(block)]
    return BlockLevel(
        draft=fitting.level(pair.draft, [s for g in single for s in windows(g)], expected_window),
        target=fitting.level(pair.target, [s for g in single for s in passes(g)], expected_pass),
        messages=_slower(known, [recording for [recording] in single]),
    )


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
    ends = [0.0, *itertools.accumulate((sample.ended for sample in found), max)]
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
        msgspec.structs.replace(
            sample, batch=1 + round(others(sample)), rest=max(0.0, sample.began - before)
        )
        for sample, before in zip(found, ends, strict=False)
        if sample.seconds
    ]


def _passes(recording: Recording) -> Iterator[Sample]:
    cached = 0
    # A window beside a pass stands on what the pass judges.
    beside = {
        (job.epoch, job.base, job.pending): job.count for job in _proposals(recording.records)
    }
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


def _proposals(records: Iterable[Record]) -> Iterator[Propose]:
    """The draft's jobs but for head starts, which no pass runs beside."""
    judging = False
    for record in records:
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
    judges = _at_work(exchanges(recording.records), TARGET)
    for _, job, answer in written_in(recording.records):
        end = recording.prompt + job.base + len(job.pending)
        # A new epoch begins with a token that is not the draft's own.
        cached = min(cached, end if job.epoch == epoch else recording.prompt + job.base - 1)
        written = len(answer.drafted)
        yield Sample(
            tokens=max(1, end - cached),
            forwards=written,
            context=end + written - 1,
            beside=judges(answer.began),
            began=answer.began,
            ended=answer.ended,
        )
        cached, epoch = end + written - 1, job.epoch


# -- ways --------------------------------------------------------------------------------------


Kind: TypeAlias = tuple[Device, str, str]


class Way(NamedTuple):
    """Seconds that a message took.

    Args:
        kind: whose it was, and its fields of `Link` and of `Ways`.
        seconds: from the sending of a job to its beginning, or from its end to its answer.
        bare: whether nothing but the message lies between. A target that has heard its verdict
            may know the job before it is sent (`pearl.decoding.foresight`).
    """

    kind: Kind
    seconds: float
    bare: bool = True


def network(recordings: Sequence[Recording]) -> Network:
    """Means of the ways of messages, by kind.

    The scheduler's own work is in them: a trace cannot tell it from the link. A job that the target
    began by itself says nothing of the way out. In recordings where no job was ever begun before it
    was sent, the target waits for every command. What no message tells of a kind, the one most like
    it does; of a way out, if nothing else does, the way back.
    """
    goes_on = any(_goes_on(recording.records) for recording in recordings)
    means = _means(recordings, goes_on=goes_on)
    draft, target = (
        Link(
            in_turns=_known(means, device, "in_turns", "at_once"),
            at_once=_known(means, device, "at_once", "in_turns"),
        )
        for device in DEVICES
    )
    out_s = max(target.in_turns.after_window, target.at_once.after_window)
    onward = [s for each in recordings for s in _onward(each.records, out_s)]
    return Network(
        draft=draft,
        target=target,
        foresight=goes_on,
        onward_s=max(0.0, statistics.fmean(onward)) if onward else 0.0,
    )


def _means(recordings: Sequence[Recording], *, goes_on: bool) -> dict[Kind, tuple[float, int]]:
    """Of each kind the mean, and of how many."""
    found: defaultdict[Kind, list[float]] = defaultdict(list)
    for recording in recordings:
        for way in _ways(recording.records):
            if way.bare or not goes_on:
                found[way.kind].append(way.seconds)
    return {kind: (max(0.0, statistics.fmean(s)), len(s)) for kind, s in found.items()}


def _known(means: dict[Kind, tuple[float, int]], device: Device, link: str, other: str) -> Ways:
    """Ways of one device, those that were not seen like those that were."""

    def mean(*names: str) -> float:
        kinds = [(device, which, name) for which in (link, other) for name in names]
        return next((means[kind][0] for kind in kinds if kind in means), 0.0)

    back = mean("alone", "beside")
    return Ways(
        after_window=mean("after_window", "after_verdict") or back,
        after_verdict=mean("after_verdict", "after_window") or back,
        alone=back,
        beside=mean("beside", "alone"),
    )


def _slower(known: Network, recordings: Sequence[Recording]) -> float:
    """How many times as long as known messages took in these recordings."""
    taken = wanted = 0.0
    links = {DRAFT: known.draft, TARGET: known.target}
    for (device, link, name), (mean, count) in _means(recordings, goes_on=known.foresight).items():
        taken += count * mean
        wanted += count * getattr(getattr(links[device], link), name)
    return taken / wanted if wanted else 1.0


def _onward(records: Sequence[Record], out_s: float) -> Iterator[float]:
    """Seconds from a verdict to the job behind it, where the target had foresight of it.

    Only of jobs that it began by itself.
    """
    ended = math.nan
    for exchange, known in zip(exchanges(records), _known_at(records), strict=True):
        if exchange.device != TARGET or exchange.answer is None:
            continue
        job = exchange.answer.event
        assert isinstance(job, Judged)
        if job.began < exchange.at and known + out_s <= ended:
            yield job.began - ended
        ended = job.ended


def _known_at(records: Iterable[Record]) -> Iterator[float]:
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


def _ways(records: Sequence[Record]) -> Iterator[Way]:
    """Out and back of each job that found its device idle, but for the first one."""
    jobs = exchanges(records)
    works = {device: _at_work(jobs, device) for device in DEVICES}
    free_at = dict.fromkeys(DEVICES, math.inf)
    link = "at_once" if any(_proposals(records)) else "in_turns"
    for exchange, after in zip(jobs, _follow(records), strict=True):
        heard, device = exchange.answer, exchange.device
        if heard is None:
            continue
        job = heard.event
        assert isinstance(job, Proposed | Judged)
        if free_at[device] <= exchange.at:
            foreseen = device == TARGET and isinstance(after, Judged)
            name = "after_window" if isinstance(after, Proposed) else "after_verdict"
            yield Way((device, link, name), job.began - exchange.at, bare=not foreseen)
            other = works[TARGET if device == DRAFT else DRAFT]
            name = "beside" if other(job.ended) else "alone"
            yield Way((device, link, name), heard.at - job.ended)
        free_at[device] = job.ended


def _at_work(jobs: Sequence[Exchange], device: Device) -> Callable[[float], bool]:
    """Whether a device was at work, by the moment."""
    times = [job.answer.event for job in jobs if job.device == device and job.answer is not None]
    spans = sorted((e.began, e.ended) for e in times if isinstance(e, ANSWERS))
    begun = [began for began, _ in spans]

    def works(at: float) -> bool:
        place = bisect.bisect_right(begun, at) - 1
        return place >= 0 and at < spans[place][1]

    return works


def _follow(records: Iterable[Record]) -> Iterator[Event | None]:
    """Of each command, the event that gave rise to it."""
    heard = None
    for record in records:
        if isinstance(record, Received):
            heard = record.event
        else:
            yield heard


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
