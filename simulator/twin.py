"""The vectorised twin: single-request questions in numpy, the same answers millions at a time.

The text of a request is a sequence of *runs*: L positions where the draft agrees with the target,
then one where it does not. What a schedule makes of a run depends on L alone, because after each
disagreement every schedule begins anew with nothing pending. So passes, draft steps and seconds
of a run are arithmetic on L, and a whole sweep is arithmetic on arrays of it. (A window of
speculative decoding that is fully kept also skips a position, the bonus token. Whether that token
would have been agreed with does not matter: if it ends the run, the next one begins behind it.)

It holds where times are certain (constant or by tokens), rounds have a barrier, and luck belongs
to the text; for jitter, loads, faults and cancelled windows ask `simulate`. A target that goes on
before it is told takes one thing from run to run, its lead (`simulator.leads`); that is reckoned
with on average, as if any run could follow any other.

Notation: L agreed tokens in a run, g gamma, k head start.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, final

import msgspec
import numpy as np
from numpy.typing import NDArray

from decoding.errors import SettingError
from decoding.estimates import Estimate, of_part, of_ratio
from decoding.sampling import refuse_unless
from decoding.settings import ScheduleName
from simulator.acceptance import (
    LONGEST,
    Acceptance,
    Bursts,
    Independent,
    Mixture,
    Positions,
    Replay,
    Runs,
)
from simulator.costs import Spread
from simulator.leads import Halves, Paces, carried, told
from simulator.links import Network
from simulator.streams import Purpose, stream
from simulator.world import Pair

Array: TypeAlias = NDArray[Any]
Of: TypeAlias = Callable[[Array, Array], Estimate]
RUNS: Final = 4096  # drawn for one answer
UNLIKELY: Final = 1e-12  # runs beyond are counted as the longest one


class Scheme(msgspec.Struct, frozen=True):
    """A schedule's name with its two numbers."""

    schedule: ScheduleName
    gamma: int = 0
    head_start: int = 0

    def __post_init__(self) -> None:
        """Refuse windows of nothing."""
        fine = self.gamma >= 1 or self.schedule is ScheduleName.AR
        refuse_unless(self, "gamma", f"1 or more with schedule {self.schedule}", fine=fine)
        refuse_unless(self, "head_start", "0 or more", fine=self.head_start >= 0)

    @property
    def parallel(self) -> bool:
        """Whether windows are written beside the passes."""
        return self.schedule is ScheduleName.PEARL


