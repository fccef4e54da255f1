"""From the jobs of a device to what its forwards take: `Measured` times.

    passes    means by the tokens that were read, and how much longer passes take while a window is
              written beside them, where that can be told from chance
    windows   taken apart by least squares: a step, what a long rest adds to the first one, and
              what a longer context adds to each
    spread    how single jobs scatter around what they should take

All are of single rows; a batch is known by how many times as long it takes.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from pearl.decoding.errors import SettingError
from pearl.simulator.costs import QUANTILES, Beside, Measured

Array: TypeAlias = NDArray[np.float64]

FEWEST: Final = 4  # samples of one size that make a point of the table
ENOUGH: Final = 16  # passes beside windows of about one size that tell how much longer they take
PROMPT_POINTS: Final = 4  # of the table beyond the windows' sizes
ERRORS: Final = 2.0  # standard errors: a smaller difference may be chance
SMALL: Final = 0.005  # of a pass: a smaller difference is none
RESTS: Final = (1, 2, 4, 8, 16, 32, 64)  # steps of the draft: rests at which it is looked at
FAINT: Final = 0.1  # of a sample: what is presumed where no sample speaks
LEAST: Final = 0.05  # of what a job should take; noise that is taken apart has no negative times


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One job of a device.

    Args:
        tokens: read by the job's first forward.
        forwards: 1 for a pass of the target, the tokens written for a window.
        batch: rows that shared the forwards, about.
        context: positions behind the row at the end.
        beside: tokens that the draft was to write for the same request meanwhile; of a window, 1
            if a pass was under way when it was begun.
        rest: seconds before it in which the device did nothing.
    """

    tokens: int
    forwards: int
    batch: int = 1
    context: int
    beside: int = 0
    rest: float = 0.0
    began: float
    ended: float

    @property
    def is_prompt(self) -> bool:
        """Whether its first forward read all there was."""
        return self.tokens == self.context - (self.forwards - 1)

    @property
    def seconds(self) -> float:
        """Of all its forwards."""
        return self.ended - self.began


Expected: TypeAlias = Callable[[Measured, Sample], float]


def of_passes(requests: Sequence[Sequence[Sample]]) -> Measured:
    """Times of the target.

    Args:
        requests: the passes of those that ran at the same time.

    Raises:
        SettingError: there are too few passes of single rows.
    """
    samples = list(itertools.chain(*requests))
    known = [s for s in samples if not s.is_prompt]
    single = [s for s in known if s.batch == 1]
    context, steep = _mean([s.context for s in known]), _slope(requests)
    level = [PassSeen(s, _at(s, context, steep)) for s in single]
    beside = _beside(level)
    cost = Measured(tokens=(1,), batches=(1,), grid=((1.0,),), beside=beside)
    alike = [
        dataclasses.replace(seen, seconds=seen.seconds / _slower(cost, seen.sample))
        for seen in level
    ]
    points = {n: _mean_of(found) for n, found in _by_size(alike) if len(found) >= FEWEST}
    points |= _prompts(samples, max(points, default=0), context, steep)
    return replace(
        _table(points, known, expected_pass, context, steep),
        beside=tuple(each for each in beside if (each.single, each.several) != (1.0, 1.0)),
    )


def of_windows(requests: Sequence[Sequence[Sample]]) -> Measured:
    """Times of the draft.

    Args:
        requests: the windows of those that ran at the same time.

    Raises:
        SettingError: there are too few windows of single rows.
    """
    samples = list(itertools.chain(*requests))
    known = [s for s in samples if not s.is_prompt]
    single = [s for s in known if s.batch == 1]
    if len(single) < FEWEST:
        raise _too_few(single)
    context = float(np.average([_middle(s) for s in single], weights=[s.forwards for s in single]))
    step = _Step.taken_apart(single, context)
    points = {1: step.seconds} | {n: step.seconds + more for n, more in step.longer.items()}
    points |= _prompts(
        [_first(s, step, context) for s in samples], max(points), context, step.per_position
    )
    cost = _table(points, known, expected_window, context, step.per_position)
    return replace(cost, rests=step.rests, waking=step.waking, waking_beside=step.waking_beside)


