"""What theory says of the three schedules: closed forms, to be held against what was measured.

Unless it says otherwise a form assumes that each draft token is kept independently with the same
chance, that a pass of the target takes the same time whatever it judges, that rounds have a
barrier, and that texts are without end. Numbers and arrays are taken alike and broadcast, but
where a docstring says numbers; the limits a = 0, a = 1 and g = 1 are exact.

A *run* is what lies between two rejections, the replacement that ends it included. Of an average
run at a = 1 there is no end: its length is infinite, shares and speeds are still finite.

Notation, in this file and its callers:

    a   acceptance rate of a draft token           g   gamma, the tokens of a window
    c   speed ratio, a target pass over a step     k   head start, tokens before the first pass
    l   control and communication of each round, in target passes
    p   next-token probabilities of the target     q   those of the draft

Sources: Leviathan et al. 2023, arXiv:2211.17192 (their alpha, gamma and cost c are a, g and 1/c);
Liu et al. 2025, arXiv:2408.11850 (their alpha, gamma and c are a, g and c). What names neither is
derived here: PEARL is a chain of two phases (`chain`), and a run is a cycle of it.
"""
# ruff: noqa: E741 - l is the letter of the notation above

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from decoding.errors import SettingError
from decoding.settings import WIDEST_GAMMA

Array: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = Any  # a float where every argument is a number, else an array

SAME: Final = 1e-12  # speeds nearer than this share are the same
SUM: Final = 1e-6  # by which probabilities may miss 1


# -- acceptance --------------------------------------------------------------------------------


def acceptance_from_distributions(p: ArrayLike, q: ArrayLike) -> Numbers:
    """Chance that the rejection verifier keeps a token: sum min(p, q) = 1 - TV(p, q).

    Args:
        p, q: probabilities of target and draft, shape (..., vocab).
    Source: Leviathan et al. 2023, theorem 3.5 and corollary 3.6.
    """
    target, draft = _distributions(p, "p"), _distributions(q, "q")
    if target.shape[-1] != draft.shape[-1]:
        message = f"q is over {draft.shape[-1]} tokens; it must be over {target.shape[-1]}, as p is"
        raise SettingError(message)
    return np.minimum(np.minimum(target, draft).sum(axis=-1), 1.0)[()]


def coupled_bound(p: ArrayLike, q: ArrayLike) -> Numbers:
    """Least chance that the coupled verifier keeps a token: (1 - TV) / (1 + TV).

    Source: Daliri, Musco and Suresh 2024, arXiv:2408.07978, for Gumbel sampling with shared coins.
    """
    kept = acceptance_from_distributions(p, q)
    return kept / (2 - kept)


# -- tokens of a pass --------------------------------------------------------------------------


def speculative_tokens_per_pass(a: ArrayLike, g: ArrayLike) -> Numbers:
    """Tokens of a target pass of speculative decoding, (1 - a^(g + 1)) / (1 - a); bonus included.

    Source: Leviathan et al. 2023, equation 1.
    """
    return _sum_of_powers(_rate(a), _whole(g, "g", 1) + 1)[()]


def pearl_tokens_per_pass(a: ArrayLike, g: ArrayLike, k: ArrayLike = 0) -> Numbers:
    """Tokens of a target pass of PEARL: tau = (1 - a^g) / ((1 - a) (1 - a^g + a^(k + 1))).

    1 at g = 1, g at a = 1, and 1 / (1 - a^2) as g grows (k = 0). The passes are those of the
    target; with a head start a run has some time before its first one.
    """
    tokens, passes, _ = _cycle(a, g, k)
    return (tokens / passes)[()]


@dataclasses.dataclass(frozen=True, slots=True)
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
        """The mean over both phases: tau, by another road."""
        return float(self.shares @ self.tokens)


def chain(a: float, g: int) -> Chain:
    """The exact chain of PEARL without a head start, its long run solved numerically; numbers.

    Pre-verify goes on to post-verify with chance a, post-verify falls back with 1 - a^g.
    """
    rate, window = float(_rate(a)), int(_whole(g, "g", 1))
    full = rate**window
    transition = np.array([[1 - rate, rate], [1 - full, full]])
    # shares (transition - 1) = 0, of which one equation says nothing: sum(shares) = 1 replaces it.
    equations = np.vstack([(transition.T - np.eye(2))[0], np.ones(2)])
    shares = np.linalg.solve(equations, np.array([0.0, 1.0])) + 0.0  # and no -0.0
    tokens = np.array([1.0, (rate ** np.arange(window)).sum()])
    return Chain(transition, shares, tokens)


