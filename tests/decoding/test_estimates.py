"""Estimates hold the truth as often as they say, and say when they know nothing."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import pytest

from decoding.estimates import LEVEL, Estimate, of_mean, of_ratio
from tests.decoding.certainty import Z

TRIES: Final = 4000
CHANCE: Final = Z * math.sqrt(LEVEL * (1 - LEVEL) / TRIES)
"""How far from its level a correct interval's coverage may be found."""


def holds(found: Estimate, truth: float) -> bool:
    assert found.low is not None
    assert found.high is not None
    return found.low <= truth <= found.high


@pytest.mark.parametrize("count", [2, 5, 30])
def test_the_interval_of_a_mean_holds_it_nineteen_times_in_twenty(count: int) -> None:
    """Student's interval is exact for normal values, however few."""
    rng = np.random.default_rng(count)
    held = sum(holds(of_mean(rng.normal(3, 2, count)), 3) for _ in range(TRIES))

    assert abs(held / TRIES - LEVEL) <= CHANCE


@pytest.mark.parametrize("count", [20, 200])
def test_the_interval_of_a_ratio_holds_it_nineteen_times_in_twenty(count: int) -> None:
    """Tokens over seconds of runs whose length varies: both grow together.

    The delta method is of large samples; from 20 pairs it falls short by a percent or two.
    """
    rng = np.random.default_rng(count)
    held = 0
    for _ in range(TRIES):
        below = rng.gamma(4, 1, count)
        above = below * rng.gamma(9, 1 / 9, count) * 2
        held += holds(of_ratio(above, below), 2)

    assert abs(held / TRIES - LEVEL) <= CHANCE + 0.3 / count


def test_a_mean_is_a_ratio_over_ones() -> None:
    values = [1.0, 2.0, 4.0]

    assert of_mean(values) == of_ratio(values, [1, 1, 1])
    assert of_mean(values).value == pytest.approx(7 / 3)


def test_a_ratio_is_that_of_the_sums_and_not_the_mean_of_ratios() -> None:
    assert of_ratio([1, 30], [1, 10]).value == pytest.approx(31 / 11)


def test_the_interval_of_a_mean_is_students() -> None:
    """Four values of deviation 1: t(3) = 3.182, over the root of 4."""
    found = of_mean([-1.0, -1.0, 1.0, 1.0])

    half = 3.182446305284263 * math.sqrt(4 / 3) / 2
    assert found.interval == pytest.approx((-half, half))


def test_a_ratio_that_never_varies_has_an_interval_without_width() -> None:
    found = of_ratio([2, 4, 8], [1, 2, 4])

    assert found == Estimate(2.0, 2.0, 2.0)


def test_a_single_value_says_nothing_of_its_spread() -> None:
    assert of_mean([3.0]) == Estimate(3.0)
    assert of_mean([3.0]).interval is None


@pytest.mark.parametrize(
    ("above", "below"),
    [
        ([0.0, 0.0], [0.0, 0.0]),
        ([1.0], [0.0]),
        ([], []),
        ([math.nan, 1.0], [1.0, 1.0]),
        ([math.inf, 1.0], [1.0, 1.0]),
        ([1.0, 1.0], [math.nan, 1.0]),
        ([1.0, 1.0], [math.inf, 1.0]),
    ],
)
def test_where_there_is_no_value_there_is_none(above: list[float], below: list[float]) -> None:
    """An acceptance rate of a run in which nothing was compared."""
    found = of_ratio(above, below)

    assert found == Estimate(None)
    assert math.isnan(float(found))
    assert found.interval is None


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(3.53456, 3.48, 3.58), "3.535 (3.48 to 3.58)"),
        (Estimate(3.53456), "3.535"),
        (Estimate(None), "–"),
    ],
)
def test_an_estimate_is_shown_with_its_interval(estimate: Estimate, text: str) -> None:
    assert str(estimate) == text
