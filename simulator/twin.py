"""The vectorised twin: single-request questions in numpy, the same answers millions at a time.

The text of a request is a sequence of *runs*: positions where the draft agrees with the target,
then one where it does not. What a schedule makes of a run depends on its length alone
(`pearl.decoding.rounds`), so a whole sweep is arithmetic on arrays of lengths. (A window of
speculative decoding that is fully kept also skips a position, the bonus token. Whether that token
would have been agreed with does not matter: if it ends the run, the next one begins behind it.)

It holds where rounds have a barrier, and acceptance belongs to the text; for loads, faults,
messages that vary and cancelled windows ask `simulate`. A round takes the longer of two times, and
where they scatter the mean of the longer one, which is more than the longer mean. A target with
foresight carries one thing from run to run, its lead (`pearl.simulator.leads`); the mean lead is
used, as if any run could follow any other.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Final, TypeAlias, final

import msgspec
import numpy as np
from numpy.typing import NDArray

from pearl.decoding import rounds
from pearl.decoding.errors import SettingError
from pearl.decoding.estimates import Estimate, of_part, of_ratio
from pearl.decoding.kinds import SCHEDULES, ScheduleKind
from pearl.decoding.rounds import Rounds, RoundTimes
from pearl.decoding.sampling import refuse_unless
from pearl.simulator import leads
from pearl.simulator.acceptance import (
    LONGEST,
    Acceptance,
    Bursts,
    Independent,
    Mixture,
    Positions,
    Replay,
    Runs,
)
from pearl.simulator.costs import Measured, scatter
from pearl.simulator.links import Network
from pearl.simulator.streams import StreamPurpose, stream
from pearl.simulator.world import Pair

Array: TypeAlias = NDArray[Any]
RUNS: Final = 4096  # drawn for one answer
APART: Final = 64  # values that stand for how two times fall apart
UNLIKELY: Final = 1e-12  # runs beyond are counted as the longest one
NEGLIGIBLE: Final = 1e-18  # of all runs: a length that is rarer is left out


class Scheme(msgspec.Struct, frozen=True):
    """A schedule's name, its gamma and its head start."""

    schedule: str
    gamma: int = 0
    head_start: int = 0

    def __post_init__(self) -> None:
        """Refuse windows of nothing."""
        allowed = f"one of {', '.join(SCHEDULES)}"
        refuse_unless(self, "schedule", allowed, fine=self.schedule in SCHEDULES)
        fine = self.gamma >= 1 or not self.kind.drafts
        refuse_unless(self, "gamma", f"1 or more with schedule {self.schedule}", fine=fine)
        refuse_unless(self, "head_start", "0 or more", fine=self.head_start >= 0)

    @property
    def kind(self) -> ScheduleKind:
        """What is true of all schedules of this name."""
        return SCHEDULES[self.schedule]

    @property
    def numbers(self) -> tuple[int, int]:
        """Tokens written before a pass and beside it."""
        return self.kind.numbers(self.gamma, self.head_start)


ALONE: Final = Scheme("ar")


@dataclasses.dataclass(frozen=True, slots=True)
class Halves:
    """A scheme's rounds: their means, and how far pass and window fall apart by chance.

    Args:
        times: means.
        first, later: seconds by which a pass is later than its mean and its window sooner, each as
            likely as the others; None where times are certain.
    """

    times: RoundTimes
    first: Array | None = None
    later: Array | None = None

    @property
    def waited(self) -> RoundTimes:
        """The same with the passes as long as their rounds: the mean of the longer of two times."""
        times = self.times
        return dataclasses.replace(
            times,
            first=times.beside + leads.late(times.first - times.beside, self.first),
            later=times.beside + leads.late(times.later - times.beside, self.later),
        )


