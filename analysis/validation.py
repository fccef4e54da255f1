"""Theory, simulation and measurement of the same requests, and what lies between them.

For every system there are three answers to "how fast?":

    theory        the closed forms with three numbers of the run: acceptance, a draft step, a pass
    simulation    the same schedule on a virtual clock, with everything that was measured
    measurement   the run

and the way from the first to the last in parts, each named and measured (`Part`). What no part
explains is the last one. Then every statement of theory is held against the run (`Claim`): some
are equalities that need independent acceptance, and the run says whether that holds; some are
bounds, and a run beyond one, by more than its interval, is unlike all that theory speaks of.

This module compares and judges. The simulations are given to it: it must not know the simulator.

Notation: a acceptance rate, g gamma, c speed ratio, k head start.
"""

from __future__ import annotations

import enum
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from analysis import theory, traces
from analysis.statistics import (
    Acceptance,
    Independence,
    RunLength,
    acceptance,
    independence,
    run_length,
)
from analysis.traces import Request
from decoding.errors import SettingError
from decoding.estimates import Estimate, of_ratio, of_share
from decoding.messages import Propose
from decoding.settings import ScheduleName, Settings
from decoding.summaries import Figures
from decoding.trace import Sent
from decoding.verification import VerifierName

SLACK: Final = 1e-9  # of a bound, for sums of floating point numbers


class Part(enum.StrEnum):
    """What makes a run differ from theory, in the order in which it is let in."""

    ENDS = "texts end"
    PROMPTS = "prompts differ"
    BURSTS = "luck comes in bursts"
    BARRIER = "no barrier"
    GROWTH = "passes grow"
    READING = "prompts are read"
    MESSAGES = "control and messages"
    SPREAD = "times vary"
    DELAYS = "messages vary"
    REST = "not explained"


PARTS_OF: Final[Mapping[str, tuple[Part, ...]]] = {
    "end_effects": (Part.ENDS, Part.READING),
    "acceptance": (Part.PROMPTS, Part.BURSTS),
    "pass_times": (Part.BARRIER, Part.GROWTH, Part.SPREAD),
    "control": (Part.MESSAGES, Part.DELAYS),
    "unexplained": (Part.REST,),
}
"""The same, as few as they are usually asked for."""


