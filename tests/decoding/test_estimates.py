"""Estimates hold the truth as often as they say, and say when they know nothing."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from pearl.decoding.estimates import (
    LEVEL,
    Estimate,
    inverse,
    of_mean,
    of_part,
    of_ratio,
    of_share,
    shifted,
)
from tests.decoding.certainty import Z
from tests.decoding.intervals import ends, holds

TRIES: Final = 4000
CHANCE: Final = Z * math.sqrt(LEVEL * (1 - LEVEL) / TRIES)
"""How far from its level a correct interval's coverage may be found."""


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


# -- skewed values ---------------------------------------------------------------------------------

TOKENS: Final = 128
"""Of a prompt's answer; the rates of prompts are Beta(7.2, 0.8): 0.9 in the mean, few far below."""


def students(above: NDArray[np.float64], below: NDArray[np.float64]) -> Estimate:
    """What the interval would be that does not bend."""
    ratio, count = float(above.sum() / below.sum()), len(above)
    half = stats.t.ppf((1 + LEVEL) / 2, count - 1) * (above - ratio * below).std(ddof=1)
    half *= math.sqrt(count) / below.sum()
    return Estimate(ratio, ratio - half, ratio + half)


@pytest.mark.parametrize(
    ("prompts", "short", "straight_short"), [(6, 0.03, 0.05), (12, 0.02, 0.03)]
)
def test_a_few_hard_prompts_are_allowed_for(
    prompts: int, short: float, straight_short: float
) -> None:
    """Most samples of few prompts have no very hard one, and so too small a spread.

    Of 6 prompts the interval holds 92.7 % of the time and Student's 89.1 %, of 12 94.6 and 91.3.
    """
    rng, below = np.random.default_rng(prompts), np.full(prompts, float(TOKENS))
    bent = straight = 0
    for _ in range(TRIES):
        kept = rng.binomial(TOKENS, rng.beta(7.2, 0.8, prompts)).astype(float)
        bent += holds(of_part(kept, below), 0.9)
        straight += holds(students(kept, below), 0.9)

    assert LEVEL - short - CHANCE <= bent / TRIES <= LEVEL + CHANCE
    assert straight / TRIES < LEVEL - straight_short
    assert straight < bent - 0.02 * TRIES


def test_an_interval_bends_to_where_the_values_reach() -> None:
    """One prompt far below the rest: the mean may well be lower, and hardly higher."""
    found = of_mean([0.9, 0.91, 0.92, 0.93, 0.94, 0.4])

    low, high = ends(found)
    assert float(found) - low > 2 * (high - float(found))


def test_turned_round_the_interval_turns_with_the_values() -> None:
    values = np.array([-3.0, -2.5, -2.0, 4.0])
    (low, high), (least, most) = ends(of_mean(values)), ends(of_mean(-values))

    assert (least, most) == pytest.approx((-high, -low))


def test_values_that_are_not_skewed_have_students_interval() -> None:
    values = np.array([1.0, 2.0, 4.0, 6.0, 7.0])

    assert of_mean(values).interval == pytest.approx(students(values, np.ones(5)).interval)


def test_an_end_goes_no_farther_than_twice_students() -> None:
    """Thirty values, one of them far away, do not say how far away another may be."""
    values = np.array([-1.0] * 29 + [0.0])
    (low, high), (least, most) = ends(of_mean(values)), ends(students(values, np.ones(30)))
    mean = values.mean()

    assert high - mean == pytest.approx(2 * (most - mean))
    assert mean - low < mean - least


def test_the_interval_of_a_share_stays_within_0_and_1() -> None:
    found = of_part([5.0, 9.0, 1.0], [5.0, 9.0, 4.0])

    low, high = ends(found)
    assert 0 <= low < 15 / 18 < high <= 1
    assert of_part([], []) == Estimate(None)


def test_a_ratio_of_what_is_never_negative_has_no_negative_end() -> None:
    found = of_ratio([0.0, 0.0, 0.0, 9.0], [1.0, 1.0, 1.0, 1.0])

    assert found.low == 0


# -- shares of independent tries -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hits", "tries", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_the_published_one(
    hits: int, tries: int, low: float, high: float
) -> None:
    """Newcombe 1998, Statistics in Medicine 17, table I, method 3; and its mirror image."""
    found, mirrored = of_share(hits, tries - hits), of_share(tries - hits, hits)

    assert found.value == hits / tries
    assert found.interval == pytest.approx((low, high), abs=5.1e-5)
    assert mirrored.interval == pytest.approx((1 - high, 1 - low), abs=5.1e-5)


def test_no_tries_have_no_share() -> None:
    assert of_share(0, 0) == Estimate(None)


# -- of one estimate another -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Estimate(0.2, 0.1, 0.4), Estimate(5.0, 2.5, 10.0)),
        (Estimate(0.2), Estimate(5.0)),
        (Estimate(0.2, 0.0, 0.4), Estimate(5.0, 2.5, math.inf)),
        (Estimate(0.2, -0.1, 0.4), Estimate(5.0, 2.5, math.inf)),
        (Estimate(0.0), Estimate(math.inf)),
        (Estimate(None), Estimate(None)),
    ],
)
def test_an_inverse_has_the_inverse_interval(found: Estimate, expected: Estimate) -> None:
    """What is not negative and may be 0 may be without end."""
    assert inverse(found) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Estimate(2.0, 1.0, 4.0), Estimate(3.0, 2.0, 5.0)),
        (Estimate(2.0), Estimate(3.0)),
        (Estimate(None), Estimate(None)),
    ],
)
def test_one_more_has_an_interval_one_higher(found: Estimate, expected: Estimate) -> None:
    assert shifted(found, 1.0) == expected


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