# -- runs --------------------------------------------------------------------------------------


def run_tokens(a: ArrayLike, *, given_preverify: bool = False) -> Numbers:
    """Tokens of a run of PEARL, 1 / (1 - a), for every g and k.

    Theorem 2 of the paper has 1 / (1 - a) + 1. That is the mean over those runs whose first token
    was kept (`given_preverify`), and of a run: neither of a round nor of a pass.

    Source: Liu et al. 2025, theorem 2.
    """
    return (_ratio(np.ones(()), 1 - _rate(a)) + given_preverify)[()]


def run_passes(a: ArrayLike, g: ArrayLike, k: ArrayLike = 0) -> Numbers:
    """Target passes of a run of PEARL: 1 + a^(k + 1) / (1 - a^g)."""
    _, passes, ended = _cycle(a, g, k)
    return _ratio(passes, ended)[()]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunLength:
    """The mean of one and the same trace, in the conventions that are about.

    Args:
        accepted: draft tokens kept from one rejection to the next (the authors' code).
        emitted: all tokens of a run: with the replacement, and the bonus tokens of speculative
            decoding (nano-PEARL).
        emitted_given_preverify: of those runs in which something was kept (the paper's theorem 2).
        per_verify_step: tokens of a target pass (vLLM, SGLang).
    """

    accepted: Numbers
    emitted: Numbers
    emitted_given_preverify: Numbers
    per_verify_step: Numbers


def speculative_run_length(a: ArrayLike, g: ArrayLike) -> RunLength:
    """The conventions for speculative decoding; a run goes over windows that were fully kept.

    The bonus token is emitted and not accepted: whoever counts it as accepted has `emitted` - 1.
    """
    rate, window = _rate(a), _whole(g, "g", 1)
    inner = _sum_of_powers(rate, window)
    per_pass = _sum_of_powers(rate, window + 1)
    emitted = _ratio(per_pass, (1 - rate) * inner)
    # Behind a kept token: g - 1 more to judge and, where all are kept, a run anew.
    given = 1 + inner + rate ** (window - 1) * emitted
    accepted, emitted, given, per_pass = np.broadcast_arrays(
        _ratio(rate, 1 - rate), emitted, given, per_pass
    )
    return RunLength(
        accepted=accepted[()],
        emitted=emitted[()],
        emitted_given_preverify=given[()],
        per_verify_step=per_pass[()],
    )


def pearl_run_length(a: ArrayLike, g: ArrayLike, k: ArrayLike = 0) -> RunLength:
    """The conventions for PEARL; only `per_verify_step` depends on the window."""
    return RunLength(
        accepted=_ratio(_rate(a), 1 - _rate(a))[()],
        emitted=run_tokens(a),
        emitted_given_preverify=run_tokens(a, given_preverify=True),
        per_verify_step=pearl_tokens_per_pass(a, g, k),
    )


# -- speed -------------------------------------------------------------------------------------


def speculative_speedup(a: ArrayLike, g: ArrayLike, c: ArrayLike, l: ArrayLike = 0) -> Numbers:
    """Speed of speculative decoding over AR: tokens of a pass / (g/c + 1 + l).

    Source: Leviathan et al. 2023, theorem 3.8, with l added to each round; AR pays no l.
    """
    tokens = speculative_tokens_per_pass(a, g)
    return tokens / (np.asarray(g) / _ratio_of_speeds(c) + 1 + _overhead(l))


def pearl_speedup(
    a: ArrayLike, g: ArrayLike, c: ArrayLike, k: ArrayLike = 0, l: ArrayLike = 0
) -> Numbers:
    """Speed of PEARL over AR: run_tokens / (k/c + run_passes (max(g/c, 1) + l)).

    Without a head start that is tau / (max(g/c, 1) + l). AR pays no l, and the head start pays
    none of its own.
    """
    tokens, passes, ended = _cycle(a, g, k)
    ahead, round_ = _times(g, c, k, l)
    return (tokens / (ended * ahead + passes * round_))[()]