class Constants(msgspec.Struct, frozen=True, kw_only=True):
    """The two times that closed forms know, in seconds: a draft step, and the smallest pass."""

    step_s: float
    pass_s: float

    @property
    def speed_ratio(self) -> float:
        """A pass over a step: c."""
        return self.pass_s / self.step_s


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of one system, and what the simulator makes of them.

    Args:
        name: of the system.
        requests: one or more, decoded one after the other.
        seconds: of all requests, by step of the simulation: `constant`, `free`, `grown`,
            `reading`, `messages`, `own`, `delayed`, `measured`; None where a step was not taken.
        simulated: the figures of the step `messages`.
    """

    name: str
    requests: tuple[Request, ...]
    seconds: Mapping[str, float | None]
    simulated: Figures | None

    @property
    def settings(self) -> Settings:
        """Of all requests."""
        return self.requests[0].settings


class Theory(msgspec.Struct, frozen=True, kw_only=True):
    """What the closed forms say, at the acceptance and the two times that were measured.

    Args:
        run_length: accepted, emitted, and emitted given that pre-verify accepted.
    """

    tokens_per_s: float
    speedup_over_ar: float
    tokens_per_target_pass: float
    draft_idle: float
    target_idle: float
    wasted: float
    run_length: tuple[float, float, float] | None


class Relation(enum.StrEnum):
    """How what is stated relates to what was measured."""

    EQUAL = "equal to"
    AT_LEAST = "at least"
    AT_MOST = "at most"


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A statement about a run.

    Args:
        name: whose statement it is, or about what.
        convention: what exactly is counted.
        stated, relation: the measured value is to be equal to, at least, or at most this.
        measured: with its interval, which decides.
        needs: what must hold for it; empty where nothing must.
        why: where it does not hold, why.
    """

    name: str
    convention: str
    relation: Relation
    stated: float
    measured: Estimate
    needs: str = ""
    why: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the interval allows it; None where there is nothing to hold it against."""
        value = self.measured.value
        if value is None or math.isnan(self.stated):
            return None
        low, high = self.measured.interval or (value, value)
        slack = SLACK * max(1.0, abs(self.stated)) if math.isfinite(self.stated) else 0.0
        fits = {
            Relation.AT_LEAST: high >= self.stated - slack,
            Relation.AT_MOST: low <= self.stated + slack,
        }
        return fits.get(self.relation, low - slack <= self.stated <= high + slack)

    @property
    def is_bound(self) -> bool:
        """Whether it must hold, whatever acceptance is like."""
        return not self.needs


class System(msgspec.Struct, frozen=True, kw_only=True):
    """One system, three ways.

    Args:
        gamma: of the closed forms: for `auto` the median of the windows that were asked for.
        tokens: of all requests.
        speedup_over_ar: measured on the same prompts, where AR was run on them.
        simulated_over_ar: the same in the simulation.
        gap: parts of the logarithm of measured over theoretical speed; they sum to it. A part
            that could not be told from the next one is counted there. Empty where requests ran
            at the same time.
    """

    name: str
    settings: Settings
    gamma: int
    requests: int
    tokens: int
    simulated_clock: bool
    theory: Theory
    simulation: Figures | None
    measured: Figures
    speedup_over_ar: Estimate
    simulated_over_ar: float | None
    acceptance: Acceptance
    run_length: RunLength
    independence: Independence
    gap: dict[Part, float]
    claims: tuple[Claim, ...]


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was compared."""

    constants: Constants
    systems: tuple[System, ...]
    best_window: BestWindow | None = None
    notes: tuple[str, ...] = ()

    @property
    def violated(self) -> tuple[tuple[str, Claim], ...]:
        """The bounds that a run is beyond, with the system's name."""
        return tuple(
            (system.name, claim)
            for system in self.systems
            for claim in system.claims
            if claim.is_bound and claim.holds is False
        )

    @property
    def unexplained(self) -> float | None:
        """The largest share of the speed of any system that no part explains; None without one."""
        return max((abs(s.gap.get(Part.REST, 0.0)) for s in self.systems if s.gap), default=None)


class BestWindow(msgspec.Struct, frozen=True, kw_only=True):
    """Theorem 1 of the paper, the best window is c, for this run.

    Args:
        speed_ratio: c.
        theory: the best window of the closed form with nothing else measured.
        simulated: speed over AR by window, with everything that was measured.
    """

    speed_ratio: float
    theory: int
    simulated: dict[int, float]

    @property
    def best(self) -> int:
        """The window that is the fastest in the simulation."""
        return max(self.simulated, key=lambda gamma: (self.simulated[gamma], -gamma))

    @property
    def stated(self) -> tuple[int, ...]:
        """The windows that the theorem allows: c, or the whole numbers around it."""
        c = self.speed_ratio
        whole = {round(c)} if math.isclose(c, round(c), rel_tol=1e-6) else {int(c), int(c) + 1}
        return tuple(sorted(max(1, gamma) for gamma in whole))

    @property
    def lost(self) -> float:
        """The share of the best speed that the better of the stated windows loses."""
        known = [self.simulated[gamma] for gamma in self.stated if gamma in self.simulated]
        return 1 - max(known) / self.simulated[self.best] if known else math.nan

    @property
    def holds(self) -> bool:
        """Whether a stated window is the best."""
        return self.best in self.stated

    @property
    def sentence(self) -> str:
        """The verdict, for people."""
        stated = " or ".join(map(str, self.stated))
        c = f"{self.speed_ratio:.3g}"
        if self.holds:
            verdict = "holds for this run"
        else:
            verdict = (
                "does not hold for this run: the simulation with all that was measured is the "
                f"fastest at gamma {self.best}, and {self.lost:.1%} slower at {stated}"
            )
        return (
            f"Theorem 1, the best window is c = {c}, so {stated} (the closed form at this "
            f"acceptance has {self.theory}): {verdict}. It needs passes that take the same time "
            "whatever they judge, and messages that take none."
        )


