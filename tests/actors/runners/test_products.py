"""Products of a few rows: right, alike where that is promised, stored once, and chosen by time."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any, Final

import pytest
import torch
from torch import Tensor

from pearl.actors.runners import choosing, products
from pearl.actors.runners.choosing import FEW, MANY, choose
from pearl.actors.runners.orders import ORDERS, Kernel, StorageOrder
from pearl.actors.runners.products import Product, Products

SHAPES: Final = {(96, 64): 3, (64, 96): 3, (48, 32): 2, (50, 33): 1, (24, 1536): 1}
"""One whose rows are no whole vectors, and one with rows so long that kernels divide them."""
DTYPES: Final = (torch.float32, torch.bfloat16, torch.int8)
ERRORS: Final = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.int8: 1e-2}
ROWS: Final = (*range(1, 20), 33, MANY, 100)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    error = torch.linalg.vector_norm(found.double() - expected)
    return bool(error <= ERRORS[dtype] * torch.linalg.vector_norm(expected))


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = request.param
    return found


@pytest.fixture(params=[False, True], ids=["free", "same-rounding"])
def same(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_those_of_the_weights_that_are_kept(
    shape: tuple[int, int], dtype: torch.dtype, *, same: bool
) -> None:
    made = Products(SHAPES, dtype=dtype, same_rounding=same)
    weight = _random(*shape)
    kept, product = made.kept(weight).double(), made.of(weight)

    for rows in ROWS:
        x, onto = _random(rows, shape[1], seed=1), _random(rows, shape[0], seed=2)
        expected = x.double() @ kept.t()
        assert _close(product(x), expected, dtype)
        assert _close(product(x, onto), expected + onto, dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_has_the_same_bits_however_many_rows_there_are(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    product = Products(SHAPES, dtype=dtype, same_rounding=True).of(_random(*shape))
    x, onto = _random(MANY, shape[1], seed=1), _random(MANY, shape[0], seed=2)
    alone = torch.cat([product(x[i : i + 1], onto[i : i + 1]) for i in range(MANY)])

    for rows in range(1, MANY + 1):
        assert torch.equal(product(x[:rows], onto[:rows]), alone[:rows])
        assert torch.equal(product(x[-rows:], onto[-rows:]), alone[-rows:])


def test_results_are_float32_in_rows_and_nothing_given_changes(
    dtype: torch.dtype, *, same: bool
) -> None:
    product = Products(SHAPES, dtype=dtype, same_rounding=same).of(_random(96, 64))
    for rows in (1, 3, FEW, MANY):
        x, onto = _random(rows, 64, seed=1), _random(rows, 96, seed=2)
        before = x.clone(), onto.clone()
        for y in (product(x), product(x, onto)):
            assert (y.dtype, y.shape) == (torch.float32, (rows, 96))
            assert y.is_contiguous()

        assert torch.equal(x, before[0])
        assert torch.equal(onto, before[1])


@pytest.mark.parametrize("order", [each for found in ORDERS.values() for each in found])
def test_every_order_has_kernels_that_multiply(order: StorageOrder) -> None:
    dtype = next(dtype for dtype, found in ORDERS.items() if order in found)
    inner = 64 if order.fits(64) else 65
    weight, x = _random(96, inner), _random(5, inner, seed=1)
    stored = order.store(weight)

    for kernel in order.kernels:
        assert _close(kernel.multiply(x, stored), x.double() @ weight.double().t(), dtype)


class FakeClock:
    """Stands still but when a kernel says how long it took."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def kernel(
        self,
        name: str,
        seconds: Callable[[int], float],
        error: Callable[[int], Tensor | float] = lambda _: 0.0,
    ) -> Kernel:
        """A kernel that takes so long for so many rows, and is wrong by so much."""

        def multiply(x: Tensor, weights: Tensor) -> Tensor:
            self.now += seconds(len(x))
            return torch.mm(x, weights.t()).round() + error(len(x))

        return Kernel(name, multiply)


def _order(name: str, *kernels: Kernel) -> StorageOrder:
    return StorageOrder(name, lambda weight: weight, kernels)


def _plan(clock: FakeClock, *orders: StorageOrder, same: bool = False) -> choosing.Plan:
    shape = (8, 6)
    found = choose({shape: 2}, orders, same_rounding=same, weight_bytes=4, clock=clock)
    return found[shape]


def _names(plan: choosing.Plan) -> list[str]:
    return [way.kernel.name for way in plan.ways]


def test_the_order_is_the_one_with_the_least_time_over_all_numbers_of_rows() -> None:
    clock = FakeClock()
    flat = clock.kernel("flat", lambda rows: 2.0 + 0.1 * rows)
    steep = clock.kernel("steep", float)

    assert _plan(clock, _order("a", steep), _order("b", flat)).order.name == "b"
    assert _plan(clock, _order("b", flat), _order("a", steep)).order.name == "b"


def test_each_number_of_rows_has_the_kernel_that_is_fastest_for_it() -> None:
    clock = FakeClock()
    few = clock.kernel("few", lambda rows: 1.0 if rows < 5 else 9.0)
    more = clock.kernel("more", lambda rows: 2.0 if rows <= FEW else 9.9)
    many = clock.kernel("many", lambda rows: 8.0 if rows > FEW else 9.8)

    plan = _plan(clock, _order("one", few, more, many))

    assert _names(plan) == ["few"] * 4 + ["more"] * 12 + ["many"]
    assert [way.least for way in plan.ways] == [*range(1, FEW + 1), 0]
    assert all(way.most is None for way in plan.ways)


