"""A figure that knows how sure it is, from values that are independent of each other."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
from scipy.special import bdtr, ndtri, stdtrit

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

LEVEL: Final = 0.95
STRAIGHT: Final = 1e-6  # a skewness below bends nothing
FARTHEST: Final = 2.0  # times Student's quantile: the skewness of a few values knows no more


class Estimate(msgspec.Struct, frozen=True, order=False):
    """A value, and the ends of its 95 % interval.

    `low` and `high` are None where a single value says nothing of its spread; `value` is None
    where there is none (an acceptance rate of a run in which nothing was compared).
    """

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends, or None."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def __float__(self) -> float:
        return math.nan if self.value is None else self.value

    def __str__(self) -> str:
        """Four digits, and the interval in brackets."""
        if self.value is None:
            return "–"
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


def inverse(found: Estimate) -> Estimate:
    """Of what is not negative, one over it: tokens of a run, from rejections of a token.

    An end at or below 0 has no end as its inverse, and is infinite.
    """

    def over(value: float | None) -> float | None:
        if value is None:
            return None
        return 1 / value if value > 0 else math.inf

    return Estimate(over(found.value), over(found.high), over(found.low))


def shifted(found: Estimate, by: float) -> Estimate:
    """So much more, the ends too."""
    low, high = (None if end is None else end + by for end in (found.low, found.high))
    return Estimate(None if found.value is None else found.value + by, low, high)


def of_share(hits: int, misses: int) -> Estimate:
    """The chance of a hit, from independent tries at one chance.

    Wilson's interval; right also where trying goes on up to a number of hits, or of misses
    (Wilson 1927; Brown, Cai and DasGupta 2001, Statistical Science 16).
    """
    tries = hits + misses
    if tries == 0:
        return Estimate(None)
    z = float(ndtri((1 + LEVEL) / 2))
    share, weight = hits / tries, z * z / tries
    middle = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight**2 / 4) / (1 + weight)
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half))


def of_mean(values: ArrayLike) -> Estimate:
    """The mean of independent values; the interval is that of `of_ratio`."""
    return of_ratio(values, np.ones_like(values, dtype=float))


def of_median(values: ArrayLike) -> Estimate:
    """The median, whatever the law of the values: between two of them, by their ranks.

    The k-th smallest and the k-th largest of n values hold the median between them with the
    probability that a binomial number of n fair tosses is at least k and at most n - k. Below six
    values no two of them do so in 95 of 100 cases, and there is no interval.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    if len(ordered) == 0:
        return Estimate(None)
    outside = bdtr(np.arange(len(ordered)), len(ordered), 0.5)  # P(at most k tosses)
    k = int(np.count_nonzero(outside <= (1 - LEVEL) / 2))
    ends = (float(ordered[k - 1]), float(ordered[-k])) if k else (None, None)
    return Estimate(float(np.median(ordered)), *ends)


def of_ratio(above: ArrayLike, below: ArrayLike) -> Estimate:
    """The ratio of two sums over independent pairs, each below one not negative.

    The interval is the delta method's: the spread of `above - ratio * below`, with Student's
    quantile (Cochran 1977, Sampling Techniques, section 6.4), bent by the skewness of that spread
    as Hall's transformation says (Hall 1992, Journal of the Royal Statistical Society B 54): a
    few prompts on which draft and target rarely agree pull far more to one side than to the
    other. Values that are not skewed have Student's interval. Where no `above` is
    negative, no end of the interval is.
    """
    x, y = np.asarray(above, dtype=float), np.asarray(below, dtype=float)
    total = float(y.sum())
    if total == 0 or not (np.isfinite(x).all() and math.isfinite(total)):
        return Estimate(None)
    ratio = float(x.sum()) / total
    count = len(x)
    if count == 1:
        return Estimate(ratio)
    rest = x - ratio * y
    # Multiplied out: a power of every value calls the mathematics library for each of them, and
    # took nine tenths of a sweep on some processors.
    squares = rest * rest
    spread = float(squares.sum())
    deviation = math.sqrt(spread / count)
    skewness = float(squares @ rest) / spread / deviation if deviation else 0.0
    error = deviation * count / math.sqrt(count - 1) / total
    quantile = _students(count)
    low, high = (ratio - _bend(q, skewness, count) * error for q in (quantile, -quantile))
    return Estimate(ratio, 0.0 if low < 0 and (x >= 0).all() else low, high)


def of_part(above: ArrayLike, below: ArrayLike) -> Estimate:
    """The same where each above is a part of its below: a share, whose interval ends at 1."""
    found = of_ratio(above, below)
    return found if found.high is None else Estimate(found.value, found.low, min(found.high, 1.0))


@functools.lru_cache(maxsize=64)
def _students(count: int) -> float:
    """Student's quantile for the mean of so many values."""
    return float(stdtrit(count - 1, (1 + LEVEL) / 2))


def _bend(quantile: float, skewness: float, count: int) -> float:
    """The quantile of a mean of so many values that are so skewed."""
    if abs(skewness) < STRAIGHT:
        return quantile
    root = math.sqrt(count)
    inner = 1 + skewness * (quantile / root - skewness / (6 * count))
    bent = 3 * root / skewness * (math.cbrt(inner) - 1)
    return math.copysign(min(abs(bent), FARTHEST * abs(quantile)), bent)