def expected_pass(cost: Measured, sample: Sample) -> float:
    """What a pass should take."""
    return cost.seconds(sample.tokens, sample.batch, sample.context) * _slower(cost, sample)


def expected_window(cost: Measured, sample: Sample) -> float:
    """What a window should take, from its first forward to its last."""
    further, batch, end = sample.forwards - 1, sample.batch, sample.context
    first = cost.seconds(sample.tokens, batch, end - further)
    woken = cost.woken(sample.rest, beside=sample.beside > 0)
    return first + woken + further * cost.seconds(1, batch, round(end - further / 2))


def level(cost: Measured, samples: Sequence[Sample], expected: Expected) -> float:
    """How many times as long as expected these jobs took together; 1 if there are none."""
    known = [s for s in samples if s.batch == 1 and not s.is_prompt]
    wanted = sum(expected(cost, sample) for sample in known)
    return sum(sample.seconds for sample in known) / wanted if wanted else 1.0


def spread(
    cost: Measured, requests: Iterable[Sequence[Sample]], expected: Expected
) -> tuple[float, ...]:
    """Factors of a forward's time, each as likely as the others; of mean 1.

    Jobs are compared with others of their own request: how a machine drifts between requests is
    no spread within one. A job of n forwards scatters by 1 / sqrt(n) of what a forward does.
    """
    found: list[float] = []
    for samples in requests:
        known = [s for s in samples if s.batch == 1 and not s.is_prompt]
        if len(known) < FEWEST:
            continue
        own = level(cost, known, expected)
        found += [
            1 + (s.seconds / (own * expected(cost, s)) - 1) * math.sqrt(s.forwards) for s in known
        ]
    if len(found) < QUANTILES:
        return (1.0,)
    parts = np.array_split(np.sort(np.maximum(found, LEAST)), QUANTILES)
    factors = np.array([part.mean() for part in parts])
    return tuple((factors / factors.mean()).tolist())


# -- passes ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class PassSeen:
    """A pass, and what it would have taken at the context of the table."""

    sample: Sample
    seconds: float


def _at(sample: Sample, context: float, steep: float) -> float:
    behind = steep * sample.batch * (sample.context - context)
    return max(sample.seconds - behind, sample.seconds / 2)


def _slower(cost: Measured, sample: Sample) -> float:
    return cost.slower(sample.tokens, sample.beside)


def _by_size(found: Iterable[PassSeen]) -> list[tuple[int, list[PassSeen]]]:
    sizes: defaultdict[int, list[PassSeen]] = defaultdict(list)
    for seen in found:
        sizes[seen.sample.tokens].append(seen)
    return sorted(sizes.items())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _mean_of(found: Sequence[PassSeen]) -> float:
    return _mean([seen.seconds for seen in found])


def _slope(requests: Iterable[Sequence[Sample]]) -> float:
    """Seconds that every further position takes: least squares among passes that are alike.

    Each request's own: from one to the next a machine drifts.
    """
    above = below = 0.0
    for samples in requests:
        alike: defaultdict[tuple[int, int], list[Sample]] = defaultdict(list)
        for s in samples:
            if s.batch == 1 and not s.is_prompt:
                alike[s.tokens, s.beside].append(s)
        for found in alike.values():
            context, seconds = np.array([[s.context, s.seconds] for s in found]).T
            away = context - context.mean()
            above += float(away @ seconds)
            below += float(away @ away)
    return max(0.0, above / below) if below else 0.0