def validate(
    groups: Sequence[Group],
    constants: Constants,
    *,
    best_window: BestWindow | None = None,
    notes: Sequence[str] = (),
) -> Validation:
    """Compare and judge.

    Args:
        groups: the systems, each at most once.
        constants: of the pair, for the closed forms of all of them.
        best_window, notes: to be reported with it.
    """
    alone = next((g for g in groups if g.settings.schedule is ScheduleName.AR), None)
    return Validation(
        constants=constants,
        systems=tuple(_system(group, alone, constants) for group in groups),
        best_window=best_window,
        notes=tuple(notes),
    )


def _system(group: Group, alone: Group | None, constants: Constants) -> System:
    requests, settings = group.requests, group.settings
    lucks = [request.luck for request in requests] if settings.widest else []
    rate, gamma = acceptance(lucks), window(group)
    said = _theory(settings, gamma, rate.independent.value, constants)
    figures = traces.figures(requests)
    found = System(
        name=group.name,
        settings=settings,
        gamma=gamma,
        requests=len(requests),
        tokens=sum(len(request.tokens) for request in requests),
        simulated_clock=all(request.simulated for request in requests),
        theory=said,
        simulation=group.simulated,
        measured=figures,
        speedup_over_ar=_speedup(group, alone),
        simulated_over_ar=_simulated_speedup(group, alone),
        acceptance=rate,
        run_length=run_length(lucks),
        independence=independence(lucks),
        gap={} if traces.overlap(requests) else _gap(group, gamma, constants, said),
        claims=(),
    )
    claims = tuple(_claims(found, group, alone))
    return msgspec.structs.replace(found, claims=claims)


def window(group: Group) -> int:
    """Gamma as a number; of automatic windows the median."""
    settings = group.settings
    if settings.widest == 0:
        return 0
    if settings.gamma != "auto":
        return settings.gamma
    counts = [
        record.command.count
        for request in group.requests
        for record in request.records
        if isinstance(record, Sent) and isinstance(record.command, Propose)
    ]
    if not counts:
        raise SettingError(f"{group.name} asked the draft for nothing; record longer runs")
    return int(statistics.median_low(counts))


# -- theory ------------------------------------------------------------------------------------


def _theory(settings: Settings, g: int, rate: float | None, constants: Constants) -> Theory:
    """The closed forms; where nothing was compared, they say nothing."""
    c, k = constants.speed_ratio, settings.head_start
    a = math.nan if rate is None else rate
    if settings.schedule is ScheduleName.AR:
        speed, per_pass, wasted, draft, target, length = 1.0, 1.0, math.nan, 1.0, 0.0, None
    elif math.isnan(a):
        speed, per_pass, wasted, draft, target, length = (math.nan,) * 5 + (None,)
    elif settings.schedule is ScheduleName.SD:
        speed = theory.speculative_speedup(a, g, c)
        per_pass, wasted = theory.speculative_tokens_per_pass(a, g), theory.speculative_wasted(a, g)
        idle, runs = theory.speculative_idle(g, c), theory.speculative_run_length(a, g)
        draft, target, length = idle.draft, idle.target, runs
    else:
        speed = theory.pearl_speedup(a, g, c, k)
        per_pass, wasted = theory.pearl_tokens_per_pass(a, g, k), theory.pearl_wasted(a, g, k)
        idle, runs = theory.pearl_idle(a, g, c, k), theory.pearl_run_length(a, g, k)
        draft, target, length = idle.draft, idle.target, runs
    return Theory(
        tokens_per_s=float(speed) / constants.pass_s,
        speedup_over_ar=float(speed),
        tokens_per_target_pass=float(per_pass),
        draft_idle=float(draft),
        target_idle=float(target),
        wasted=float(wasted),
        run_length=None
        if length is None
        else (
            float(length.accepted),
            float(length.emitted),
            float(length.emitted_given_preverify),
        ),
    )


