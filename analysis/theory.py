"""What theory says of the three schedules: closed forms, to be held against what was measured.

Unless it says otherwise a form assumes that each draft token is kept independently with the same
chance, that rounds have a barrier, and that texts are without end. Passes of the target take the
same time whatever they judge, and messages none; speeds, idle shares and what is best can be
asked for with `growth` and `link` as well. Numbers and arrays are taken alike and broadcast, but
where a docstring says numbers; the limits a = 0, a = 1 and g = 1 are exact.

A *run* is what lies between two rejections, the replacement that ends it included. Of an average
run at a = 1 there is no end: its length is infinite, shares and speeds are still finite.

Notation, in this file and its callers:

    a   acceptance rate of a draft token           g   gamma, the tokens of a window
    c   speed ratio, a target pass over a step     k   head start, tokens before the first pass
    l   control and communication of each round, in target passes, where every pass waits for its
        command; of a target that goes on before it is told, PEARL's rounds pay l only as far as
        their windows are late, and that is not in a closed form (`simulator.leads` has the rule)
    growth   what each further token adds to a pass: T(n) = 1 + growth (n - 1) passes over one
    link     what each window of the draft waits for its messages, the target's for none; in passes
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
MOST: Final = 1e12  # of a ratio or a cost: products of a few of them are numbers
SUM: Final = 1e-6  # by which probabilities may miss 1


# -- acceptance --------------------------------------------------------------------------------


def acceptance_from_distributions(p: ArrayLike, q: ArrayLike) -> Numbers:
    """Chance that the rejection verifier keeps a token: sum min(p, q) = 1 - TV(p, q).

    Args:
        p, q: probabilities of target and draft, shape (..., vocab).
    Source: Leviathan et al. 2023, theorem 3.5 and corollary 3.6.
    """
    target, draft = distributions(p, "p"), distributions(q, "q")
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


def speculative_speedup(
    a: ArrayLike,
    g: ArrayLike,
    c: ArrayLike,
    l: ArrayLike = 0,
    *,
    growth: ArrayLike = 0,
    link: ArrayLike = 0,
) -> Numbers:
    """Speed of speculative decoding over AR: tokens of a pass / (g/c + link + T(g + 1) + l).

    Source: Leviathan et al. 2023, theorem 3.8, with l added to each round; AR pays no l.
    """
    tokens = speculative_tokens_per_pass(a, g)
    writing, judging = _in_turns(g, c, growth)
    return (tokens / (writing + _overhead(link, "link") + judging + _overhead(l)))[()]


def pearl_speedup(
    a: ArrayLike,
    g: ArrayLike,
    c: ArrayLike,
    k: ArrayLike = 0,
    l: ArrayLike = 0,
    *,
    growth: ArrayLike = 0,
    link: ArrayLike = 0,
) -> Numbers:
    """Speed of PEARL over AR: run_tokens / (k/c + run_passes (max(g/c, 1) + l)).

    Without a head start that is tau / (max(g/c, 1) + l). With growth and link the first pass of a
    run takes max(g/c + link, T(k + 1)), each later one max(g/c + link, T(g)), and the head start
    k/c + link. AR pays no l, and the head start pays none of its own.
    """
    tokens, passes, ended = _cycle(a, g, k)
    time = _at_once(passes, ended, g=g, c=c, k=k, growth=growth, link=link)
    return (tokens / (time.seconds + passes * _overhead(l)))[()]


def break_even_overhead(
    a: ArrayLike,
    g: ArrayLike,
    c: ArrayLike,
    k: ArrayLike = 0,
    *,
    growth: ArrayLike = 0,
    link: ArrayLike = 0,
) -> Numbers:
    """The l at which PEARL is as fast as AR, in target passes; negative where it never is.

    Without a head start, growth and link that is tau - max(g/c, 1).
    """
    tokens, passes, ended = _cycle(a, g, k)
    time = _at_once(passes, ended, g=g, c=c, k=k, growth=growth, link=link)
    return ((tokens - time.seconds) / passes)[()]


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


def speculative_idle(
    g: ArrayLike,
    c: ArrayLike,
    l: ArrayLike = 0,
    *,
    growth: ArrayLike = 0,
    link: ArrayLike = 0,
) -> Idle:
    """Each waits for the other: at l = 0 the draft c/(g + c), the target g/(g + c)."""
    writing, judging = _in_turns(g, c, growth)
    round_ = writing + _overhead(link, "link") + judging + _overhead(l)
    return Idle(draft=(1 - writing / round_)[()], target=(1 - judging / round_)[()])


def pearl_idle(
    a: ArrayLike,
    g: ArrayLike,
    c: ArrayLike,
    k: ArrayLike = 0,
    l: ArrayLike = 0,
    *,
    growth: ArrayLike = 0,
    link: ArrayLike = 0,
) -> Idle:
    """At k = l = 0 the draft waits max(0, 1 - g/c), the target max(0, 1 - c/g), whatever a."""
    _, passes, ended = _cycle(a, g, k)
    time = _at_once(passes, ended, g=g, c=c, k=k, growth=growth, link=link)
    seconds = time.seconds + passes * _overhead(l)
    draft, target = (np.maximum(1 - busy / seconds, 0) for busy in (time.writing, time.judging))
    return Idle(draft=draft[()], target=target[()])


# -- what is best ------------------------------------------------------------------------------


def best_speculative_gamma(
    a: ArrayLike,
    c: ArrayLike,
    l: ArrayLike = 0,
    *,
    growth: ArrayLike = 0,
    link: ArrayLike = 0,
    widest: int = WIDEST_GAMMA,
) -> Numbers:
    """The window from 1 to `widest` with the highest `speculative_speedup`; of equals the least."""
    numbers = range(1, _top(widest, 1))
    return _first_best(speculative_speedup, "g", numbers, a=a, c=c, l=l, growth=growth, link=link)


def best_pearl_gamma(
    a: ArrayLike,
    c: ArrayLike,
    k: ArrayLike = 0,
    l: ArrayLike = 0,
    *,
    growth: ArrayLike = 0,
    link: ArrayLike = 0,
    widest: int = WIDEST_GAMMA,
) -> Numbers:
    """The window from 1 to `widest` with the highest `pearl_speedup`; of equals the least.

    Theorem 1 of the paper, the best window is c, is the case of whole c, 0 < a < 1 and nothing
    else: below c a wider window costs nothing and yields more, above it tau/g falls. For other c
    it is the whole number below or above. What moves it: l, which a wider window shares out among
    more tokens, to above c; growth to above c as well, as far as g/c = T(g), for the draft has
    time while the longer pass runs, or to below, where a pass gets dearer by more than a window
    gets longer; a link to below c, for the draft has less time.

    Source: Liu et al. 2025, theorem 1.
    """
    numbers = range(1, _top(widest, 1))
    return _first_best(pearl_speedup, "g", numbers, a=a, c=c, k=k, l=l, growth=growth, link=link)


def best_head_start(
    a: ArrayLike,
    g: ArrayLike,
    c: ArrayLike,
    l: ArrayLike = 0,
    *,
    growth: ArrayLike = 0,
    link: ArrayLike = 0,
    widest: int = WIDEST_GAMMA,
) -> Numbers:
    """The head start from 0 to `widest` with the highest `pearl_speedup`; of equals the least."""
    numbers = range(_top(widest, 0))
    return _first_best(pearl_speedup, "k", numbers, a=a, g=g, c=c, l=l, growth=growth, link=link)


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


def _first_best(
    speed: Callable[..., Array], name: str, numbers: range, **given: ArrayLike
) -> Numbers:
    """The first of these numbers whose speed is the highest; one for each point given.

    Args:
        speed: a function of `name`, the number, and of everything given.
    """
    arrays = np.broadcast_arrays(*(np.asarray(value, dtype=float) for value in given.values()))
    tried = np.array(numbers).reshape(-1, *[1] * arrays[0].ndim)
    speeds = speed(**{name: tried}, **dict(zip(given, arrays, strict=True)))
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


def pearl_tokens_by_position(rates: Sequence[float], g: int, k: int = 0) -> float:
    """The same for PEARL, whose run goes from window to window; places begin anew in each.

    With R_n the chance to keep the first n of a window: a head start is a window of k, the first
    pass of a run settles 1 + R_1 + … + R_k tokens and goes on with R_k R_1; a later one settles
    1 + (R_2 + … + R_g) / R_1 and goes on with R_g. Without a head start that is
    (1 - R_g + R_1 + … + R_g) / (1 - R_g + R_1) tokens of a pass.
    """
    ahead = int(_whole(k, "k", 0))
    kept = _kept_to(rates, max(int(_whole(g, "g", 1)), ahead))
    window, start = kept[:g], kept[:ahead]
    ended = 1 - window[-1]
    # R_1 is taken into the chance to go on: it may be 0.
    begun = float(start[-1]) if ahead else 1.0
    tokens = ended * (1 + start.sum()) + begun * window.sum()
    return float(tokens / (ended + begun * window[0]))


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


def pearl_tokens_in_bursts(a: ArrayLike, r: ArrayLike, g: ArrayLike, k: ArrayLike = 0) -> Numbers:
    """The same for PEARL: 1 / (1 - a) tokens in 1 + a (1 - r) b^k / (1 - b^g) passes."""
    stay, begin, window = _bursts(a, r, g)
    tokens = _sum_of_powers(stay, window)
    on = begin * stay ** _whole(k, "k", 0)
    return (tokens * (1 - stay + begin) / ((1 - stay) * tokens + on))[()]


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


def speculative_passes(a: float, g: int, tokens: ArrayLike) -> Numbers:
    """Mean passes for a text of so many tokens, by dynamic programming; exact.

    Args:
        a, g: numbers.
        tokens: of one text, or of several.
    """
    rate, window, lengths = float(_rate(a)), int(_whole(g, "g", 1)), _lengths(tokens)
    left = np.zeros(lengths.max() + 1)
    for n in range(1, len(left)):
        left[n] = 1 + _missed(left, rate, n, window) + rate**window * left[max(n - window - 1, 0)]
    return left[lengths][()]


def pearl_passes(a: float, g: int, tokens: ArrayLike, k: int = 0) -> Numbers:
    """The same for PEARL: its first pass settles k + 1 tokens, and each later one of a run g."""
    rate, window, lengths = float(_rate(a)), int(_whole(g, "g", 1)), _lengths(tokens)
    first = int(_whole(k, "k", 0)) + 1
    pre, post = np.zeros(lengths.max() + 1), np.zeros(lengths.max() + 1)
    for n in range(1, len(pre)):
        pre[n] = 1 + _missed(pre, rate, n, first) + rate**first * post[max(n - first, 0)]
        post[n] = 1 + _missed(pre, rate, n, window) + rate**window * post[max(n - window, 0)]
    return pre[lengths][()]


def tokens_per_pass_of_lengths(
    passes: Callable[[NDArray[np.int64]], Array], lengths: ArrayLike, weights: ArrayLike
) -> float:
    """Tokens of a pass over texts whose length is left to chance: mean tokens over mean passes.

    Args:
        passes: as a function of the length, such as `lambda n: pearl_passes(0.8, 5, n)`.
        lengths: that can be, each 1 or more.
        weights: the chance of each, in any unit; of texts that end behind each token with chance e
            that is e (1 - e)^(n - 1) for n = 1, 2, …, as far as anything is left.
    """
    known = _lengths(lengths)
    shares = _array(weights, "weights", "0 or more", lambda w: (w >= 0) & np.isfinite(w))
    if shares.shape != known.shape or not shares.sum() > 0:
        raise SettingError(f"weights is {weights!r}; it must be one for each length, not all 0")
    return float((shares * known).sum() / (shares * passes(known)).sum())


def _missed(left: Array, a: float, n: int, judged: int) -> float:
    """Mean passes behind a pass with a rejection: with chance a^i (1 - a), i + 1 tokens on."""
    behind = left[max(n - judged, 0) : n][::-1]
    return float((1 - a) * a ** np.arange(len(behind)) @ behind)


def _lengths(tokens: ArrayLike) -> NDArray[np.int64]:
    return np.asarray(_whole(tokens, "tokens", 0), dtype=np.int64)


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


@dataclasses.dataclass(frozen=True, slots=True)
class _Time:
    """A run of PEARL times 1 - a^g, in passes and without l: all of it, and each device's work."""

    seconds: Array
    writing: Array
    judging: Array


