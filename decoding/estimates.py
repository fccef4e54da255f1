"""A figure that knows how sure it is, from values that are independent of each other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
from scipy.special import stdtrit

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

LEVEL: Final = 0.95


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


def of_mean(values: ArrayLike) -> Estimate:
    """The mean of independent values, with Student's interval."""
    return of_ratio(values, np.ones_like(values, dtype=float))


def of_ratio(above: ArrayLike, below: ArrayLike) -> Estimate:
    """The ratio of two sums over independent pairs, each below one not negative.

    The interval is the delta method's: the spread of `above - ratio * below`, with Student's
    quantile (Cochran 1977, Sampling Techniques, section 6.4).
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
    error = math.sqrt(float(rest @ rest) / (count - 1) * count) / total
    half = float(stdtrit(count - 1, (1 + LEVEL) / 2)) * error
    return Estimate(ratio, ratio - half, ratio + half)