def break_even_overhead(a: ArrayLike, g: ArrayLike, c: ArrayLike, k: ArrayLike = 0) -> Numbers:
    """The l at which PEARL is as fast as AR, in target passes; negative where it never is.

    Without a head start that is tau - max(g/c, 1).
    """
    tokens, passes, ended = _cycle(a, g, k)
    ahead, round_ = _times(g, c, k, 0)
    return ((tokens - ended * ahead) / passes - round_)[()]


# -- waste and waiting -------------------------------------------------------------------------


def speculative_wasted(a: ArrayLike, g: ArrayLike) -> Numbers:
    """Share of draft tokens that are thrown away: 1 - a (1 - a^g) / ((1 - a) g)."""
    rate, window = _rate(a), _whole(g, "g", 1)
    return (1 - rate * _sum_of_powers(rate, window) / window)[()]


def pearl_wasted(a: ArrayLike, g: ArrayLike, k: ArrayLike = 0) -> Numbers:
    """Share of draft tokens that are thrown away; 1 - a tau / g without a head start.

    Every window is written to its end (the barrier); whoever cancels windows writes less.
    """
    tokens, passes, ended = _cycle(a, g, k)
    return (1 - _rate(a) * tokens / (np.asarray(k) * ended + np.asarray(g) * passes))[()]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """Shares of the time in which each device does nothing, useful or not."""

    draft: Numbers
    target: Numbers


def speculative_idle(g: ArrayLike, c: ArrayLike, l: ArrayLike = 0) -> Idle:
    """Each waits for the other: at l = 0 the draft c/(g + c), the target g/(g + c)."""
    writing = _whole(g, "g", 1) / _ratio_of_speeds(c)
    round_ = writing + 1 + _overhead(l)
    return Idle(draft=(1 - writing / round_)[()], target=(1 - 1 / round_)[()])


def pearl_idle(
    a: ArrayLike, g: ArrayLike, c: ArrayLike, k: ArrayLike = 0, l: ArrayLike = 0
) -> Idle:
    """At k = l = 0 the draft waits max(0, 1 - g/c), the target max(0, 1 - c/g), whatever a."""
    _, passes, ended = _cycle(a, g, k)
    ahead, round_ = _times(g, c, k, l)
    seconds = ended * ahead + passes * round_
    writing = ended * ahead + passes * np.asarray(g) / np.asarray(c)
    draft, target = np.maximum(1 - writing / seconds, 0), np.maximum(1 - passes / seconds, 0)
    return Idle(draft=draft[()], target=target[()])


# -- what is best ------------------------------------------------------------------------------


def best_speculative_gamma(
    a: ArrayLike, c: ArrayLike, l: ArrayLike = 0, *, widest: int = WIDEST_GAMMA
) -> Numbers:
    """The window from 1 to `widest` with the highest `speculative_speedup`; of equals the least."""
    return _first_best(
        lambda n, a, c, l: speculative_speedup(a, n, c, l), range(1, _top(widest, 1)), a, c, l
    )


def best_pearl_gamma(
    a: ArrayLike, c: ArrayLike, k: ArrayLike = 0, l: ArrayLike = 0, *, widest: int = WIDEST_GAMMA
) -> Numbers:
    """The window from 1 to `widest` with the highest `pearl_speedup`; of equals the least.

    Theorem 1 of the paper, the best window is c, is the case of whole c, k = 0, l = 0 and
    0 < a < 1: below c a wider window costs nothing and yields more, above it tau/g falls. For other
    c it is the whole number below or above; with l, which a wider window shares out among more
    tokens, it can lie above c.

    Source: Liu et al. 2025, theorem 1.
    """

    def speed(n: Array, a: Array, c: Array, k: Array, l: Array) -> Array:
        speeds: Array = pearl_speedup(a, n, c, k, l)
        return speeds

    return _first_best(speed, range(1, _top(widest, 1)), a, c, k, l)


def best_head_start(
    a: ArrayLike, g: ArrayLike, c: ArrayLike, l: ArrayLike = 0, *, widest: int = WIDEST_GAMMA
) -> Numbers:
    """The head start from 0 to `widest` with the highest `pearl_speedup`; of equals the least."""

    def speed(n: Array, a: Array, g: Array, c: Array, l: Array) -> Array:
        speeds: Array = pearl_speedup(a, g, c, n, l)
        return speeds

    return _first_best(speed, range(_top(widest, 0)), a, g, c, l)