@final
class Times:
    """Seconds of the parts of a round, for one request at one context.

    Raises:
        SettingError: a time is left to chance.
    """

    def __init__(self, pair: Pair, network: Network | None = None, context: int = 1) -> None:
        network = network or Network()
        links = (network.draft, network.target)
        if isinstance(pair.draft, Spread) or isinstance(pair.target, Spread):
            message = "times with a spread are not for the twin; take simulate"
            raise SettingError(message)
        if any(link.jitter_s or link.bandwidth for link in links):
            message = "links with jitter or bandwidth are not for the twin; take simulate"
            raise SettingError(message)
        self._target = pair.target
        self._context = context
        self.speed_ratio = pair.speed_ratio
        self.step = pair.draft.seconds(1, 1, context)
        self.catching_up = pair.draft.seconds(2, 1, context) - self.step
        self.to_draft, self.to_target = (network.control_s + 2 * link.latency_s for link in links)
        self._foresight, self._onward_s = network.foresight, network.onward_s
        won = self.to_target - self._onward_s if network.foresight else 0.0
        self._most_lead = max(0.0, won)  # going on takes no longer than being told

    @property
    def alone(self) -> float:
        """A token of the target alone.

        One that goes on before it is told knows with each command what follows it; so two passes
        take no longer than one that waits for its command, unless they themselves do.
        """
        if not self._foresight:
            return self.judge(1)
        return max(self.work(1) + self._onward_s, self.judge(1) / 2)

    def work(self, tokens: int) -> float:
        """A pass of the target over so many tokens."""
        return self._target.seconds(tokens, 1, self._context)

    def judge(self, tokens: int) -> float:
        """The same, there and back."""
        return self.work(tokens) + self.to_target

    def least(self, tokens: int) -> float:
        """A round of PEARL that judges so many, at least."""
        return self.judge(tokens) - self._most_lead

    def write(self, tokens: int) -> float:
        """A window of the draft, there and back."""
        return tokens * self.step + self.to_draft if tokens else 0.0

    def halves(self, gamma: int, head_start: int) -> Halves:
        """What the rounds of PEARL are made of."""
        return Halves(
            window=self.write(gamma),
            first=self.judge(head_start + 1),
            later=self.judge(gamma),
            most=self._most_lead,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Luck:
    """Runs of agreement: how long, how much each counts, and which belong together.

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


def drawn(acceptance: Acceptance, scheme: Scheme, rng: np.random.Generator, count: int) -> Luck:
    """So many runs, drawn; the same stream gives every scheme and rate the same luck."""
    match acceptance:
        case Independent() | Bursts():
            return Luck(acceptance.runs(rng, count), np.ones(count))
        case Positions():
            law = _survival(acceptance, scheme)
            runs = np.searchsorted(-law, -rng.random(count), side="right") - 1
            return Luck(runs, np.ones(count))
        case Mixture():
            each = -(-count // len(acceptance.rates))
            parts = [drawn(Independent(a), scheme, rng, each) for a in acceptance.rates]
            return _mixed(parts, acceptance.shares)
        case Replay():
            return _replayed(acceptance)


def exact(acceptance: Acceptance, scheme: Scheme) -> Luck:
    """The law of the runs itself: what is computed from it is an expectation."""
    match acceptance:
        case Independent() | Bursts() | Positions():
            law = _survival(acceptance, scheme)
            return Luck(np.arange(len(law)), -np.diff(law, append=0.0), exact=True)
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
            # A run of speculative decoding is one window here: its bonus token stands outside.
            place = np.arange(count)
            if scheme.parallel:
                ahead = place - scheme.head_start
                place = np.where(ahead < 0, place, ahead % scheme.gamma)
            chances = np.array(rates)[np.minimum(place, len(rates) - 1)]
            return chances if scheme.parallel else np.where(place < scheme.gamma, chances, 0.0)


def _mixed(parts: Sequence[Luck], shares: Sequence[float]) -> Luck:
    """Prompts of several kinds, each with its share of the *tokens*."""
    weights = [
        part.weights * (share / float(part.weights @ (part.runs + 1)))
        for part, share in zip(parts, shares, strict=True)
    ]
    runs = np.concatenate([part.runs for part in parts])
    return Luck(runs, np.concatenate(weights), exact=all(part.exact for part in parts))


def _replayed(acceptance: Replay) -> Luck:
    """Recorded texts: runs of one text belong together."""
    texts = acceptance.runs()
    starts = np.cumsum([0, *(len(text) for text in texts[:-1])])
    runs = np.concatenate(texts)
    return Luck(runs, np.ones(len(runs)), starts)


@dataclasses.dataclass(frozen=True, slots=True)
class Rounds:
    """What a scheme makes of each run; every field has the shape of the runs.

    Args:
        tokens: committed.
        passes: of the target.
        steps: tokens the draft wrote.
        kept, rejections: of the draft's tokens that were compared.
        seconds: the time of the run; `writing` and `working` are the draft's and the target's
            part of it.
    """

    tokens: Array
    passes: Array
    steps: Array
    kept: Array
    rejections: Array
    seconds: Array
    writing: Array
    working: Array


def decode(runs: Runs, scheme: Scheme, times: Times, weights: Array | None = None) -> Rounds:
    """Every run, decoded by a scheme; by default each counts once."""
    match scheme.schedule:
        case ScheduleName.AR:
            return _alone(runs, times)
        case ScheduleName.SD:
            return _in_turns(runs, scheme.gamma, times)
        case ScheduleName.PEARL:
            each = np.ones(len(runs)) if weights is None else weights
            return _at_once(runs, scheme.gamma, scheme.head_start, times, each)


def _alone(runs: Runs, times: Times) -> Rounds:
    """A pass a token."""
    tokens = runs + 1.0
    nothing = np.zeros(len(runs))
    return Rounds(
        tokens=tokens,
        passes=tokens,
        steps=nothing,
        kept=nothing,
        rejections=nothing,
        seconds=tokens * times.alone,
        writing=nothing,
        working=tokens * times.work(1),
    )


def _in_turns(runs: Runs, g: int, times: Times) -> Rounds:
    """A window of g, then a pass over it; a window that is kept yields a bonus token."""
    whole, rest = np.divmod(runs, g + 1)
    passes = whole + 1.0
    # With g tokens left the last window is kept too, and its bonus token ends the run.
    rejections = (rest < g).astype(float)
    # Behind a window that was kept, the draft has two tokens to read: its last and the bonus.
    catching_up = (passes - rejections) * times.catching_up
    return Rounds(
        tokens=runs + 1.0,
        passes=passes,
        steps=g * passes,
        kept=(runs - whole).astype(float),
        rejections=rejections,
        seconds=passes * (times.write(g) + times.judge(g + 1)) + catching_up,
        writing=passes * g * times.step + catching_up,
        working=passes * times.work(g + 1),
    )


def _at_once(runs: Runs, g: int, k: int, times: Times, weights: Array) -> Rounds:
    """Write k tokens ahead, then passes beside windows of g until the miss is found."""
    # The first pass settles k + 1 tokens, every later one g more.
    later = np.where(runs > k, (runs - (k + 1)) // g + 1, 0)
    halves = times.halves(g, k)
    # A pass that has to wait for a head start is begun when the target is told.
    paces: Paces = told(halves) if k else carried(halves, later, weights)
    steps = k + g * (later + 1.0)
    return Rounds(
        tokens=runs + 1.0,
        passes=later + 1.0,
        steps=steps,
        kept=runs.astype(float),
        rejections=np.ones(len(runs)),
        seconds=times.write(k) + paces.seconds(later),
        writing=steps * times.step,
        working=times.work(k + 1) + later * times.work(g),
    )


def seconds_per_token(luck: Luck, scheme: Scheme, times: Times) -> float:
    """The mean time of a token: what the choice of a scheme is about."""
    rounds = decode(luck.runs, scheme, times, luck.weights)
    return float(luck.weights @ rounds.seconds) / float(luck.weights @ rounds.tokens)


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """The twin's answer; names and meanings are those of `simulator.answers.Answer`."""

    schedule: ScheduleName
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
    times: Times,
    *,
    seed: int = 0,
    runs: int = RUNS,
) -> Point:
    """The figures of one scheme, from so many runs drawn with this seed."""
    luck = drawn(acceptance, scheme, stream(seed, 0, Purpose.ACCEPTANCE), runs)
    return figures(luck, scheme, times, alpha=acceptance.mean)