def _expected_s(settings: Settings, g: int, a: float, tokens: int, constants: Constants) -> float:
    """Mean seconds of a text of so many tokens, with rounds that take the two times."""
    step, judge, k = constants.step_s, constants.pass_s, settings.head_start
    rounds = _expected_passes(settings, g, a, tokens)
    match settings.schedule:
        case ScheduleName.AR:
            return rounds * judge
        case ScheduleName.SD:
            return rounds * (g * step + judge)
        case ScheduleName.PEARL:
            begun = 1 + (tokens - 1) * (1 - a)  # a head start for each run
            return rounds * max(g * step, judge) + begun * k * step


def _expected_passes(settings: Settings, g: int, a: float, tokens: int) -> float:
    """Mean passes of a text of so many tokens."""
    match settings.schedule:
        case ScheduleName.AR:
            return float(tokens)
        case ScheduleName.SD:
            return float(theory.speculative_passes(a, g, tokens))
        case ScheduleName.PEARL:
            return float(theory.pearl_passes(a, g, tokens, settings.head_start))


# -- the gap -----------------------------------------------------------------------------------


def _gap(group: Group, g: int, constants: Constants, said: Theory) -> dict[Part, float]:
    """From theory to the run; a step that was not taken goes into the next one that was."""
    settings, requests = group.settings, group.requests
    lengths = [len(request.tokens) for request in requests]
    rates = [acceptance([request.luck]).independent.value for request in requests]
    known = [rate for rate in rates if rate is not None]
    if settings.widest and not known:
        return {}
    pooled = acceptance([request.luck for request in requests]).independent.value or 0.0
    own = [pooled if rate is None else rate for rate in rates]
    seconds: dict[Part | None, float | None] = {
        None: sum(lengths) / said.tokens_per_s,
        Part.ENDS: sum(_expected_s(settings, g, pooled, n, constants) for n in lengths),
        Part.PROMPTS: sum(
            _expected_s(settings, g, a, n, constants) for a, n in zip(own, lengths, strict=True)
        ),
        Part.BURSTS: group.seconds["constant"],
        Part.BARRIER: group.seconds["free"],
        Part.GROWTH: group.seconds["grown"],
        Part.READING: group.seconds["reading"],
        Part.MESSAGES: group.seconds["messages"],
        Part.SPREAD: group.seconds["own"],
        Part.DELAYS: group.seconds["delayed"],
        Part.REST: group.seconds["measured"],
    }
    if all(seconds[part] is None for part in list(Part)[3:-1]):
        # Nothing was replayed either: what times and messages cost stands together.
        seconds[Part.SPREAD] = seconds.pop(Part.REST)
    taken = [(part, time) for part, time in seconds.items() if time is not None]
    return {
        part: math.log(before / after)
        for (_, before), (part, after) in itertools.pairwise(taken)
        if part is not None
    }


def parts(gap: Mapping[Part, float]) -> dict[str, float]:
    """The gap in the few parts of `PARTS_OF`."""
    return {name: sum(gap.get(part, 0.0) for part in own) for name, own in PARTS_OF.items()}


def _speedup(group: Group, alone: Group | None) -> Estimate:
    """Speed over AR on the same prompts: its time for as many tokens, over the system's."""
    if alone is None or len(alone.requests) != len(group.requests):
        return Estimate(None)
    pairs = list(zip(alone.requests, group.requests, strict=True))
    if any(one.prompt is None or one.prompt != other.prompt for one, other in pairs):
        return Estimate(None)
    above = [
        traces.metrics(one).seconds * len(other.tokens) / len(one.tokens) for one, other in pairs
    ]
    return of_ratio(above, [traces.metrics(request).seconds for request in group.requests])


