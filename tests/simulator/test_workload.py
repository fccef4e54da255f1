"""Lengths and arrivals."""

from __future__ import annotations

import statistics
from typing import Any, Final

import numpy as np
import pytest

from pearl.decoding.errors import SettingError
from pearl.simulator.workload import (
    ClosedLoop,
    Fixed,
    Geometric,
    Lengths,
    LogNormal,
    Poisson,
    Recorded,
    Times,
    Uniform,
    Workload,
)
from tests.decoding.certainty import margin

COUNT: Final = 20_000


def drawn(lengths: Lengths, count: int = COUNT) -> list[int]:
    return lengths.draw(np.random.default_rng(0), count)


@pytest.mark.parametrize(
    ("lengths", "mean", "deviation"),
    [
        (Uniform(5, 14), 9.5, (99 / 12) ** 0.5),
        (Geometric(1), 1.0, 0.0),
        (Geometric(20), 20.0, (20 * 19) ** 0.5),
        (LogNormal(200, 0.5), 200.0, 100.0),
        (LogNormal(200, 1.5), 200.0, 300.0),
    ],
)
def test_lengths_have_their_mean_and_deviation(
    lengths: Lengths, mean: float, deviation: float
) -> None:
    values = drawn(lengths)

    # Rounding to whole tokens moves the mean of a skewed law by a few hundredths.
    assert abs(statistics.mean(values) - mean) <= margin(values) + 0.1 * (deviation > 50)
    squares = [(value - mean) ** 2 for value in values]
    assert abs(statistics.mean(squares) - deviation**2) <= margin(squares) + 1
    assert min(values) >= 1


def test_uniform_lengths_reach_both_ends() -> None:
    assert set(drawn(Uniform(2, 4))) == {2, 3, 4}


def test_lengths_of_one_token_are_whole() -> None:
    """The shortest answer has one token, however short the law would make it."""
    assert min(drawn(LogNormal(1, 3))) == 1


def test_fixed_and_recorded_lengths_are_what_they_say() -> None:
    assert drawn(Fixed(7), 3) == [7, 7, 7]
    assert drawn(Recorded((3, 5)), 5) == [3, 5, 3, 5, 3]


@pytest.mark.parametrize(
    ("lengths", "mean"),
    [(Fixed(7), 7), (Uniform(2, 5), 3.5), (Geometric(9), 9), (Recorded((1, 2, 6)), 3)],
)
def test_lengths_say_what_to_expect(lengths: Lengths, mean: float) -> None:
    assert lengths.expected == mean


@pytest.mark.parametrize(
    ("kind", "given_", "name"),
    [
        (Fixed, {"tokens": 0}, "tokens"),
        (Uniform, {"low": 0, "high": 4}, "low"),
        (Uniform, {"low": 5, "high": 4}, "low"),
        (Geometric, {"mean": 0.5}, "mean"),
        (Geometric, {"mean": float("nan")}, "mean"),
        (LogNormal, {"mean": 0.5, "variation": 1}, "mean"),
        (LogNormal, {"mean": 5, "variation": 0}, "variation"),
        (Recorded, {"lengths": ()}, "lengths"),
        (Recorded, {"lengths": (3, 0)}, "lengths"),
        (ClosedLoop, {"users": 0}, "users"),
        (Poisson, {"rate": 0}, "rate"),
        (Poisson, {"rate": float("inf")}, "rate"),
        (Times, {"seconds": ()}, "seconds"),
        (Times, {"seconds": (2.0, 1.0)}, "seconds"),
        (Times, {"seconds": (-1.0, 1.0)}, "seconds"),
        (Times, {"seconds": (0.0, float("nan"), 1.0)}, "seconds"),
        (Workload, {"requests": 0}, "requests"),
        (Workload, {"slots": 0}, "slots"),
        (Workload, {"requests": 3, "arrivals": Times((0.0, 1.0))}, "requests"),
    ],
)
def test_a_load_that_cannot_be_is_refused(kind: Any, given_: Any, name: str) -> None:
    """In one line, which names the setting, its value and what it must be."""
    with pytest.raises(SettingError, match=f"^{name} is .+; it must be .+$"):
        kind(**given_)