def figures(luck: Luck, scheme: Scheme, times: Times, *, alpha: float) -> Point:
    """The figures of one scheme under given luck; without intervals where that is exact."""
    rounds = decode(luck.runs, scheme, times, luck.weights)
    sums = {f.name: _by_group(luck, getattr(rounds, f.name)) for f in dataclasses.fields(rounds)}
    tokens, seconds, steps, kept = (sums[n] for n in ("tokens", "seconds", "steps", "kept"))

    def ratio(above: Array, below: Array, of: Of = of_ratio) -> Estimate:
        found = of(above, below)
        return Estimate(found.value) if luck.exact else found

    return Point(
        schedule=scheme.schedule,
        alpha=alpha,
        speed_ratio=times.speed_ratio,
        gamma=scheme.gamma,
        head_start=scheme.head_start,
        tokens_per_s=ratio(tokens, seconds),
        speedup_over_ar=ratio(tokens * times.alone, seconds),
        tokens_per_target_pass=ratio(tokens, sums["passes"]),
        acceptance_rate=ratio(kept, kept + sums["rejections"], of_part),
        draft_idle=ratio(np.maximum(seconds - sums["writing"], 0.0), seconds, of_part),
        target_idle=ratio(np.maximum(seconds - sums["working"], 0.0), seconds, of_part),
        wasted=ratio(steps - kept, steps, of_part) if scheme.gamma else Estimate(0.0),
        accepted=ratio(kept, sums["rejections"]),
        emitted=ratio(tokens, sums["rejections"]),
    )


def _by_group(luck: Luck, values: Array) -> Array:
    """Weighted sums over what belongs together."""
    weighted = luck.weights * values
    return weighted if luck.starts is None else np.add.reduceat(weighted, luck.starts)