def _simulated_speedup(group: Group, alone: Group | None) -> float | None:
    if alone is None or alone.simulated is None or group.simulated is None:
        return None
    return float(group.simulated.tokens_per_s) / float(alone.simulated.tokens_per_s)


# -- what theory states ------------------------------------------------------------------------


def _claims(system: System, group: Group, alone: Group | None) -> Sequence[Claim]:
    schedule = system.settings.schedule
    if schedule is ScheduleName.AR:
        return ()
    found = [_most_tokens(system), *_lossless(group, alone)]
    if system.acceptance.independent.value is not None:
        found += [_tokens_per_pass(system), _tokens_in_bursts(system, group)]
        if schedule is ScheduleName.PEARL:
            found += _theorem_2(system, group)
    if system.speedup_over_ar.interval is not None and not traces.overlap(group.requests):
        found += [_no_faster_passes(system)]
    return tuple(found)


INDEPENDENT: Final = "independent acceptance"


def _theorem_2(system: System, group: Group) -> list[Claim]:
    """The mean accepted tokens, in the conventions; all of them follow from one count."""
    a, length = float(system.acceptance.independent), system.run_length
    given = float(theory.run_tokens(a, given_preverify=True))
    first = float(length.first_kept)
    rarer = (
        f"behind a rejection {first:.1%} are kept, of all tokens {a:.1%}: acceptance comes in "
        "bursts, or prompts differ, and runs that begin go on for longer"
    )
    oftener = f"behind a rejection {first:.1%} are kept, of all tokens {a:.1%}"
    equal = Claim(
        name="theorem 2, 1/(1 - a) + 1",
        convention="tokens of a run, replacement included, given that pre-verify accepted",
        relation=Relation.EQUAL,
        stated=given,
        measured=length.emitted_given_preverify,
        needs=INDEPENDENT,
        why=rarer if first < a else oftener,
    )
    bound = msgspec.structs.replace(
        equal,
        name="theorem 2 as a bound",
        relation=Relation.AT_LEAST,
        measured=_given_preverify(system, group),
        needs="",
        why=f"{oftener}: rejections are followed by easier tokens than others",
    )
    whole = Claim(
        name="mean run, 1/(1 - a)",
        convention="tokens of a run, replacement included, all runs",
        relation=Relation.EQUAL,
        stated=float(theory.run_tokens(a)),
        measured=length.emitted,
        needs="that each token was compared",
        why="some tokens were committed that nobody compared",
    )
    return [equal, bound, whole]


def _given_preverify(system: System, group: Group) -> Estimate:
    """The mean run whose first token was kept, by 1 + (a / (1 - a)) / f.

    f is the share of those runs. Its interval is the widest of that over requests, of Wilson's,
    and widened by how little is known of a: few runs that are all alike are no evidence.
    """
    lucks = ["0" + request.luck for request in group.requests]
    hits, misses = (
        sum(a + b == pair for luck in lucks for a, b in itertools.pairwise(luck))
        for pair in ("01", "00")
    )
    rate, share = system.acceptance.independent, of_share(hits, misses)
    a = float(rate)
    if not hits or a == 1 or rate.high is None or share.low is None or share.high is None:
        return Estimate(None)
    over = system.run_length.first_kept.interval or (share.low, share.high)
    low = min(share.low, over[0]) - (rate.high - a)
    odds = a / (1 - a)
    return Estimate(
        1 + odds * (hits + misses) / hits,
        1 + odds / max(share.high, over[1]),
        1 + odds / low if low > 0 else math.inf,
    )


