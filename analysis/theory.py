"""What theory says of a schedule: closed forms, to be held against what was measured.

    assumed = Assumptions("pearl", acceptance=0.8, gamma=5, speed_ratio=5)
    expected(assumed).speedup                     # 2.28 times as fast as the target alone
    best_gamma(assumed), best_head_start(assumed)

Each draft token is kept independently with the same chance, rounds have a barrier, and texts are
without end; `pearl.analysis.departures` says what changes where that is not so.
Numbers and arrays are taken alike and broadcast; the limits a = 0, a = 1 and g = 1 are exact.

All schedules have the same forms. The draft writes b tokens before a pass that would judge nothing
and w beside every pass; so the first pass of a run settles at most b + 1 tokens, and each later
one w, or b + 1 again where none are written beside:

    AR                       b = 0, w = 0
    speculative decoding     b = g, w = 0
    PEARL                    b = k, w = g

At g = 0 nothing is drafted: every schedule is AR there, whatever its head start. So the best gamma
of a schedule is 0 where no window is faster than the target alone.

A *run* is what lies between two rejections, the replacement that ends it included. Of an average
run at a = 1 there is no end: its length is infinite, shares and speeds are still finite.

Notation, in this file and its callers:

    a   acceptance rate of a draft token           g   gamma, the tokens of a window
    c   speed ratio, a target pass over a step     k   head start, tokens before the first pass
    l   overhead: control and communication of each round, in target passes, where every pass waits
        for its command; with foresight rounds pay l only as far as their windows are late, and
        that is not in a closed form (`pearl.simulator.leads` has the rule)
    T(n) = 1 + growth (n - 1)   a pass over n tokens, in passes over one
    link     what each window of the draft waits for its messages, the target's for none; in passes

Sources: Leviathan et al. 2023, arXiv:2211.17192 (their alpha, gamma and cost c are a, g and 1/c);
Liu et al. 2025, arXiv:2408.11850 (their alpha, gamma and c are a, g and c). What names neither is
derived here: PEARL is a chain of two phases (`chain`), and a run is a cycle of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final, TypeAlias, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pearl.decoding.errors import SettingError
from pearl.decoding.kinds import SCHEDULES, ScheduleKind
from pearl.decoding.rounds import Rounds, RoundTimes
from pearl.decoding.settings import WIDEST_GAMMA

Array: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = Any  # a float where every argument is a number, else an array

SAME: Final = 1e-12  # speeds nearer than this share are the same
MOST: Final = 1e12  # of a ratio or a cost: products of a few of them are numbers


@final
@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Assumptions:
    """Everything that the closed forms take for granted: a schedule, a pair, and what it costs.

    Each but the schedule is a number or an array; arrays are broadcast against each other.

    Args:
        schedule: its name.
        acceptance: a, the chance that a draft token is kept.
        gamma: g, tokens of a window; 0 is AR.
        speed_ratio: c, a target pass over a draft step.
        head_start: k, tokens written before the first pass of a run, where the schedule has that.
        overhead: l of each round, in target passes; the target alone pays none.
        growth: what each further token adds to a pass, in passes over one.
        link: what each window of the draft waits for its messages, in target passes.

    Raises:
        SettingError: a value is outside its range.
    """

    schedule: str
    acceptance: Numbers
    gamma: Numbers = 1
    speed_ratio: Numbers = 1
    _: dataclasses.KW_ONLY
    head_start: Numbers = 0
    overhead: Numbers = 0
    growth: Numbers = 0
    link: Numbers = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be, and take numbers for arrays: what follows is arithmetic."""
        if self.schedule not in SCHEDULES:
            known = ", ".join(SCHEDULES)
            raise SettingError(f"schedule is {self.schedule!r}; it must be one of {known}")
        arrays = {
            "acceptance": as_rate(self.acceptance, "acceptance"),
            "gamma": as_whole(self.gamma, "gamma", 0),
            "speed_ratio": as_array(
                self.speed_ratio,
                "speed_ratio",
                f"more than 0, from {1 / MOST:g} to {MOST:g}",
                lambda c: (c >= 1 / MOST) & (c <= MOST),
            ),
            "head_start": as_whole(self.head_start, "head_start", 0),
            "overhead": _as_cost(self.overhead, "overhead"),
            "growth": _as_cost(self.growth, "growth"),
            "link": _as_cost(self.link, "link"),
        }
        for name, value in arrays.items():
            object.__setattr__(self, name, value)

    @property
    def kind(self) -> ScheduleKind:
        """What is true of the schedule."""
        return SCHEDULES[self.schedule]

    @property
    def before(self) -> Array:
        """Tokens that are written before a pass that would judge nothing: b."""
        return self._numbers[0]

    @property
    def beside(self) -> Array:
        """Tokens that are written beside every pass: w."""
        return self._numbers[1]

    @property
    def _numbers(self) -> tuple[Array, Array]:
        """Both; without a window there is no head start either."""
        before, beside = self.kind.numbers(self.gamma, self.head_start)
        return np.where(self.gamma > 0, before, 0.0), np.asarray(beside, dtype=float)

    @property
    def drafts(self) -> NDArray[np.bool_]:
        """Whether anything is drafted."""
        return (self.before > 0) | (self.beside > 0)

    @property
    def first(self) -> Array:
        """The most tokens that the first pass of a run settles."""
        return self.before + 1

    @property
    def later(self) -> Array:
        """The most tokens that each later pass settles."""
        return np.where(self.beside > 0, self.beside, self.first)


