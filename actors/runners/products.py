"""Products of a few rows with the matrices of a model, each in the way that is fastest here.

    products = Products({(960, 576): 30, (576, 576): 30}, dtype=torch.bfloat16)
    attention = products.of(weight)  # (out, in); what is kept is a copy in another order
    y = attention(x)  # (rows, in) -> (rows, out), in float32

What is fastest is measured once for a set of shapes, in some hundred milliseconds, and known for
the rest of the process (`choosing`); the ways are in `orders`.

May import: torch.
Must never: know what a matrix is for, or keep its weights twice.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, final

import torch
from torch import Tensor

from pearl.actors.runners.choosing import FEW, Plan, RowWay, Shape, choose
from pearl.actors.runners.orders import ORDERS, rounded

_measuring: Final = threading.Lock()


@final
class Product:
    """x @ weight.T for one matrix."""

    def __init__(self, weight: Tensor, plan: Plan, *, same_rounding: bool) -> None:
        self.order = plan.order.name
        self._stored = plan.order.store(weight)
        self._ways = plan.ways
        self._same_rounding = same_rounding

    def __call__(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """Multiply.

        Args:
            x: (rows, in), float32.
            onto: (rows, out), float32: is added.
        Returns: (rows, out), float32.
        """
        rows = x.size(0)
        kernel, least, most = self._ways[min(rows, FEW + 1) - 1]
        if rows < least or most is not None:
            y = self._padded(x, RowWay(kernel, least, most))
        elif onto is not None and kernel.onto is not None and not self._same_rounding:
            return kernel.onto(onto, x, self._stored)
        else:
            y = kernel.multiply(x, self._stored)
        if onto is not None:
            return torch.add(onto, y)
        return y if y.dtype is torch.float32 else y.to(torch.float32)

    def at(self, rows: int) -> Product | Callable[..., Tensor]:
        """The same for exactly so many rows, without what it takes to look up their way."""
        kernel, least, most = self._ways[min(rows, FEW + 1) - 1]
        if rows < least or most is not None:
            return self
        stored, multiply = self._stored, kernel.multiply
        added = None if self._same_rounding else kernel.onto

        def product(x: Tensor, onto: Tensor | None = None) -> Tensor:
            if onto is not None and added is not None:
                return added(onto, x, stored)
            y = multiply(x, stored)
            if onto is not None:
                return torch.add(onto, y)
            return y if y.dtype is torch.float32 else y.to(torch.float32)

        return product

    def _padded(self, x: Tensor, way: RowWay) -> Tensor:
        """With exactly as many rows as the way has, several times if there are more."""
        rows = x.size(0)
        if rows <= way.least:
            return way.kernel.multiply(_filled(x, way.least), self._stored)[:rows]
        return torch.cat([self._padded(part, way) for part in torch.split(x, way.least)])


def _filled(x: Tensor, rows: int) -> Tensor:
    missing = rows - x.size(0)
    return x if missing == 0 else torch.cat((x, x.new_zeros(missing, x.size(1))))


@final
class Products:
    """Makes the products of one model.

    Args:
        shapes: (out, in) of its matrices, and how many of each there are.
        dtype: of the weights that are kept: float32, bfloat16, or int8, which means bytes with a
            scale for each row.
        same_rounding: whether a row's result must be the same however many rows there are.
    """

    def __init__(
        self, shapes: Mapping[Shape, int], *, dtype: torch.dtype, same_rounding: bool
    ) -> None:
        self.dtype = dtype
        self.same_rounding = same_rounding
        with _measuring:  # not while another model's are measured
            self._plans = _chosen(
                tuple(sorted(shapes.items())),
                dtype,
                torch.get_num_threads(),
                same_rounding=same_rounding,
            )

    def of(self, weight: Tensor) -> Product:
        """A product with a matrix (out, in) of one of the shapes, whatever its dtype."""
        out, inner = weight.shape
        return Product(weight, self._plans[out, inner], same_rounding=self.same_rounding)

    def kept(self, weight: Tensor) -> Tensor:
        """What is kept of a matrix, in float32: weights that a library's model may be given."""
        if self.dtype == torch.int8:
            return rounded(weight)
        return weight.detach().to(self.dtype).to(torch.float32)


@functools.cache
def _chosen(
    shapes: tuple[tuple[Shape, int], ...],
    dtype: torch.dtype,
    threads: int,
    *,
    same_rounding: bool,
) -> Mapping[Shape, Plan]:
    del threads  # a plan is for so many
    with torch.inference_mode():
        return choose(
            dict(shapes),
            ORDERS[dtype],
            same_rounding=same_rounding,
            weight_bytes=dtype.itemsize,
            clock=time.perf_counter,
        )
