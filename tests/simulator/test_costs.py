"""Seconds of a forward as a function of tokens, rows and context."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from typing import Any, Final

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pearl.decoding.errors import SettingError
from pearl.simulator.costs import (
    Affine,
    AnyCost,
    Beside,
    Constant,
    Measured,
    Roofline,
    Spread,
    clock,
    scatter,
)
from tests.decoding.certainty import Z, margin

TABLE: Final = Measured(
    tokens=(1, 4, 8), batches=(1, 3), grid=((10.0, 13.0, 21.0), (14.0, 17.0, 29.0))
)
MACHINE: Final = Roofline(
    weight_bytes=16.0, position_bytes=0.5, token_flops=4.0, bandwidth=8.0, rate=2.0, launch=0.25
)


def test_a_constant_cost_depends_on_nothing() -> None:
    cost = Constant(0.5)

    assert {cost.seconds(n, b, c) for n in (1, 9) for b in (1, 4) for c in (0, 99)} == {0.5}


def test_an_affine_cost_is_its_base_for_one_token_and_grows_with_everything() -> None:
    cost = Affine(base=8.0, per_token=1.0, per_row=0.5, per_position=0.125)

    assert cost.seconds(1) == 8.0
    assert cost.seconds(5) == 12.0
    assert cost.seconds(5, 2) == 8.0 + 9 + 0.5
    assert cost.seconds(1, 2, 16) == 8.0 + 1 + 0.5 + 4.0


def test_a_roofline_has_its_knee_where_arithmetic_takes_as_long_as_memory() -> None:
    """2 s for the weights, 2 s a token: flat up to one token, then a line."""
    assert [MACHINE.seconds(n) for n in (1, 2, 3)] == [2.25, 4.25, 6.25]
    flat = [
        Roofline(weight_bytes=80, token_flops=4, bandwidth=8, rate=2).seconds(n) for n in (1, 5)
    ]
    assert flat == [10, 10]


def test_a_roofline_reads_the_cache_of_every_row() -> None:
    """48 positions in two rows are 48 bytes more: 6 s."""
    assert MACHINE.seconds(1, 2, 48) == 0.25 + 2 + 6


def test_what_was_measured_is_given_back_at_its_points() -> None:
    for (row, batch), (column, tokens) in itertools.product(
        enumerate(TABLE.batches), enumerate(TABLE.tokens)
    ):
        assert TABLE.seconds(tokens, batch) == TABLE.grid[row][column]


grids = st.lists(st.floats(0.001, 100), min_size=3, max_size=3)


@given(row=grids)
def test_points_are_given_back_however_the_times_fall(row: list[float]) -> None:
    """A first point that is much slower than the others says nothing against those."""
    table = Measured(tokens=(1, 2, 5), batches=(1,), grid=(tuple(row),))

    assert [table.seconds(n) for n in (1, 2, 5)] == pytest.approx(row)


def test_between_the_points_lie_straight_lines() -> None:
    assert TABLE.seconds(2) == 11.0
    assert TABLE.seconds(6) == 17.0
    assert TABLE.seconds(4, 2) == 15.0
    assert TABLE.seconds(2, 2) == 13.0


def test_the_lines_go_on_beyond_the_last_points() -> None:
    assert TABLE.seconds(12) == 29.0
    assert TABLE.seconds(1, 5) == 18.0


def test_times_that_fall_do_not_fall_below_half_of_the_last_point() -> None:
    table = Measured(tokens=(1, 2), batches=(1,), grid=((10.0, 6.0),))

    assert [table.seconds(n) for n in (3, 100)] == [3.0, 3.0]


def test_context_costs_what_it_was_measured_to_cost() -> None:
    """From where the grid was measured; never less than half."""
    cost = Measured(
        tokens=(1,), batches=(1, 2), grid=((8.0,), (10.0,)), context=64, per_position=0.125
    )

    assert cost.seconds(1, 1, 72) == 9.0
    assert cost.seconds(1, 2, 72) == 12.0
    assert cost.seconds(1, 1, 0) == 4.0


def test_a_spread_has_the_mean_and_the_variation_it_says() -> None:
    factors = Spread(around=Constant(1.0), variation=0.3).factors(np.random.default_rng(0))
    values = list(itertools.islice(factors, 20_000))

    assert abs(statistics.mean(values) - 1) < margin(values)
    squares = [(value - 1) ** 2 for value in values]
    assert abs(statistics.mean(squares) - 0.09) < margin(squares)
    assert min(values) > 0


def test_a_clock_multiplies_each_forward_by_a_factor_of_its_own() -> None:
    cost = Spread(around=Affine(base=2, per_token=1), variation=0.5)
    factors = cost.factors(np.random.default_rng(4))
    tick = clock(cost, np.random.default_rng(4))

    assert [tick(n, 1, 0, 0.0, 0) for n in (1, 3)] == [2 * next(factors), 4 * next(factors)]
    assert cost.seconds(3) == 4


ONE: Final[dict[str, Any]] = {"tokens": (1,), "batches": (1,), "grid": ((1.0,),)}
MEASURED: Final = Measured(
    tokens=(1, 3),
    batches=(1,),
    grid=((1.0, 2.0),),
    rests=(0.0, 4.0),
    waking=(0.0, 0.5),
    waking_beside=(0.0, 1.0),
    beside=(Beside(window=2, single=2.0, several=1.5), Beside(window=4, single=3.0)),
)


@pytest.mark.parametrize(
    ("forward", "seconds"),
    [
        ((1, 1, 0, 0.0, 0), 1.0),
        ((1, 1, 0, 2.0, 0), 1.0 + 0.25),
        ((1, 1, 0, 99.0, 0), 1.0 + 0.5),
        ((2, 1, 0, 0.0, 2), 1.5 * 1.5),
        ((3, 1, 0, 0.0, 3), 2.0 * 1.25),
        ((1, 1, 0, 0.0, 1), 2.0),
        ((1, 1, 0, 0.0, 9), 3.0),
        ((1, 1, 0, 4.0, 2), (1.0 + 1.0) * 2.0),
    ],
    ids=["plain", "half a rest", "a long rest", "beside 2", "between", "fewer", "more", "both"],
)
def test_a_measured_forward_depends_on_the_rest_before_it_and_on_what_runs_beside_it(
    forward: tuple[int, int, int, float, int], seconds: float
) -> None:
    tick = clock(MEASURED, np.random.default_rng(0))

    assert tick(*forward) == seconds


def test_measured_times_scatter_as_they_were_measured() -> None:
    """Each of the factors is drawn about as often as the others."""
    spread = (0.5, 1.0, 1.5)
    cost = msgspec.structs.replace(MEASURED, spread=spread)
    tick = clock(cost, np.random.default_rng(0))
    drawn = Counter(tick(1, 1, 0, 0.0, 0) for _ in range(3000))

    assert set(drawn) == set(spread)
    for count in drawn.values():
        assert abs(count - 1000) < Z * (3000 * (1 / 3) * (2 / 3)) ** 0.5


def test_a_slower_machine_is_slower_in_everything() -> None:
    slow = MEASURED.slowed(2.0)

    for forward in ((1, 1, 0, 0.0, 0), (3, 1, 50, 2.0, 4), (2, 1, 0, 9.0, 0)):
        quick, found = (clock(c, np.random.default_rng(0))(*forward) for c in (MEASURED, slow))
        assert found == pytest.approx(2 * quick)


@pytest.mark.parametrize(
    ("cost", "spread"),
    [
        (Constant(1.0), 0.0),
        (msgspec.structs.replace(MEASURED, spread=(0.5, 1.5)), 0.5),
        (Spread(around=Constant(1.0), variation=0.3), 0.3),
    ],
    ids=["constant", "measured", "spread"],
)
def test_the_factors_that_stand_for_a_spread_have_its_mean_and_its_deviation(
    cost: AnyCost, spread: float
) -> None:
    factors = scatter(cost)

    assert factors.mean() == pytest.approx(1)
    assert factors.std() == pytest.approx(spread, rel=0.03)


@pytest.mark.parametrize(
    ("kind", "given_", "name"),
    [
        (Constant, {"per_forward": 0.0}, "per-forward"),
        (Constant, {"per_forward": float("nan")}, "per-forward"),
        (Affine, {"base": 0.0}, "base"),
        (Affine, {"base": 1.0, "per_token": -0.1}, "per-token"),
        (Affine, {"base": 1.0, "per_position": float("inf")}, "per-position"),
        (
            Roofline,
            {"weight_bytes": 0, "token_flops": 1, "bandwidth": 1, "rate": 1},
            "weight-bytes",
        ),
        (
            Roofline,
            {"weight_bytes": 1, "token_flops": 1, "bandwidth": 1, "rate": 1, "launch": -1},
            "launch",
        ),
        (Measured, {"tokens": (), "batches": (1,), "grid": ((),)}, "tokens"),
        (Measured, {"tokens": (2, 1), "batches": (1,), "grid": ((1.0, 1.0),)}, "tokens"),
        (Measured, {"tokens": (1,), "batches": (0,), "grid": ((1.0,),)}, "batches"),
        (Measured, {"tokens": (1, 2), "batches": (1,), "grid": ((1.0,),)}, "grid"),
        (Measured, {"tokens": (1,), "batches": (1, 2), "grid": ((1.0,),)}, "grid"),
        (Measured, {"tokens": (1,), "batches": (1,), "grid": ((float("nan"),),)}, "grid"),
        (Measured, {**ONE, "rests": (1.0,)}, "rests"),
        (Measured, {**ONE, "rests": (0.0, 1.0)}, "waking"),
        (Measured, {**ONE, "waking_beside": (-1.0,)}, "waking-beside"),
        (Measured, {**ONE, "beside": (Beside(window=2), Beside(window=2))}, "beside"),
        (Measured, {**ONE, "spread": ()}, "spread"),
        (Beside, {"window": 0}, "window"),
        (Beside, {"window": 1, "single": 0.0}, "single"),
        (Spread, {"around": Constant(1.0), "variation": 0.0}, "variation"),
    ],
)
def test_a_cost_that_no_device_has_is_refused(kind: Any, given_: Any, name: str) -> None:
    """In one line, which names the setting, its value and what it must be."""
    with pytest.raises(SettingError, match=f"^{name} is .+; it must be .+$"):
        kind(**given_)