@final
class PairTimes:
    """Seconds of the parts of a round, for one request at one context.

    Raises:
        SettingError: the time of a message is left to chance.
    """

    def __init__(self, pair: Pair, network: Network | None = None, context: int = 1) -> None:
        network = network or Network()
        links = (network.draft, network.target)
        if any(link.jitter_s or link.bandwidth for link in links):
            raise SettingError("links with jitter or bandwidth are not for the twin; take simulate")
        self._pair, self._network, self._context = pair, network, context
        self._scattered = [scatter(pair.draft) - 1, scatter(pair.target) - 1]
        self._certain = not any(factors.any() for factors in self._scattered)
        self.speed_ratio = pair.speed_ratio
        self.step = pair.draft.seconds(1, 1, context)
        self.catching_up = pair.draft.seconds(2, 1, context) - self.step
        self.to_draft, self.to_target = (network.control_s + 2 * link.latency_s for link in links)
        ways = network.target.at_once
        told = self.to_target + ways.after_verdict + ways.alone
        won = told - network.onward_s if network.foresight else 0.0
        self.most_lead = max(0.0, won)  # beginning by itself takes no longer than a command

    @property
    def alone(self) -> float:
        """A token of the target alone.

        With foresight it knows with each command what follows it; so two passes take no longer
        than one that waits for its command, unless they themselves do.
        """
        ways, work = self._network.target.in_turns, self.work(1)
        judge = self.judge(1) + ways.after_verdict + ways.alone
        if not self._network.foresight:
            return judge
        return max(work + self._network.onward_s, judge / 2)

    def work(self, tokens: int, beside: int = 0) -> float:
        """A pass of the target over so many tokens, and so many written beside it."""
        target = self._pair.target
        seconds = target.seconds(tokens, 1, self._context)
        return seconds * target.slower(tokens, beside) if isinstance(target, Measured) else seconds

    def judge(self, tokens: int, beside: int = 0) -> float:
        """The same, there and back, by ways that take no longer for anything."""
        return self.work(tokens, beside) + self.to_target

    def write(self, tokens: int) -> float:
        """A window of the draft, without a rest before it, there and back in the same way."""
        return tokens * self.step + self.to_draft if tokens else 0.0

    def rounds(self, before: int, beside: int) -> Halves:
        """What rounds are made of that write so many tokens before a pass and beside it."""
        if beside:
            return self._at_once(before, beside)
        if not before:
            return Halves(RoundTimes(first=self.alone))
        draft, target = self._network.draft.in_turns, self._network.target.in_turns
        judge = self.judge(before + 1) + target.after_window + target.alone
        ways = draft.after_verdict + draft.alone
        rest = judge + self.to_draft + ways
        return Halves(RoundTimes(before=self.write(before) + ways + self._woken(rest), first=judge))

    def _at_once(self, before: int, beside: int) -> Halves:
        """Of windows beside passes; which of the two is later says by which ways messages go."""
        draft, target = self._network.draft.at_once, self._network.target.at_once
        write, judge = self.write(beside), self.judge(beside, beside)
        late = write + draft.alone > judge + target.alone
        out, its_out = (
            (draft.after_window, target.after_window)
            if late
            else (draft.after_verdict, target.after_verdict)
        )
        to_draft = out + (draft.alone if late else draft.beside)
        to_target = its_out + (target.beside if late else target.alone)
        rest = max(0.0, judge + to_target - write - to_draft) + self.to_draft + to_draft
        ahead = draft.after_verdict + draft.alone + self._woken(rest) if before else 0.0
        times = RoundTimes(
            before=self.write(before) + ahead,
            beside=write + to_draft + self._woken(rest, beside=True),
            first=self.judge(before + 1, beside) + to_target,
            later=judge + to_target,
        )
        if self._certain:
            return Halves(times)
        return Halves(times, self._apart(before + 1, beside), self._apart(beside, beside))

    def _woken(self, rest: float, *, beside: bool = False) -> float:
        draft = self._pair.draft
        return draft.woken(rest, beside=beside) if isinstance(draft, Measured) else 0.0

    def _apart(self, tokens: int, beside: int) -> Array:
        """By how much a pass is later than its mean and its window sooner, in `APART` values."""
        draft, target = self._scattered
        written = math.sqrt(beside) * self.step * draft  # steps scatter each for itself
        found = np.sort(np.subtract.outer(self.work(tokens, beside) * target, written).ravel())
        return np.array([part.mean() for part in np.array_split(found, min(APART, len(found)))])


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class WeightedRuns:
    """Runs of agreement: how long, how much each counts, and which belong together.

    Two of them are the same only where they are one object, so that one can be looked up.

    Args:
        runs: lengths L.
        weights: of each run.
        starts: where the independent groups of runs begin; None where every run is one.
        exact: whether this is the law itself, so that there is no chance in what follows.
    """

    runs: Runs
    weights: Array
    starts: Runs | None = None
    exact: bool = False


def sampled(
    acceptance: Acceptance, scheme: Scheme, *, seed: int = 0, runs: int = RUNS
) -> WeightedRuns:
    """So many runs, drawn with this seed, or for 0 their law itself; both are remembered.

    But for rates by position they are the same for all schemes.
    """
    key = scheme if isinstance(acceptance, Positions) else ALONE
    return _drawn(acceptance, key, seed, runs) if runs else exact(acceptance, key)


@functools.lru_cache(maxsize=16)
def _drawn(acceptance: Acceptance, scheme: Scheme, seed: int, runs: int) -> WeightedRuns:
    return drawn(acceptance, scheme, stream(seed, 0, StreamPurpose.ACCEPTANCE), runs)


