"""What theory says where its assumptions do not hold: unequal chances, bursts, prompts, ends.

    tokens_by_position    the chance to be kept depends on the place in the window
    tokens_in_bursts      agreement follows agreement
    mixed_prompts         prompts have rates of their own
    passes_of             texts end; exact, by dynamic programming
    variance              even where acceptance is independent, texts differ in speed

Each is of an assumed schedule with its windows. Where chances are given apart, by position or by
prompt, the assumed acceptance does not count; times count for none of them. Notation as in
`pearl.analysis.theory`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import ArrayLike

from pearl.analysis import theory
from pearl.analysis.theory import Array, Assumptions, Numbers, expected
from pearl.decoding.errors import SettingError


def tokens_by_position(assumed: Assumptions, rates: Sequence[float]) -> float:
    """Tokens of a pass where chances depend on the place in the window; numbers.

    With R_n the chance to keep the first n of a window, a pass of speculative decoding settles
    1 + R_1 + … + R_g tokens. A run of PEARL goes from window to window, and places begin anew in
    each: a head start is a window of k, the first pass settles 1 + R_1 + … + R_k and goes on with
    R_k R_1; a later one settles 1 + (R_2 + … + R_g) / R_1 and goes on with R_g. Without a head
    start that is (1 - R_g + R_1 + … + R_g) / (1 - R_g + R_1) tokens of a pass.

    Args:
        assumed: a schedule and its windows.
        rates: the chance of each place, given that all before it were kept; the last one goes on.
    """
    before, beside = int(assumed.before), int(assumed.beside)
    kept = _kept_to(rates, max(before, beside))
    start, window = kept[:before], kept[:beside]
    if not beside:
        return 1 + float(start.sum())
    ended = 1 - window[-1]
    # R_1 is taken into the chance to go on: it may be 0.
    begun = float(start[-1]) if before else 1.0
    tokens = ended * (1 + start.sum()) + begun * window.sum()
    return float(tokens / (ended + begun * window[0]))


def _kept_to(rates: Sequence[float], places: int) -> Array:
    """The chances to keep the first, the first two … all tokens of a window."""
    known = theory.as_rate(rates, "rates")
    if known.ndim != 1 or known.size == 0:
        raise SettingError(f"rates is {rates}; it must be one rate or more")
    chances = known[np.minimum(np.arange(places), known.size - 1)]
    return np.asarray(np.cumprod(chances), dtype=float)


def tokens_in_bursts(assumed: Assumptions, correlation: ArrayLike) -> Numbers:
    """Tokens of a pass where agreement is a two-state chain over the positions of the text.

    A token agrees with chance b = a + r (1 - a) behind one that did, and a (1 - r) behind one that
    did not. PEARL has 1 / (1 - a) tokens in 1 + a (1 - r) b^k / (1 - b^g) passes. Speculative
    decoding has the passes of PEARL with k = g and a later window of g + 1: the place of a bonus
    token agrees or not as well; it is never compared.

    Args:
        assumed: a schedule, its windows, and the long-run rate a.
        correlation: r of neighbouring positions, from 0 to below 1.
    """
    a = assumed.acceptance
    r = theory.as_array(
        correlation, "correlation", "from 0 to below 1", lambda x: (x >= 0) & (x < 1)
    )
    stay, begin = a + r * (1 - a), a * (1 - r)
    tokens = theory.sum_of_powers(stay, assumed.later)
    on = begin * stay ** (assumed.first - 1)
    return (tokens * (1 - stay + begin) / ((1 - stay) * tokens + on))[()]


# -- prompts that differ -----------------------------------------------------------------------


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MixedPrompts:
    """Prompts with rates of their own, and what one would say who knew only the mean rate."""

    tokens_per_pass: float
    mean_rate: float
    at_mean_rate: float

    @property
    def jensen_gap(self) -> float:
        """What the mean rate gets wrong: the mixture's tokens of a pass less those at the mean."""
        return self.tokens_per_pass - self.at_mean_rate


