"""Products of a few rows with a model's matrices, each in the way that is fastest here.

    products = Products(Counter({(960, 576): 30, (576, 576): 30}), dtype=torch.bfloat16)
    attention = products.of(weight)     # weight: (out, in); it may be dropped now
    y = attention(x)                    # x: (rows, in) in float32 -> (rows, out) in float32

May import: torch.
Must never: know what a matrix is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol, final

import torch
from torch import Tensor

BATCH: Final = 16


class Product(Protocol):
    """x @ weight.T."""

    def __call__(self, x: Tensor) -> Tensor:
        """(rows, in) -> (rows, out), both float32; x may also have the dtype of the weights."""
        ...


@final
class Packed:
    """Weights in the order of oneDNN's kernels."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(
            weight.detach().to(dtype).contiguous(), BATCH
        )

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(
            x.to(self._dtype), self._weight, None, "none", [], ""
        )
        return y.to(torch.float32)


@final
class Products:
    """Makes the products of one model.

    Args:
        shapes: (out, in) of its matrices, and how many there are of each.
        dtype: of the weights kept: float32, bfloat16, or int8 (rounded here, with a scale a row).
        same_rounding: a row's result does not depend on how many rows stand beside it.
    """

    def __init__(
        self, shapes: Mapping[tuple[int, int], int], *, dtype: torch.dtype, same_rounding: bool
    ) -> None:
        self._dtype = dtype

    def of(self, weight: Tensor) -> Product:
        """A product with one matrix (out, in); it keeps a copy in its own order."""
        return Packed(weight, self._dtype)