def _beside(level: Sequence[PassSeen]) -> tuple[Beside, ...]:
    """How many times as long passes take beside windows of about one size: 1, 2-3, 4-7, 8-15, …."""
    alone = {n: found for n, found in _by_size(s for s in level if not s.sample.beside)
             if len(found) >= FEWEST}  # fmt: skip
    classes: defaultdict[int, list[PassSeen]] = defaultdict(list)
    for seen in level:
        if seen.sample.beside and seen.sample.tokens in alone:
            classes[seen.sample.beside.bit_length()].append(seen)
    return tuple(
        Beside(
            window=round(_mean([seen.sample.beside for seen in found])),
            single=_factor([seen for seen in found if seen.sample.tokens == 1], alone),
            several=_factor([seen for seen in found if seen.sample.tokens > 1], alone),
        )
        for _, found in sorted(classes.items())
    )


def _factor(found: Sequence[PassSeen], alone: dict[int, list[PassSeen]]) -> float:
    """How many times as long as alone these take; 1 where that may be chance, or less."""
    if len(found) < ENOUGH:
        return 1.0
    means = {n: _mean_of(alone[n]) for n in {seen.sample.tokens for seen in found}}
    ratios = np.array([seen.seconds / means[seen.sample.tokens] for seen in found])
    known = np.array([s.seconds / means[n] for n in means for s in alone[n]])
    error = math.hypot(ratios.std() / math.sqrt(len(ratios)), known.std() / math.sqrt(len(known)))
    factor = float(ratios.mean())
    return factor if factor - 1 > max(ERRORS * error, SMALL) else 1.0


# -- windows ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Step:
    """A draft's step.

    Args:
        seconds: of one that reads one token, without a rest before it.
        per_position: further seconds for every further position.
        longer: further seconds of a first step that reads so many tokens.
        rests, waking, waking_beside: further seconds of a first step behind a rest.
    """

    seconds: float
    per_position: float
    longer: dict[int, float]
    rests: tuple[float, ...]
    waking: tuple[float, ...]
    waking_beside: tuple[float, ...]

    @classmethod
    def taken_apart(cls, samples: Sequence[Sample], context: float) -> _Step:
        """The sums that windows are, solved for their parts; no part takes less than nothing."""
        count, taken = np.array([[s.forwards, s.seconds] for s in samples]).T
        rests = _rests(samples, float(taken.sum() / count.sum()))
        sizes = sorted({s.tokens for s in samples} - {1})
        sizes = [n for n in sizes if sum(s.tokens == n for s in samples) >= FEWEST]
        behind = count * (np.array([_middle(s) for s in samples]) - context)
        first = np.array([[s.tokens == n for n in sizes] for s in samples], float)
        near = _hats(np.array([s.rest for s in samples]), rests)
        beside = np.array([s.beside > 0 for s in samples])[:, None]
        waking = np.column_stack([near * ~beside, near * beside])
        columns = np.column_stack([count, behind, first.reshape(len(samples), -1), waking])
        parts = np.cumsum([2, len(sizes), len(rests)])
        weight = 1 / np.sqrt(count)  # a window of n steps scatters by sqrt(n) steps
        # A rest that is seen on one side only is taken to do the same on the other.
        same = np.column_stack([np.eye(len(rests)), -np.eye(len(rests))])
        faint = np.zeros((3 * len(rests), columns.shape[1]))
        faint[:, parts[1] :] = FAINT * np.vstack([same, FAINT * np.eye(2 * len(rests))])
        found = _not_negative(
            np.vstack([columns * weight[:, None], faint]),
            np.append(taken * weight, np.zeros(len(faint))),
        )
        own, longer, alone, busy = np.split(found, parts)
        return cls(
            seconds=float(own[0]) or float(taken.sum() / count.sum()),
            per_position=float(own[1]),
            longer=dict(zip(sizes, longer.tolist(), strict=True)),
            rests=(0.0, *rests),
            waking=(0.0, *alone.tolist()),
            waking_beside=(0.0, *busy.tolist()),
        )


def _rests(samples: Sequence[Sample], step: float) -> tuple[float, ...]:
    """The rests that some samples are near to."""
    asked = [step * steps for steps in RESTS]
    hats = _hats(np.array([s.rest for s in samples]), tuple(asked))
    return tuple(rest for rest, near in zip(asked, hats.sum(axis=0), strict=True) if near >= FEWEST)


