"""How sure a statistical test of this package is: the one place where its error rate is stated.

Every such test has a fixed seed, so it gives the same answer each time. `ALPHA` is the chance
that a correct program would have been refused when the seed was picked.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Final

ALPHA: Final = 1e-6
Z: Final = statistics.NormalDist().inv_cdf(1 - ALPHA / 2)


def margin(values: Sequence[float]) -> float:
    """Half the width of the interval for the mean of independent values."""
    return Z * statistics.stdev(values) / math.sqrt(len(values))


def ratio_margin(above: Sequence[float], below: Sequence[float]) -> float:
    """Half the width of the interval for sum(above) / sum(below), pairs being independent."""
    ratio = sum(above) / sum(below)
    return margin([x - ratio * y for x, y in zip(above, below, strict=True)]) / statistics.mean(
        below
    )


def chi_square_limit(degrees: int) -> float:
    """What a chi-square statistic exceeds with probability ALPHA (Wilson and Hilferty 1931)."""
    z = statistics.NormalDist().inv_cdf(1 - ALPHA)
    spread = 2 / (9 * degrees)
    return degrees * (1 - spread + z * math.sqrt(spread)) ** 3