def test_rows_are_padded_where_more_of_them_are_faster() -> None:
    clock = FakeClock()
    even = clock.kernel("even", lambda rows: 1.0 if rows in {4, 8, FEW, MANY} else 2.0)

    plan = _plan(clock, _order("one", even))

    assert [plan.ways[rows - 1].least for rows in (1, 3, 4, 5, 7, 8)] == [4, 4, 4, 8, 8, 8]


def test_a_kernel_whose_single_rows_round_differently_gets_two() -> None:
    clock = FakeClock()
    kernel = clock.kernel("one", lambda rows: 9.0 + rows, lambda rows: 1e-3 * (rows == 1))

    plan = _plan(clock, _order("one", kernel), same=True)

    assert [way.least for way in plan.ways] == [2, *range(2, FEW + 1), 0]
    assert _plan(clock, _order("one", kernel)).ways[0].least == 1


def test_an_order_is_judged_by_the_ways_that_agree() -> None:
    clock = FakeClock()
    fast = clock.kernel("fast", lambda rows: 1 + rows / 2, lambda rows: 1e-3 * rows)
    slow = clock.kernel("slow", lambda _: 3.0)

    orders = _order("fast", fast), _order("slow", slow)

    assert set(_names(_plan(clock, *orders))) == {"fast"}
    assert set(_names(_plan(clock, *orders, same=True))) == {"slow"}


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(lambda rows: 1e-3 * rows, id="by-the-number-of-rows"),
        pytest.param(lambda rows: 1e-3 * torch.arange(rows)[:, None], id="by-the-place"),
    ],
)
def test_where_nothing_agrees_rows_are_multiplied_one_by_one(error: Callable[[int], Any]) -> None:
    clock = FakeClock()
    order = _order("one", clock.kernel("one", lambda _: 1.0, error))
    plan = _plan(clock, order, same=True)
    product = Product(_random(8, 6), plan, same_rounding=True)
    x = _random(MANY, 6, seed=1)

    together = product(x)

    assert len(product(x[:3])) == 3
    assert torch.equal(together, torch.cat([product(row[None]) for row in x]))


def test_an_order_that_this_machine_does_not_have_is_passed_over() -> None:
    def refuse(*_: Any) -> Any:
        message = "not built"
        raise RuntimeError(message)

    clock = FakeClock()
    kernel = clock.kernel("slow", float)
    no_store = StorageOrder("no store", refuse, (kernel,))
    no_kernel = _order("no kernel", Kernel("refuses", refuse))

    assert _plan(clock, no_store, no_kernel, _order("plain", kernel)).order.name == "plain"


def test_matrices_are_timed_until_no_cache_holds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that fits one is timed as a whole, and a large one by its share of each shape."""
    monkeypatch.setattr(choosing, "_enough_bytes", lambda: 10 * 8 * 6 * 4)
    stored = []

    def store(weight: Tensor) -> Tensor:
        stored.append(tuple(weight.shape))
        return weight

    def numbers(shapes: dict[tuple[int, int], int]) -> dict[tuple[int, int], int]:
        stored.clear()
        order = StorageOrder("one", store, (clock.kernel("one", float),))
        choose(shapes, [order], same_rounding=False, weight_bytes=4, clock=clock)
        return {shape: stored.count(shape) for shape in shapes}

    clock = FakeClock()

    assert numbers({(8, 6): 3, (6, 8): 2}) == {(8, 6): 3, (6, 8): 2}
    assert numbers({(8, 6): 30, (6, 8): 10}) == {(8, 6): 8, (6, 8): 2}


def test_what_was_measured_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def count(shapes: Any, orders: Any, **settings: Any) -> Any:
        measured.append(shapes)
        return choose(shapes, orders, **settings)

    monkeypatch.setattr(products, "choose", count)
    for _ in range(2):
        Products({(8, 16): 2, (7, 16): 1}, dtype=torch.float32, same_rounding=False)
        Products({(7, 16): 1, (8, 16): 2}, dtype=torch.float32, same_rounding=False)

    assert measured == [{(7, 16): 1, (8, 16): 2}]


def test_measuring_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()

    Products({(9, 16): 2}, dtype=torch.float32, same_rounding=True)

    assert torch.equal(torch.get_rng_state(), before)


def test_a_product_does_not_hold_the_weights_that_it_was_given(dtype: torch.dtype) -> None:
    weight = _random(96, 64)
    given = weakref.ref(weight)

    product = Products(SHAPES, dtype=dtype, same_rounding=True).of(weight)
    del weight
    gc.collect()

    assert given() is None
    assert product(_random(1, 64)).shape == (1, 96)
    assert torch.is_inference(product(_random(1, 64))) is False


def test_weights_that_come_as_they_are_kept_are_not_copied() -> None:
    weight = _random(96, 64)
    order = next(each for each in ORDERS[torch.float32] if each.name == "as they come")

    assert order.store(weight).data_ptr() == weight.data_ptr()


def test_a_row_of_zeros_is_zeros_in_bytes_too() -> None:
    weight = _random(96, 64)
    weight[5] = 0
    made = Products(SHAPES, dtype=torch.int8, same_rounding=True)

    assert made.kept(weight)[5].eq(0).all()
    assert made.of(weight)(_random(3, 64))[:, 5].eq(0).all()


def test_bytes_are_the_nearest_to_each_weight() -> None:
    weight = _random(96, 64)
    kept = Products(SHAPES, dtype=torch.int8, same_rounding=True).kept(weight)

    steps = weight.abs().amax(dim=1, keepdim=True) / 127

    assert ((kept - weight).abs() <= 0.5001 * steps).all()