def mixed_prompts(
    assumed: Assumptions, rates: Sequence[float], weights: Sequence[float]
) -> MixedPrompts:
    """Tokens of a pass over prompts that differ; independent within each; numbers.

    Args:
        assumed: a schedule and its windows.
        rates: of the prompts.
        weights: the tokens of each, in any unit; so passes add up, and the mean is harmonic.
    """
    known = theory.as_rate(rates, "rates")
    shares = theory.as_array(weights, "weights", "more than 0", lambda w: (w > 0) & np.isfinite(w))
    if shares.shape != known.shape or known.ndim != 1 or known.size == 0:
        raise SettingError(f"weights is {weights}; it must be one for each of the rates")
    shares = shares / shares.sum()
    mean = min(float(shares @ known), 1.0)

    def per_pass(rate: ArrayLike) -> Numbers:
        return expected(dataclasses.replace(assumed, acceptance=rate)).tokens_per_pass

    return MixedPrompts(
        tokens_per_pass=float(1 / (shares / per_pass(known)).sum()),
        mean_rate=mean,
        at_mean_rate=float(per_pass(mean)),
    )


# -- texts that end ----------------------------------------------------------------------------


def passes_of(assumed: Assumptions, tokens: ArrayLike) -> Numbers:
    """Mean passes for a text of so many tokens, by dynamic programming; exact.

    Args:
        assumed: a schedule, its windows and the acceptance; numbers.
        tokens: of one text, or of several.
    """
    a, first, later = float(assumed.acceptance), int(assumed.first), int(assumed.later)
    lengths = np.asarray(theory.as_whole(tokens, "tokens", 0), dtype=np.int64)
    # Mean passes for the n tokens left: with nothing pending, and behind a window kept whole.
    fresh, pending = np.zeros(lengths.max() + 1), np.zeros(lengths.max() + 1)
    for n in range(1, len(fresh)):
        fresh[n] = 1 + _missed(fresh, a, n, first) + a**first * pending[max(n - first, 0)]
        pending[n] = 1 + _missed(fresh, a, n, later) + a**later * pending[max(n - later, 0)]
    return fresh[lengths][()]


def _missed(left: Array, a: float, n: int, judged: int) -> float:
    """Mean passes behind a pass with a rejection: with chance a^i (1 - a), i + 1 tokens on."""
    behind = left[max(n - judged, 0) : n][::-1]
    return float((1 - a) * a ** np.arange(len(behind)) @ behind)


# -- spread ------------------------------------------------------------------------------------


def variance(assumed: Assumptions) -> float:
    """Variance of the tokens of n passes over n, for many passes; numbers.

    Renewal reward: with X tokens and Y passes in a run, E[(X - tau Y)^2] / E[Y]. Over a time in
    which n passes are made the speed has this variance over n, in (tokens per pass)^2.
    """
    a, first, later = float(assumed.acceptance), int(assumed.first), int(assumed.later)
    if a == 1:
        return 0.0
    found = expected(assumed)
    tau, full = found.tokens_per_pass, a**later
    # Surplus over tau of the passes behind a window that was fully kept: mean and mean square.
    mean, square = _moments(a, later, tau)
    mean /= 1 - full
    later_square = (square + 2 * full * (later - tau) * mean) / (1 - full)
    # And of a run, whose first pass settles so many.
    on = a**first
    square = _moments(a, first, tau)[1] + on * (2 * (first - tau) * mean + later_square)
    passes_per_run = 1 + on / (1 - full)
    return float(square / passes_per_run)


def _moments(a: float, most: int, shift: float) -> tuple[float, float]:
    """Mean and mean square of tokens - shift in a pass that yields n with a^(n-1) (1 - a)."""
    n = np.arange(1, most + 1)
    chances = a ** (n - 1.0) * np.where(n < most, 1 - a, 1.0)
    return float(chances @ (n - shift)), float(chances @ (n - shift) ** 2)