def expected(assumed: Assumptions) -> Expected:
    """What these assumptions come to, in texts without end."""
    a, at_once = assumed.acceptance, assumed.beside > 0
    tokens = sum_of_powers(a, assumed.later)
    # Where windows are written beside the passes, means of a run, times the chance 1 - a^w that a
    # later pass ends it: nothing is infinite at a = 1. 1 - a^w = (1 - a) (1 + a + … + a^(w - 1)).
    # Elsewhere those of a pass, with its bonus token, which is compared with nothing.
    compared = sum_of_powers(a, np.maximum(assumed.before, 1)) * (assumed.before > 0)
    rejections = (1 - a) * np.where(at_once, tokens, compared)
    first = np.where(at_once, rejections, 1.0)
    later = np.where(at_once, a**assumed.first, 0.0)
    rounds = Rounds(
        tokens=tokens,
        first=first,
        later=later,
        steps=first * assumed.before + (first + later) * assumed.beside,
        kept=tokens - first,  # the others are replacements and bonus tokens
        rejections=rejections,
    )
    return Expected(assumed, rounds)


@final
@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """What theory expects of a schedule; a float where every assumption is a number, else arrays.

    Args:
        assumed: at what.
        rounds: means, of a pass or of a run or of a part of one: all figures are quotients.
    """

    assumed: Assumptions
    rounds: Rounds

    # -- tokens --------------------------------------------------------------------------------

    @property
    def tokens_per_pass(self) -> Numbers:
        """Tokens of a target pass.

        Speculative decoding: (1 - a^(g + 1)) / (1 - a), bonus included (Leviathan et al. 2023,
        equation 1). PEARL: tau = (1 - a^g) / ((1 - a) (1 - a^g + a^(k + 1))); that is 1 at g = 1,
        g at a = 1, and 1 / (1 - a^2) as g grows (k = 0).
        """
        return (self.rounds.tokens / self.rounds.passes)[()]

    @property
    def wasted(self) -> Numbers:
        """Share of draft tokens that are thrown away; nan where none are written.

        Speculative decoding: 1 - a (1 - a^g) / ((1 - a) g). PEARL: 1 - a tau / g without a head
        start. Every window is written to its end (the barrier); with cancelled windows it is less.
        """
        return (1 - _ratio(self.rounds.kept, self.rounds.steps, nothing=np.nan))[()]

    # -- runs, in the conventions that are about -------------------------------------------------

    @property
    def accepted_per_run(self) -> Numbers:
        """Draft tokens kept from one rejection to the next, a / (1 - a): the authors' code."""
        a = self.assumed.acceptance
        return _ratio(a, 1 - a)[()]

    @property
    def emitted_per_run(self) -> Numbers:
        """The same with the replacement, and with bonus tokens; of PEARL 1 / (1 - a).

        Nano-PEARL counts so. A run of speculative decoding goes over windows that were fully kept;
        counting their bonus tokens, but not the replacement, gives one less.
        """
        return _ratio(self.rounds.tokens, self.rounds.rejections)[()]

    @property
    def emitted_given_preverify(self) -> Numbers:
        """The same of those runs in which the first token was kept: 1 / (1 - a) + 1 for PEARL.

        The mean accepted tokens of the paper are these: of a run, neither of a round nor of a pass.

        Source: Liu et al. 2025, theorem 2.
        """
        a, g = self.assumed.acceptance, np.maximum(self.assumed.before, 1)
        if self.assumed.kind.parallel:
            return (1 + self.emitted_per_run)[()]
        # Behind a kept token: g - 1 more to judge and, where all are kept, a run anew.
        return (1 + sum_of_powers(a, g) + a ** (g - 1) * self.emitted_per_run)[()]

    # -- time ----------------------------------------------------------------------------------

    @property
    def speedup(self) -> Numbers:
        """Speed over the target alone.

        Speculative decoding: tokens of a pass / (g/c + link + T(g + 1) + l) (Leviathan et al.
        2023, theorem 3.8, with l added). PEARL: tau / (max(g/c, 1) + l) without head start, growth
        and link. With them the first pass of a run takes max(g/c + link, T(k + 1)), each later one
        max(g/c + link, T(g)), and the head start k/c + link, with no l of its own.
        """
        return (self.rounds.tokens / self._time)[()]

    @property
    def break_even_overhead(self) -> Numbers:
        """The l at which it is as fast as the target alone, in passes; negative where it never is.

        For PEARL without head start, growth and link that is tau - max(g/c, 1).
        """
        return ((self.rounds.tokens - self.rounds.seconds(self._times)) / self.rounds.passes)[()]

    @property
    def draft_idle(self) -> Numbers:
        """Share of the time in which the draft is idle.

        At l = k = 0, whatever a: c/(g + c) in speculative decoding, max(0, 1 - g/c) in PEARL.
        """
        busy = self.rounds.steps / self.assumed.speed_ratio
        return np.maximum(1 - busy / self._time, 0)[()]

    @property
    def target_idle(self) -> Numbers:
        """The same of the target: g/(g + c) in speculative decoding, max(0, 1 - c/g) in PEARL."""
        busy = self.rounds.first * self._times.first + self.rounds.later * self._times.later
        return np.maximum(1 - busy / self._time, 0)[()]

    @property
    def _time(self) -> Array:
        """All the time that the rounds take, in passes; without a draft none costs l."""
        overhead = self.assumed.overhead * self.assumed.drafts
        return np.asarray(self.rounds.seconds(self._times) + self.rounds.passes * overhead)

    @property
    def _times(self) -> RoundTimes:
        """In passes: windows with their messages, and T of what a pass judges."""
        assumed = self.assumed
        before, beside = (
            tokens / assumed.speed_ratio + np.where(tokens > 0, assumed.link, 0.0)
            for tokens in (assumed.before, assumed.beside)
        )
        first, later = (1 + assumed.growth * (n - 1) for n in (assumed.first, assumed.later))
        return RoundTimes(before=before, beside=beside, first=first, later=later)