def drawn(
    acceptance: Acceptance, scheme: Scheme, rng: np.random.Generator, count: int
) -> WeightedRuns:
    """So many runs, drawn; the same stream gives every scheme and rate the same agreement."""
    match acceptance:
        case Independent() | Bursts():
            return WeightedRuns(acceptance.runs(rng, count), np.ones(count))
        case Positions():
            law = _survival(acceptance, scheme)
            runs = np.searchsorted(-law, -rng.random(count), side="right") - 1
            return WeightedRuns(runs, np.ones(count))
        case Mixture():
            each = -(-count // len(acceptance.rates))
            parts = [drawn(Independent(a), scheme, rng, each) for a in acceptance.rates]
            return _mixed(parts, acceptance.shares)
        case Replay():
            return _replayed(acceptance)


@functools.lru_cache(maxsize=64)
def exact(acceptance: Acceptance, scheme: Scheme) -> WeightedRuns:
    """The law of the runs itself: what is computed from it is an expectation."""
    match acceptance:
        case Independent() | Bursts() | Positions():
            law = _survival(acceptance, scheme)
            chances = -np.diff(law, append=0.0)
            (runs,) = np.nonzero(chances > NEGLIGIBLE)
            return WeightedRuns(runs, chances[runs], exact=True)
        case Mixture():
            parts = [exact(Independent(a), scheme) for a in acceptance.rates]
            return _mixed(parts, acceptance.shares)
        case Replay():
            return _replayed(acceptance)


def _survival(acceptance: Independent | Bursts | Positions, scheme: Scheme) -> Array:
    """The chance that a run has at least n agreed tokens, for n from 0 to where it is no more."""
    reach = 1024
    while True:
        law = np.cumprod(np.append(1.0, _chances(acceptance, scheme, reach)))
        if law[-1] < UNLIKELY or reach >= LONGEST:
            return law[: np.count_nonzero(law)]
        reach = min(4 * reach, LONGEST)


def _chances(acceptance: Independent | Bursts | Positions, scheme: Scheme, count: int) -> Array:
    """The chance to agree at each position of a run, given that all before it did."""
    match acceptance:
        case Independent(rate=rate):
            return np.full(count, rate)
        case Bursts():
            return np.append(acceptance.after_miss, np.full(count - 1, acceptance.after_agreement))
        case Positions(rates=rates):
            (before, beside), place = scheme.numbers, np.arange(count)
            ahead = place - before
            if beside:
                place = np.where(ahead < 0, place, ahead % beside)
            chances = np.array(rates)[np.minimum(place, len(rates) - 1)]
            # A run of speculative decoding is one window here: its bonus token stands outside.
            return chances if beside else np.where(ahead < 0, chances, 0.0)


def _mixed(parts: Sequence[WeightedRuns], shares: Sequence[float]) -> WeightedRuns:
    """Prompts of several kinds, each with its share of the *tokens*."""
    weights = [
        part.weights * (share / float(part.weights @ (part.runs + 1)))
        for part, share in zip(parts, shares, strict=True)
    ]
    runs = np.concatenate([part.runs for part in parts])
    return WeightedRuns(runs, np.concatenate(weights), exact=all(part.exact for part in parts))


def _replayed(acceptance: Replay) -> WeightedRuns:
    """Recorded texts: runs of one text belong together."""
    texts = acceptance.runs()
    starts = np.cumsum([0, *(len(text) for text in texts[:-1])])
    runs = np.concatenate(texts)
    return WeightedRuns(runs, np.ones(len(runs)), starts)


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What a scheme makes of each run; numbers, or arrays of the shape of the runs.

    Args:
        rounds: counts.
        seconds: the time of the run; `writing` and `working` are the draft's and the target's
            part of it.
    """

    rounds: Rounds
    seconds: Array
    writing: Array
    working: Array


def decode(runs: Runs, scheme: Scheme, times: PairTimes, weights: Array | None = None) -> Decoded:
    """Every run, decoded by a scheme; by default each counts once."""
    before, beside = scheme.numbers
    made = rounds.of_run(runs, before, beside)
    each = np.ones(len(runs)) if weights is None else weights
    further = made.later * times.work(beside, beside) if beside else 0.0
    return Decoded(
        rounds=made,
        seconds=_seconds(made, scheme, times, each),
        writing=made.steps * times.step + _catching_up(made, scheme, times),
        working=made.first * times.work(before + 1, beside) + further,
    )


def _seconds(made: Rounds, scheme: Scheme, times: PairTimes, weights: Array) -> Array:
    before, beside = scheme.numbers
    own = times.rounds(before, beside)
    if not beside:
        return np.asarray(made.seconds(own.times) + _catching_up(made, scheme, times))
    if not times.most_lead:
        return np.asarray(made.seconds(own.waited))
    # A pass that has to wait for a head start begins when its command arrives.
    walk = leads.Walk(own.times, times.most_lead, own.first, own.later)
    paces = leads.told(walk) if before else leads.carried(walk, made.later, weights)
    return np.asarray(own.times.before + paces.seconds(made.later))


def _catching_up(made: Rounds, scheme: Scheme, times: PairTimes) -> Array | float:
    """Behind a window that was kept, the draft has two tokens to read: its last and the bonus."""
    before, beside = scheme.numbers
    return (made.first - made.rejections) * times.catching_up if before and not beside else 0.0


def seconds_per_token(luck: WeightedRuns, scheme: Scheme, times: PairTimes) -> float:
    """The mean time of a token: what the choice of a scheme is about."""
    if scheme.kind.parallel and times.most_lead:  # the lead of a run depends on the one before it
        made = rounds.of_run(luck.runs, *scheme.numbers)
        seconds = _seconds(made, scheme, times, luck.weights)
        return float(luck.weights @ seconds) / float(luck.weights @ made.tokens)
    means = _means(luck, scheme)
    return float(_seconds(means, scheme, times, luck.weights) / means.tokens)


@functools.lru_cache(maxsize=128)
def _means(luck: WeightedRuns, scheme: Scheme) -> Rounds:
    """Sums over all runs of what times multiply: a search asks for them with many times."""
    made = rounds.of_run(luck.runs, *scheme.numbers)
    first, later, rejections, tokens = (
        float((luck.weights * values).sum())
        for values in (made.first, made.later, made.rejections, made.tokens)
    )
    return Rounds(tokens=tokens, first=first, later=later, rejections=rejections)


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """The twin's answer; names and meanings are those of `pearl.simulator.answers.Answer`."""

    schedule: str
    alpha: float
    speed_ratio: float
    gamma: int
    head_start: int
    tokens_per_s: Estimate
    speedup_over_ar: Estimate
    tokens_per_target_pass: Estimate
    acceptance_rate: Estimate
    draft_idle: Estimate
    target_idle: Estimate
    wasted: Estimate
    accepted: Estimate
    emitted: Estimate


def answer(
    acceptance: Acceptance,
    scheme: Scheme,
    times: PairTimes,
    *,
    seed: int = 0,
    runs: int = RUNS,
) -> Point:
    """The figures of one scheme, from so many runs drawn with this seed, or for 0 their law."""
    luck = sampled(acceptance, scheme, seed=seed, runs=runs)
    return figures(luck, scheme, times, alpha=acceptance.mean)


def figures(luck: WeightedRuns, scheme: Scheme, times: PairTimes, *, alpha: float) -> Point:
    """The figures of one scheme on given runs; without intervals where those are exact."""
    found = decode(luck.runs, scheme, times, luck.weights)
    total = functools.partial(_by_group, luck)
    tokens, seconds = total(found.rounds.tokens), total(found.seconds)

    def idle(busy: Array) -> Estimate:
        return _known(luck, of_part(np.maximum(seconds - total(busy), 0.0), seconds))

    return Point(
        schedule=scheme.schedule,
        alpha=alpha,
        speed_ratio=times.speed_ratio,
        gamma=scheme.gamma,
        head_start=scheme.head_start,
        tokens_per_s=_known(luck, of_ratio(tokens, seconds)),
        speedup_over_ar=_known(luck, of_ratio(tokens * times.alone, seconds)),
        draft_idle=idle(found.writing),
        target_idle=idle(found.working),
        **_counted(luck, scheme),
    )


@functools.lru_cache(maxsize=16)
def _counted(luck: WeightedRuns, scheme: Scheme) -> dict[str, Estimate]:
    """The figures that times do not change: in a sweep they are the same for many points."""
    made, total = rounds.of_run(luck.runs, *scheme.numbers), functools.partial(_by_group, luck)
    tokens, rejections = total(made.tokens), total(made.rejections)
    kept, steps = total(made.kept), total(made.steps)
    found = {
        "tokens_per_target_pass": of_ratio(tokens, total(made.passes)),
        "acceptance_rate": of_part(kept, kept + rejections),
        "wasted": of_part(steps - kept, steps) if scheme.kind.drafts else Estimate(0.0),
        "accepted": of_ratio(kept, rejections),
        "emitted": of_ratio(tokens, rejections),
    }
    return {name: _known(luck, estimate) for name, estimate in found.items()}


def _known(luck: WeightedRuns, found: Estimate) -> Estimate:
    """Without an interval where the runs are the law itself."""
    return Estimate(found.value) if luck.exact else found


def _by_group(luck: WeightedRuns, values: Array | float) -> Array:
    """Weighted sums over what belongs together."""
    weighted = luck.weights * values
    return weighted if luck.starts is None else np.add.reduceat(weighted, luck.starts)