def head_start_criterion(a: ArrayLike, g: ArrayLike, c: ArrayLike, k: ArrayLike) -> Numbers:
    """Whether one token of head start more than k does not pay, at l = 0.

    The least such k is the best: max(g, c) (1 - a) a^(k + 1) <= 1 - a^g. With g <= c that is
    c (1 - a) a^(k + 1) <= 1 - a^g. A token more costs 1/c and saves the round max(g/c, 1) with
    chance (1 - a) a^(k + 1) / (1 - a^g), less and less as k grows.
    """
    rate, tokens = _rate(a), _cycle(a, g, k)[0]
    slower = np.maximum(np.asarray(g), _ratio_of_speeds(c))
    # At a = 1 a run has no end, so what is before it costs and saves nothing.
    return ((slower * rate ** (np.asarray(k) + 1) <= tokens * (1 + SAME)) | (rate == 1))[()]


def _first_best(speed: Callable[..., Array], numbers: range, *given: ArrayLike) -> Numbers:
    """The first of these numbers whose speed is the highest; one for each point given."""
    arrays = np.broadcast_arrays(*(np.asarray(value, dtype=float) for value in given))
    tried = np.array(numbers).reshape(-1, *[1] * arrays[0].ndim)
    speeds = speed(tried, *arrays)
    return (speeds >= speeds.max(axis=0) * (1 - SAME)).argmax(axis=0)[()] + numbers.start


def _top(widest: int, least: int) -> int:
    return int(_whole(widest, "widest", least)) + 1


# -- beyond independent acceptance -------------------------------------------------------------


def speculative_tokens_by_position(rates: Sequence[float], g: int) -> float:
    """Tokens of a pass where chances depend on the place in the window; numbers.

    Args:
        rates: the chance of each place, given that all before it were kept; the last one goes on.
    """
    return 1 + float(_kept_to(rates, g).sum())


def pearl_tokens_by_position(rates: Sequence[float], g: int) -> float:
    """The same for PEARL, whose run goes from window to window: (1 - R + W) / (1 - R + r1).

    Here R is the chance to keep a whole window, W the mean number kept of it, and r1 the first of
    the rates: in a run 1 + W / (1 - R) tokens, and 1 + r1 / (1 - R) passes.
    """
    kept = _kept_to(rates, g)
    ended = 1 - kept[-1]
    return float((ended + kept.sum()) / (ended + kept[0]))


def _kept_to(rates: Sequence[float], g: int) -> Array:
    """The chances to keep the first, the first two … all tokens of a window."""
    known, window = _rate(rates, "rates"), int(_whole(g, "g", 1))
    if known.ndim != 1 or known.size == 0:
        raise SettingError(f"rates is {rates}; it must be one rate or more")
    return np.asarray(np.cumprod(known[np.minimum(np.arange(window), known.size - 1)]), dtype=float)


def speculative_tokens_in_bursts(a: ArrayLike, r: ArrayLike, g: ArrayLike) -> Numbers:
    """Tokens of a pass where luck is a two-state chain over the positions of the text.

    Args:
        a: the long-run rate.
        r: correlation of neighbouring positions, from 0 to below 1: a token agrees with chance
            b = a + r (1 - a) behind one that did, and a (1 - r) behind one that did not.

    The place of a bonus token has its luck as well; nobody compares it.
    """
    stay, begin, window = _bursts(a, r, g)
    tokens = _sum_of_powers(stay, window + 1)
    return (tokens * (1 - stay + begin) / ((1 - stay) * tokens + begin * stay**window))[()]


def pearl_tokens_in_bursts(a: ArrayLike, r: ArrayLike, g: ArrayLike) -> Numbers:
    """The same for PEARL: 1 / (1 - a) tokens in 1 + a (1 - r) / (1 - b^g) passes."""
    stay, begin, window = _bursts(a, r, g)
    tokens = _sum_of_powers(stay, window)
    return (tokens * (1 - stay + begin) / ((1 - stay) * tokens + begin))[()]