# -- what is best ------------------------------------------------------------------------------


def best_gamma(assumed: Assumptions, *, widest: int = WIDEST_GAMMA) -> Numbers:
    """The window from 0 to `widest` with the highest speedup; of equals the least.

    It is 0, no draft, where no window is faster than the target alone.

    Theorem 1 of the paper, the best window of PEARL is c, is the case of whole c > 1, 0 < a < 1 and
    nothing else: below c a wider window costs nothing and yields more, above it tau/g falls. For
    other c it is the whole number below or above. What moves it: l, which a wider window shares
    out among more tokens, to above c; growth to above c as well, as far as g/c = T(g), for the
    draft has time while the longer pass runs, or to below, where a pass gets dearer by more than a
    window gets longer; a link to below c, for the draft has less time.

    Source: Liu et al. 2025, theorem 1.
    """
    return _first_best(assumed, "gamma", range(_top(widest, 1)))


def best_head_start(assumed: Assumptions, *, widest: int = WIDEST_GAMMA) -> Numbers:
    """The head start from 0 to `widest` with the highest speedup; of equals the least."""
    return _first_best(assumed, "head_start", range(_top(widest, 0)))


def head_start_criterion(assumed: Assumptions) -> Numbers:
    """Whether one token of head start more does not pay, at l = 0 and with nothing else.

    The least such k is the best: max(g, c) (1 - a) a^(k + 1) <= 1 - a^g. With g <= c that is
    c (1 - a) a^(k + 1) <= 1 - a^g. A token more costs 1/c and saves the round max(g/c, 1) with
    chance (1 - a) a^(k + 1) / (1 - a^g), less and less as k grows.
    """
    a, slower = assumed.acceptance, np.maximum(assumed.beside, assumed.speed_ratio)
    tokens = sum_of_powers(a, assumed.later)
    # At a = 1 a run has no end, so what is before it costs and saves nothing.
    return ((slower * a**assumed.first <= tokens * (1 + SAME)) | (a == 1))[()]