def _tokens_per_pass(system: System) -> Claim:
    per_pass, luck = system.measured.tokens_per_target_pass, system.independence
    return Claim(
        name="tokens per target pass",
        convention="all tokens over all passes",
        relation=Relation.EQUAL,
        stated=system.theory.tokens_per_target_pass,
        measured=per_pass,
        needs=f"{INDEPENDENT}, texts without end",
        why=f"correlation of neighbours {luck.correlation:+.2f}, "
        f"{luck.correlation_within:+.2f} within requests; the gap has the parts",
    )


def _tokens_in_bursts(system: System, group: Group) -> Claim:
    """The same with what theory knows beyond independence, at what was measured of it."""
    settings, g = system.settings, system.gamma
    r = min(max(system.independence.correlation_within, 0.0), 1 - SLACK)
    pooled = float(system.acceptance.independent)
    tokens = passes = 0.0
    for request in group.requests:
        rate = acceptance([request.luck]).independent.value
        a, n = pooled if rate is None else rate, len(request.tokens)
        tokens += n
        # Passes of a text that ends, times what bursts change in one without end.
        passes += _expected_passes(settings, g, a, n) * (
            _per_pass(settings, g, a, 0.0) / _per_pass(settings, g, a, r)
        )
    return Claim(
        name="tokens per target pass, bursts included",
        convention="with each request's own rate and length, and one correlation for all",
        relation=Relation.EQUAL,
        stated=tokens / passes,
        measured=system.measured.tokens_per_target_pass,
        needs="luck that is a chain of two states",
        why="luck has a longer memory than one token",
    )


def _per_pass(settings: Settings, g: int, a: float, r: float) -> float:
    """Tokens of a pass where luck is a chain of correlation r, in texts without end."""
    if settings.schedule is ScheduleName.SD:
        return float(theory.speculative_tokens_in_bursts(a, r, g))
    return float(theory.pearl_tokens_in_bursts(a, r, g, settings.head_start))


def _most_tokens(system: System) -> Claim:
    settings = system.settings
    parallel = settings.schedule is ScheduleName.PEARL
    widest = settings.widest
    if settings.gamma != "auto":
        widest = max(system.gamma, settings.head_start + 1) if parallel else system.gamma + 1
    return Claim(
        name="no pass settles more than it judges",
        convention="tokens per target pass",
        relation=Relation.AT_MOST,
        stated=float(widest + (settings.gamma == "auto")),
        measured=Estimate(system.measured.tokens_per_target_pass.value),
        why="tokens were committed that no pass has judged",
    )


def _no_faster_passes(system: System) -> Claim:
    return Claim(
        name="speed over AR is at most tokens per pass",
        convention="a pass over several tokens is no faster than one over one",
        relation=Relation.AT_MOST,
        stated=float(system.measured.tokens_per_target_pass),
        measured=system.speedup_over_ar,
        why="passes of this system are faster than those of AR",
    )


def _lossless(group: Group, alone: Group | None) -> list[Claim]:
    """Greedy and coupled texts are those of AR with the same seed."""
    if alone is None:
        return []
    pairs = [
        (one, other)
        for one, other in zip(alone.requests, group.requests, strict=False)
        if one.prompt is not None
        and one.prompt == other.prompt
        and _same_question(other.settings, one.settings)
    ]
    if not pairs:
        return []
    same = sum(one.tokens == other.tokens for one, other in pairs)
    return [
        Claim(
            name="lossless",
            convention="requests whose tokens are those of AR",
            relation=Relation.AT_LEAST,
            stated=float(len(pairs)),
            measured=Estimate(float(same)),
            # Traces from files may be of other prompts of the same length.
            needs="traces of the same prompts" if any(one.run for one, _ in pairs) else "",
            why="other tokens; in lower precision than float32 rounding can do that",
        )
    ]


def _same_question(one: Settings, other: Settings) -> bool:
    """Whether both must give the same tokens."""
    if one.effective_verifier is VerifierName.REJECTION:
        return False
    asked = [(s.sampling, s.seed, s.max_new_tokens, s.stop) for s in (one, other)]
    return asked[0] == asked[1]