def _bursts(a: ArrayLike, r: ArrayLike, g: ArrayLike) -> tuple[Array, Array, Array]:
    """The chances to agree behind agreement and behind a miss, and the window."""
    rate, correlation = _rate(a), _array(r, "r", "from 0 to below 1", lambda x: (x >= 0) & (x < 1))
    return rate + correlation * (1 - rate), rate * (1 - correlation), _whole(g, "g", 1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Prompts with rates of their own, and what one would say who knew only the mean rate."""

    tokens_per_pass: float
    mean_rate: float
    at_mean_rate: float

    @property
    def jensen_gap(self) -> float:
        """What the mean rate gets wrong: the mixture's tokens of a pass less those at the mean."""
        return self.tokens_per_pass - self.at_mean_rate


def mixture(
    rates: Sequence[float], weights: Sequence[float], tokens_per_pass: Callable[[Array], Array]
) -> Mixture:
    """Tokens of a pass over prompts that differ; independent within each; numbers.

    Args:
        rates: of the prompts.
        weights: the tokens of each, in any unit; so passes add up, and the mean is harmonic.
        tokens_per_pass: as a function of the rate, such as `lambda a: pearl_tokens_per_pass(a, 5)`.
    """
    known = _rate(rates, "rates")
    shares = _array(weights, "weights", "more than 0", lambda w: (w > 0) & np.isfinite(w))
    if shares.shape != known.shape or known.ndim != 1 or known.size == 0:
        raise SettingError(f"weights is {weights}; it must be one for each of the rates")
    shares = shares / shares.sum()
    mean = np.asarray(np.minimum(shares @ known, 1.0))
    return Mixture(
        tokens_per_pass=float(1 / (shares / tokens_per_pass(known)).sum()),
        mean_rate=float(mean),
        at_mean_rate=float(tokens_per_pass(mean)),
    )


# -- texts that end ----------------------------------------------------------------------------


def speculative_passes(a: float, g: int, tokens: int) -> float:
    """Mean passes for a text of so many tokens, by dynamic programming; exact; numbers."""
    rate, window, length = float(_rate(a)), int(_whole(g, "g", 1)), _length(tokens)
    left = np.zeros(length + 1)
    for n in range(1, length + 1):
        left[n] = 1 + _missed(left, rate, n, window) + rate**window * left[max(n - window - 1, 0)]
    return float(left[length])


def pearl_passes(a: float, g: int, tokens: int, k: int = 0) -> float:
    """The same for PEARL: its first pass settles k + 1 tokens, and each later one of a run g."""
    rate, window, length = float(_rate(a)), int(_whole(g, "g", 1)), _length(tokens)
    first = int(_whole(k, "k", 0)) + 1
    pre, post = np.zeros(length + 1), np.zeros(length + 1)
    for n in range(1, length + 1):
        pre[n] = 1 + _missed(pre, rate, n, first) + rate**first * post[max(n - first, 0)]
        post[n] = 1 + _missed(pre, rate, n, window) + rate**window * post[max(n - window, 0)]
    return float(pre[length])


def _missed(left: Array, a: float, n: int, judged: int) -> float:
    """Mean passes behind a pass with a rejection: with chance a^i (1 - a), i + 1 tokens on."""
    behind = left[max(n - judged, 0) : n][::-1]
    return float((1 - a) * a ** np.arange(len(behind)) @ behind)


def _length(tokens: int) -> int:
    return int(_whole(tokens, "tokens", 0))


# -- spread ------------------------------------------------------------------------------------


def speculative_variance(a: float, g: int) -> float:
    """Variance of the tokens of a pass; passes are independent; numbers."""
    rate, window = float(_rate(a)), int(_whole(g, "g", 1))
    return _moments(rate, window + 1, speculative_tokens_per_pass(rate, window))[1]


def pearl_variance(a: float, g: int, k: int = 0) -> float:
    """Variance of the tokens of n passes over n, for many passes; numbers.

    Renewal reward: with X tokens and Y passes in a run, E[(X - tau Y)^2] / E[Y]. Over a time in
    which n passes are made the speed has this variance over n, in (tokens per pass)^2.
    """
    rate, window, ahead = float(_rate(a)), int(_whole(g, "g", 1)), int(_whole(k, "k", 0))
    if rate == 1:
        return 0.0
    tau = pearl_tokens_per_pass(rate, window, ahead)
    # Surplus over tau of the passes behind a window that was fully kept: mean and mean square.
    full = rate**window
    mean, square = _moments(rate, window, tau)
    later = mean / (1 - full)
    later_square = (square + 2 * full * (window - tau) * later) / (1 - full)
    # And of a run, whose first pass settles k + 1.
    on = rate ** (ahead + 1)
    square = _moments(rate, ahead + 1, tau)[1] + on * (2 * (ahead + 1 - tau) * later + later_square)
    return float(square / run_passes(rate, window, ahead))


def _moments(a: float, most: int, shift: float) -> tuple[float, float]:
    """Mean and mean square of tokens - shift in a pass that yields n with a^(n-1) (1 - a)."""
    n = np.arange(1, most + 1)
    chances = a ** (n - 1.0) * np.where(n < most, 1 - a, 1.0)
    return float(chances @ (n - shift)), float(chances @ (n - shift) ** 2)


# -- arithmetic and arguments ------------------------------------------------------------------


def _sum_of_powers(a: Array, n: Array) -> Array:
    """1 + a + … + a^(n - 1) = (1 - a^n) / (1 - a), n >= 1: n at a = 1, and never a cancellation."""
    inside = (a > 0) & (a < 1)
    b = np.where(inside, a, 0.5)
    rest = -np.expm1((n - 1) * np.log(b)) / (1 - b)
    return np.asarray(1 + a * np.where(inside, rest, np.where(a == 0, np.minimum(n - 1, 1), n - 1)))


def _cycle(a: ArrayLike, g: ArrayLike, k: ArrayLike) -> tuple[Array, Array, Array]:
    """Tokens and passes of a run of PEARL times 1 - a^g, which ends one; and 1 - a^g itself."""
    rate, ahead = _rate(a), _whole(k, "k", 0)
    tokens = _sum_of_powers(rate, _whole(g, "g", 1))
    ended = (1 - rate) * tokens
    return tokens, ended + rate ** (ahead + 1), ended


def _times(g: ArrayLike, c: ArrayLike, k: ArrayLike, l: ArrayLike) -> tuple[Array, Array]:
    """The head start and a round of PEARL, in target passes."""
    ratio = _ratio_of_speeds(c)
    return np.asarray(k) / ratio, np.maximum(np.asarray(g) / ratio, 1) + _overhead(l)


def _ratio(above: Array, below: Array) -> Array:
    """A quotient of what is not negative; infinite where the divisor is 0."""
    one, other = np.broadcast_arrays(above, below)
    whole: Array = np.divide(one, other, out=np.full(one.shape, np.inf), where=other != 0)
    return whole


def _rate(a: ArrayLike, name: str = "a") -> Array:
    return _array(a, name, "from 0 to 1", lambda x: (x >= 0) & (x <= 1))


def _whole(value: ArrayLike, name: str, least: int) -> Array:
    allowed = f"a whole number, {least} or more"
    return _array(
        value, name, allowed, lambda x: (x >= least) & np.isfinite(x) & (x == np.floor(x))
    )


def _ratio_of_speeds(c: ArrayLike) -> Array:
    return _array(c, "c", "more than 0", lambda x: (x > 0) & np.isfinite(x))


def _overhead(l: ArrayLike) -> Array:
    return _array(l, "l", "0 or more", lambda x: (x >= 0) & np.isfinite(x))


def _distributions(p: ArrayLike, name: str) -> Array:
    """Probabilities, each row summing to 1."""
    known = _array(p, name, "probabilities, 0 or more", lambda x: (x >= 0) & np.isfinite(x))
    if known.ndim == 0:
        raise SettingError(f"{name} is {p!r}; it must be probabilities, one for each token")
    _array(known.sum(axis=-1), f"the sum of {name}", "1", lambda x: np.abs(x - 1) <= SUM)
    return known


def _array(
    value: ArrayLike, name: str, allowed: str, fine: Callable[[Array], NDArray[np.bool_]]
) -> Array:
    """The value as numbers; refused, with the first that does not fit, unless all do."""
    try:
        known = np.array(value, dtype=float)
    except (TypeError, ValueError):
        raise SettingError(f"{name} is {value!r}; it must be {allowed}") from None
    wrong = known[~fine(known)]
    if wrong.size:
        raise SettingError(f"{name} is {wrong.flat[0]:g}; it must be {allowed}")
    return known