def _first_best(assumed: Assumptions, name: str, numbers: range) -> Numbers:
    """The first of these numbers whose speed is the highest; one for each point assumed."""
    fields = (field.name for field in dataclasses.fields(assumed))
    given = [getattr(assumed, field) for field in fields if field not in {"schedule", name}]
    points = np.broadcast_shapes(*(value.shape for value in given))
    tried: dict[str, Any] = {name: np.array(numbers).reshape(-1, *[1] * len(points))}
    speeds = expected(dataclasses.replace(assumed, **tried)).speedup
    return (speeds >= speeds.max(axis=0) * (1 - SAME)).argmax(axis=0)[()] + numbers.start


def _top(widest: int, least: int) -> int:
    return int(as_whole(widest, "widest", least)) + 1


# -- another road to the same ------------------------------------------------------------------


@final
@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """PEARL's phases as a Markov chain; everywhere pre-verify first, then post-verify.

    Args:
        transition: the chance of each phase (column) behind each (row), shape (2, 2).
        shares: of rounds in each phase in the long run, shape (2,).
        tokens: mean of a round in each phase, shape (2,).
    """

    transition: Array
    shares: Array
    tokens: Array

    @property
    def tokens_per_round(self) -> float:
        """The mean over both phases: tau."""
        return float(self.shares @ self.tokens)


def chain(a: float, g: int) -> Chain:
    """The exact chain of PEARL without a head start, its long run solved numerically; numbers.

    Pre-verify goes on to post-verify with chance a, post-verify falls back with 1 - a^g.
    """
    kept, window = float(as_rate(a, "a")), int(as_whole(g, "g", 1))
    full = kept**window
    transition = np.array([[1 - kept, kept], [1 - full, full]])
    # shares (transition - 1) = 0, of which one equation says nothing: sum(shares) = 1 replaces it.
    equations = np.vstack([(transition.T - np.eye(2))[0], np.ones(2)])
    shares = np.linalg.solve(equations, np.array([0.0, 1.0])) + 0.0  # and no -0.0
    tokens = np.array([1.0, (kept ** np.arange(window)).sum()])
    return Chain(transition, shares, tokens)


# -- arithmetic and arguments ------------------------------------------------------------------


def sum_of_powers(a: Array, n: Array) -> Array:
    """1 + a + … + a^(n - 1) = (1 - a^n) / (1 - a), n >= 1: n at a = 1, and never a cancellation."""
    inside = (a > 0) & (a < 1)
    b = np.where(inside, a, 0.5)
    rest = -np.expm1((n - 1) * np.log(b)) / (1 - b)
    return np.asarray(1 + a * np.where(inside, rest, np.where(a == 0, np.minimum(n - 1, 1), n - 1)))


def _ratio(above: Array, below: Array, *, nothing: float = np.inf) -> Array:
    """A quotient of what is not negative; `nothing` where the divisor is 0."""
    one, other = np.broadcast_arrays(above, below)
    whole: Array = np.divide(one, other, out=np.full(one.shape, nothing), where=other != 0)
    return whole


def as_rate(value: ArrayLike, name: str) -> Array:
    """Chances, from 0 to 1."""
    return as_array(value, name, "from 0 to 1", lambda x: (x >= 0) & (x <= 1))


def as_whole(value: ArrayLike, name: str, least: int) -> Array:
    """Whole numbers."""
    allowed = f"a whole number, {least} or more"
    return as_array(
        value, name, allowed, lambda x: (x >= least) & np.isfinite(x) & (x == np.floor(x))
    )


def _as_cost(value: ArrayLike, name: str) -> Array:
    return as_array(value, name, f"0 or more, at most {MOST:g}", lambda x: (x >= 0) & (x <= MOST))


def as_array(
    value: ArrayLike, name: str, allowed: str, fine: Callable[[Array], NDArray[np.bool_]]
) -> Array:
    """The value as numbers; refused, with the first that does not fit, unless all do.

    Raises:
        SettingError: one is not fine.
    """
    try:
        known = np.array(value, dtype=float)
    except (TypeError, ValueError):
        raise SettingError(f"{name} is {value!r}; it must be {allowed}") from None
    wrong = known[~fine(known)]
    if wrong.size:
        raise SettingError(f"{name} is {wrong.flat[0]:g}; it must be {allowed}")
    return known
