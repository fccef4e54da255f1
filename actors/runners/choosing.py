"""Which order of a matrix's weights, and which kernel for how many rows: found by measuring.

Theory of operation. Some matrices of every shape of a model are stored in each order, and
multiplied one after the other as a pass does: so what does not fit the cache comes from memory, as
it will. That is timed with every number of rows that has a way of its own. A way is a kernel and
the number of rows that it is run with: three rows are padded to four where four are faster. The
order is the one whose ways take the least time, weighed by how often so many rows occur.

Same rounding. A kernel may add in another order when it has more rows, and then a token's result
depends on what stands beside it in a pass. Where this must not be, kernels are first run with all
numbers of rows, and only ways whose results are the same to the last bit are put together: those
that take the least time. A number of rows for which there is none is padded, or divided into parts
for which there is one. One row at a time always agrees with itself.

May import: torch.
Must never: keep weights, or touch torch's random state.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, final

import torch
from torch import Tensor

from pearl.actors.runners.orders import Kernel, StorageOrder

FEW: Final = 16
"""The largest number of rows with a way of its own."""
MANY: Final = 64
"""Rows that stand for all above."""
TIMED: Final = (1, 2, 3, 4, 5, 6, 8, FEW, MANY)
ALIKE: Final = (*range(1, FEW + 1), MANY)
"""Rows for which results are compared."""
BETWEEN: Final = (FEW + 1, 100)
"""More rows for which they must be the same, for those of `MANY` to be."""
WEIGHED: Final[Mapping[int, float]] = {1: 8, 2: 1, 4: 2, 8: 2, 16: 1}
"""How often so many rows occur, roughly: single tokens; windows; windows of several requests."""
PADDED: Final = 1.05
"""Padding must save more than what may be chance,"""
PADDING: Final = 4e-6
"""and more than it takes: seconds of two small kernels."""
ROUNDS: Final = 3
HOPELESS: Final = 1.3
"""Times the best of a round: is not tried again."""
MEBIBYTE: Final = 1 << 20
LEAST_BYTES: Final = 64 * MEBIBYTE
MOST_BYTES: Final = 256 * MEBIBYTE
WARM_BYTES: Final = 16 * MEBIBYTE
"""Matrices that are less together stay in a cache from pass to pass, so they are walked through
several times for one: until it is as much, and at most so many times."""
MOST_WALKS: Final = 4
LARGEST_BYTES: Final = 16 * MEBIBYTE
"""Of a larger matrix the first rows are enough."""
SEED: Final = 1

Shape = tuple[int, int]
"""(out, in)"""
Case = tuple[Kernel, int]
"""A kernel, and a number of rows that it is run with."""


class RowWay(NamedTuple):
    """How to multiply a number of rows."""

    kernel: Kernel
    least: int
    """Fewer rows are padded to so many; 0: they are not."""
    most: int | None = None
    """More rows are divided into parts of so many; None: they are not."""


class Plan(NamedTuple):
    """How a matrix is stored and multiplied."""

    order: StorageOrder
    ways: tuple[RowWay, ...]
    """By the number of rows, from 1 to `FEW`; the last is for all above."""
    cost: float
    """Seconds, weighed."""


def choose(
    shapes: Mapping[Shape, int],
    orders: Sequence[StorageOrder],
    *,
    same_rounding: bool,
    weight_bytes: int,
    clock: Callable[[], float],
) -> dict[Shape, Plan]:
    """A plan for each shape.

    Args:
        shapes: and how many matrices of it a model has.
        orders: to choose from; one that this machine does not have is passed over.
        same_rounding: whether a row's result must not depend on how many rows there are.
        weight_bytes: of one weight, as it is kept.
        clock: seconds.
    """
    random = torch.Generator().manual_seed(SEED)
    numbers = _numbers(shapes, weight_bytes)
    benches = []
    for order in orders:
        fitting = {shape: number for shape, number in numbers.items() if order.fits(shape[1])}
        try:
            benches.append(Bench(order, fitting, weight_bytes, random))
        except RuntimeError:  # a kernel that was not built, or not for this processor
            continue
    _time(benches, list(shapes), clock)
    return {shape: _plan(shape, benches, same_rounding=same_rounding) for shape in shapes}


def _time(benches: Sequence[Bench], shapes: Sequence[Shape], clock: Callable[[], float]) -> None:
    """Rounds over all cases; after each of them those that may be part of the best plan."""
    for bench in benches:
        for case in bench.hopeful:
            bench.warm(case)
    for number in range(ROUNDS):
        for bench in benches:
            # The first of them find another's matrices in the cache, so next time they are last.
            for case in bench.hopeful[:: -1 if number % 2 else 1]:
                bench.time(case, clock)
        costs = [{shape: bench.free(shape).cost for shape in bench.seconds} for bench in benches]
        least = {shape: min(found.get(shape, math.inf) for found in costs) for shape in shapes}
        benches = [
            bench
            for bench, found in zip(benches, costs, strict=True)
            if any(cost < HOPELESS * least[shape] for shape, cost in found.items())
        ]
        for bench in benches:
            bench.drop_hopeless()


def _plan(shape: Shape, benches: Sequence[Bench], *, same_rounding: bool) -> Plan:
    """The fastest of all orders, each with all its kernels, or with those that agree."""
    fitting = [bench for bench in benches if shape in bench.seconds]
    free = [bench.free(shape) for bench in fitting]
    if not same_rounding:
        return min(free, key=_cost)
    bound = sorted(zip(free, fitting, strict=True), key=lambda pair: pair[0].cost)
    best: Plan | None = None
    for least, bench in bound:
        if best is not None and best.cost <= least.cost:
            break
        groups = bench.alike(shape)
        plans = [_ways(bench.order, group, bench.seconds[shape]) for group in groups]
        best = min([*plans, *([best] if best else [])], key=_cost)
    assert best is not None
    return best


def _cost(plan: Plan) -> float:
    return plan.cost


def _ways(order: StorageOrder, group: Sequence[Case], seconds: Mapping[Case, float]) -> Plan:
    """The fastest ways made of these cases."""
    found = [_way(rows, group, seconds) for rows in (*range(1, FEW + 1), MANY)]
    cost = sum(weight * found[rows - 1][0] for rows, weight in WEIGHED.items())
    return Plan(order, tuple(way for _, way in found), cost)


def _way(rows: int, group: Sequence[Case], seconds: Mapping[Case, float]) -> tuple[float, RowWay]:
    """The fastest way for so many rows, and its seconds."""
    options = [
        (_padded(_of(case, seconds), case[1] - rows), RowWay(case[0], case[1] % MANY))
        for case in group
        if rows <= case[1] and (rows > FEW or case[1] <= FEW)
    ]
    if not options:
        options = [
            (_of(case, seconds) * math.ceil(rows / case[1]), RowWay(case[0], case[1], case[1]))
            for case in group
        ]
    return min(options, key=lambda option: option[0])


def _padded(seconds: float, missing: int) -> float:
    return PADDED * seconds + PADDING if missing else seconds


def _of(case: Case, seconds: Mapping[Case, float]) -> float:
    """Seconds of a case, or on the line between those next to it."""
    if case in seconds:
        return seconds[case]
    kernel, rows = case
    below = max(each for each in TIMED if each < rows)
    above = min(each for each in TIMED if each > rows)
    part = (rows - below) / (above - below)
    return (1 - part) * seconds[kernel, below] + part * seconds[kernel, above]


@final
class Bench:
    """Matrices in one order, and what was measured of them."""

    def __init__(
        self,
        order: StorageOrder,
        shapes: Mapping[Shape, int],
        weight_bytes: int,
        random: torch.Generator,
    ) -> None:
        """Store so many of each shape.

        Raises:
            RuntimeError: torch cannot, on this machine.
        """
        self.order = order
        self.cases = _cases(order, ALIKE)
        self.hopeful = _cases(order, TIMED)
        self.seconds: dict[Shape, dict[Case, float]] = {shape: {} for shape in shapes}
        self._stored: dict[Shape, list[Any]] = {}
        for (out, inner), number in shapes.items():
            rows = min(out, max(1, LARGEST_BYTES // (inner * weight_bytes)))
            source = _opposed(torch.randn(rows, inner, generator=random), sign=-1)
            self._stored[out, inner] = [order.store(source.clone()) for _ in range(number)]
        size = sum(number * weight_bytes * math.prod(each) for each, number in shapes.items())
        self._walks = min(MOST_WALKS, max(1, WARM_BYTES // max(size, 1)))
        self._inputs = {
            inner: _opposed(torch.randn(max(BETWEEN), inner, generator=random), sign=1)
            for _, inner in shapes
        }
        for kernel in order.kernels:
            self.warm((kernel, 1))

    def free(self, shape: Shape) -> Plan:
        """The fastest plan, whatever the rounding."""
        return _ways(self.order, self.cases, self.seconds[shape])

    def drop_hopeless(self) -> None:
        """Time no case again that another one of this order beats by far for all shapes.

        Nor one of many rows: it takes so long that once is enough.
        """
        least: dict[tuple[Shape, int], float] = {}
        for shape, found in self.seconds.items():
            for (_, rows), seconds in found.items():
                least[shape, rows] = min(seconds, least.get((shape, rows), math.inf))
        self.hopeful = [
            case
            for case in self.hopeful
            if case[1] != MANY
            and any(
                seconds[case] < HOPELESS * least[shape, case[1]]
                for shape, seconds in self.seconds.items()
            )
        ]

    def warm(self, case: Case) -> None:
        """Multiply once: a kernel may be made the first time."""
        kernel, rows = case
        for (_, inner), stored in self._stored.items():
            kernel.multiply(self._inputs[inner][:rows], stored[0])

    def time(self, case: Case, clock: Callable[[], float]) -> None:
        """Walk through all matrices; of several times the least counts."""
        kernel, rows = case
        inputs = {inner: x[:rows] for inner, x in self._inputs.items()}
        for _ in range(self._walks):
            sums = dict.fromkeys(self.seconds, 0.0)
            for shape, stored in self._walk():
                x = inputs[shape[1]]
                began = clock()
                kernel.multiply(x, stored)
                sums[shape] += clock() - began
            for shape, seconds in self.seconds.items():
                mean = sums[shape] / len(self._stored[shape])
                seconds[case] = min(seconds.get(case, math.inf), mean)

    def alike(self, shape: Shape) -> list[list[Case]]:
        """Cases whose results agree with each other."""
        groups: dict[bytes, list[Case]] = {}
        for case in self.cases:
            found = self._result(shape, case)
            if found is not None:
                groups.setdefault(found, []).append(case)
        return list(groups.values())

    def _result(self, shape: Shape, case: Case) -> bytes | None:
        """The bits of a row's result, or None if they depend on its place.

        All rows are the same one: none of them can change what another gives. The exact result is
        0, so what is left are the errors of all the sums: another order leaves others.
        """
        kernel, rows = case
        stored = self._stored[shape][0]
        results = [
            kernel.multiply(row.expand(each, -1).contiguous(), stored)
            for each in (rows, *(BETWEEN if rows == MANY else ()))
            for row in self._inputs[shape[1]][:2]
        ]
        firsts = [results[0][:1], results[1][:1]]
        for number, result in enumerate(results):
            if not torch.equal(result, firsts[number % 2].expand_as(result)):
                return None
        return torch.cat(firsts).to(torch.float32).numpy().tobytes()

    def _walk(self) -> Iterator[tuple[Shape, Any]]:
        """As a pass goes through layers."""
        for number in range(max(map(len, self._stored.values()), default=0)):
            for shape, stored in self._stored.items():
                if number < len(stored):
                    yield shape, stored[number]


def _cases(order: StorageOrder, numbers: Sequence[int]) -> list[Case]:
    return [(each, rows) for rows in numbers for each in order.kernels if rows >= each.least]


def _opposed(random: Tensor, *, sign: int) -> Tensor:
    """The second half like the first, or its negative: products of both kinds sum to 0."""
    half = random.shape[1] // 2
    random[:, half : 2 * half] = sign * random[:, :half]
    random[:, 2 * half :] = 0
    return random


def _numbers(shapes: Mapping[Shape, int], weight_bytes: int) -> dict[Shape, int]:
    """How many matrices of each shape are enough: all, or as many as no cache holds."""
    size = {shape: weight_bytes * math.prod(shape) for shape in shapes}
    total = sum(count * min(size[shape], LARGEST_BYTES) for shape, count in shapes.items())
    share = min(1.0, _enough_bytes() / total)
    return {shape: max(1, round(count * share)) for shape, count in shapes.items()}


def _enough_bytes() -> int:
    """So many that they come from memory when they are read in turn."""
    names = getattr(os, "sysconf_names", {})
    cache = os.sysconf("SC_LEVEL3_CACHE_SIZE") if "SC_LEVEL3_CACHE_SIZE" in names else 0
    return min(MOST_BYTES, max(LEAST_BYTES, 3 * cache))