def _at_once(
    passes: Array,
    ended: Array,
    *,
    g: ArrayLike,
    c: ArrayLike,
    k: ArrayLike,
    growth: ArrayLike,
    link: ArrayLike,
) -> _Time:
    """The head start, the first pass over k + 1 tokens, and the later ones over g."""
    step, ahead = 1 / _ratio_of_speeds(c), np.asarray(k)
    grows, wire = _overhead(growth, "growth"), _overhead(link, "link")
    first, later = 1 + grows * ahead, 1 + grows * (np.asarray(g) - 1)
    window = np.asarray(g) * step + wire
    begun = ahead * step + np.where(ahead > 0, wire, 0.0)
    more = passes - ended
    return _Time(
        seconds=ended * (begun + np.maximum(window, first)) + more * np.maximum(window, later),
        writing=ended * ahead * step + passes * np.asarray(g) * step,
        judging=ended * first + more * later,
    )


def _in_turns(g: ArrayLike, c: ArrayLike, growth: ArrayLike) -> tuple[Array, Array]:
    """A window of speculative decoding, and the pass over it and one token more."""
    window = _whole(g, "g", 1)
    return window / _ratio_of_speeds(c), 1 + _overhead(growth, "growth") * window


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
    allowed = f"more than 0, from {1 / MOST:g} to {MOST:g}"
    return _array(c, "c", allowed, lambda x: (x >= 1 / MOST) & (x <= MOST))


def _overhead(l: ArrayLike, name: str = "l") -> Array:
    return _array(l, name, f"0 or more, at most {MOST:g}", lambda x: (x >= 0) & (x <= MOST))


def distributions(p: ArrayLike, name: str) -> Array:
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