def _hats(rest: Array, nodes: Sequence[float]) -> Array:
    """How near each rest is to each node: the weights of a line between them, from 0 at no rest."""
    if not nodes:
        return np.zeros((len(rest), 0))
    at, values = (0.0, *nodes), np.eye(len(nodes) + 1)
    return np.column_stack([np.interp(rest, at, values[i + 1]) for i in range(len(nodes))])


def _not_negative(columns: Array, values: Array) -> Array:
    """Least squares, with every part at least 0."""
    kept = list(range(columns.shape[1]))
    scale = np.maximum(np.abs(columns).max(axis=0, initial=0.0), 1e-300)
    while True:
        found = np.zeros(columns.shape[1])
        found[kept] = np.linalg.lstsq(columns[:, kept] / scale[kept], values, rcond=None)[0]
        negative = [i for i in kept if found[i] < 0]
        if not negative:
            return np.asarray(found / scale)
        kept = [i for i in kept if i not in negative]


def _middle(sample: Sample) -> float:
    """The mean context of a window's forwards."""
    return sample.context - (sample.forwards - 1) / 2


def _first(sample: Sample, step: _Step, context: float) -> Sample:
    """The first forward of a window, as a job of its own."""
    further = sample.forwards - 1
    behind = step.per_position * (sample.context - (further - 1) / 2 - context)
    later = further * sample.batch * max(step.seconds + behind, step.seconds / 2)
    return replace(
        sample,
        forwards=1,
        context=sample.context - further,
        ended=max(sample.ended - later, sample.began),
    )


# -- tables ----------------------------------------------------------------------------------------


def _prompts(
    samples: Sequence[Sample], largest: int, context: float, steep: float
) -> dict[int, float]:
    """Seconds of readings of prompts beyond the windows' sizes, in a few groups."""
    reading = sorted(
        (s for s in samples if s.is_prompt and s.batch == 1 and s.tokens > largest and s.seconds),
        key=lambda s: s.tokens,
    )
    points = {}
    for group in np.array_split(np.arange(len(reading)), PROMPT_POINTS):
        if found := [reading[i] for i in group]:
            size = round(_mean([s.tokens for s in found]))
            points[size] = _mean([_at(s, context, steep) for s in found])
    return points


def _table(
    points: dict[int, float],
    samples: Sequence[Sample],
    expected: Expected,
    context: float,
    steep: float,
) -> Measured:
    """Points of single rows, and for each number of rows how many times as long they take."""
    if not points:
        raise _too_few(samples)
    cost = Measured(
        tokens=tuple(sorted(points)),
        batches=(1,),
        grid=(tuple(points[n] for n in sorted(points)),),
        context=context,
        per_position=steep,
    )
    rows = {1: cost.grid[0]}
    for batch in sorted({s.batch for s in samples} - {1}):
        if row := _row(cost, [s for s in samples if s.batch == batch], expected):
            rows[batch] = row
    return replace(cost, batches=tuple(rows), grid=tuple(rows.values()))


def _row(cost: Measured, samples: Sequence[Sample], expected: Expected) -> tuple[float, ...]:
    """The single row's times, times what the batch took of it; nothing where it was seen rarely."""
    ratios: defaultdict[int, list[float]] = defaultdict(list)
    for s in samples:
        # Every row has a context of its own.
        behind = (s.batch - 1) * cost.per_position * s.forwards * (s.context - cost.context)
        ratios[s.tokens].append((s.seconds - behind) / expected(cost, replace(s, batch=1)))
    often = {n: _mean(found) for n, found in sorted(ratios.items()) if len(found) >= FEWEST}
    if not often:
        return ()
    there = np.interp(cost.tokens, list(often), list(often.values()))
    return tuple((there * np.array(cost.grid[0])).tolist())


def _too_few(samples: Sequence[Any]) -> SettingError:
    message = f"{len(samples)} forwards were recorded, too few of one row; record more"
    return SettingError(message)
