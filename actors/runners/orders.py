"""How the weights of a matrix can lie in memory, and what multiplies them there.

A pass over a few tokens is a race through all weights, and which order of theirs is the fastest
depends on the processor, on how many rows there are and on whether they come from a cache. Every
`StorageOrder` here is one that is the fastest somewhere; `choosing` finds out where this is.

    by input        (in, out), as `x @ weights` reads them: little around each product, so it is
                    the one for small matrices that stay in a cache
    as they come    (out, in), as in the file; a product of one row reads them well everywhere
    packed          in blocks, as oneDNN's kernels read them: the fastest from memory
    a byte each     integers (out, in), and one scale for each row of them

Kernels take float32. Those for bfloat16 and bytes round what they are given to bfloat16, multiply
with sums in float32, and round each sum to bfloat16.

May import: torch.
Must never: choose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

BLOCK: Final = 64
"""Rows that oneDNN packs for. From about 32 on its order is good for many rows and for few; packed
for one it is of no use for two."""
LARGEST: Final = 127
"""The largest byte of a weight."""
VECTOR: Final = 16
"""A row of bytes is read in steps of so many; the kernel does not check."""

Multiply: TypeAlias = Callable[[Tensor, Any], Tensor]
"""(rows, in) and what is stored -> (rows, out), in float32 or bfloat16."""


class Kernel(NamedTuple):
    """A way to multiply."""

    name: str
    multiply: Multiply
    onto: Callable[[Tensor, Tensor, Any], Tensor] | None = None
    """The same and a sum, (rows, out) first, where that is one step; the rounding differs."""
    least: int = 1
    """It is of no use for fewer rows."""


class StorageOrder(NamedTuple):
    """A way to lie in memory; weights in it are stored once, for all its kernels."""

    name: str
    store: Callable[[Tensor], Any]
    """(out, in) -> what the kernels take."""
    kernels: tuple[Kernel, ...]
    fits: Callable[[int], bool] = lambda _: True
    """Whether rows of so many weights can be stored."""


class Bytes(NamedTuple):
    """Weights as bytes: row i is `scales[i] * values[i]`."""

    values: Tensor
    """(out, in), int8."""
    scales: Tensor
    """(out,), float32."""
    ones: Tensor
    """(out,), bfloat16: scales for a kernel that would round them."""


def as_bytes(weight: Tensor) -> Bytes:
    """The nearest bytes to weights (out, in), with one scale a row."""
    wide = weight.detach().to(torch.float32)
    scales = wide.abs().amax(dim=1).div_(LARGEST)
    steps = scales.clamp(min=torch.finfo(torch.float32).tiny)
    values = (wide / steps[:, None]).round_().to(torch.int8)
    return Bytes(values, scales, torch.ones(len(scales), dtype=torch.bfloat16))


def rounded(weight: Tensor) -> Tensor:
    """Weights (out, in) as their bytes say them, in float32."""
    found = as_bytes(weight)
    return found.values * found.scales[:, None]


def _last(x: Tensor, weights: Tensor) -> Tensor:
    return torch.mm(weights, x.t()).t().contiguous()


def _packed(x: Tensor, weights: Any) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weights, None, "none", [], "")  # noqa: SLF001
    return y


def _pack(weight: Tensor) -> Any:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), BLOCK)  # noqa: SLF001


def _narrowed(multiply: Multiply) -> Multiply:
    return lambda x, weights: multiply(x.to(torch.bfloat16), weights)


def _scaled(x: Tensor, weights: Bytes) -> Tensor:
    y = torch._weight_int8pack_mm(x.to(torch.bfloat16), weights.values, weights.ones)  # noqa: SLF001
    return y * weights.scales


def _widened(x: Tensor, weights: Bytes) -> Tensor:
    """For many rows: the matrix is made bfloat16 for the time of one product."""
    y = functional.linear(x.to(torch.bfloat16), weights.values.to(torch.bfloat16))
    return y * weights.scales


def _scaled_linear(x: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    return functional.linear(x.to(torch.bfloat16), weights[0]) * weights[1]


def _widen_bytes(weight: Tensor) -> tuple[Tensor, Tensor]:
    found = as_bytes(weight)
    return found.values.to(torch.bfloat16), found.scales


def _narrow_weights(weight: Tensor) -> Tensor:
    return weight.detach().to(torch.bfloat16)


def _wide_weights(weight: Tensor) -> Tensor:
    return weight.detach().to(torch.float32)


ORDERS: Final[Mapping[torch.dtype, tuple[StorageOrder, ...]]] = {
    torch.float32: (
        StorageOrder(
            "by input",
            lambda weight: _wide_weights(weight).t().contiguous(),
            (Kernel("x W", torch.mm, torch.addmm),),
        ),
        StorageOrder(
            "as they come",
            _wide_weights,
            (Kernel("W x", _last), Kernel("linear", functional.linear)),
        ),
        StorageOrder(
            "packed", lambda weight: _pack(_wide_weights(weight)), (Kernel("oneDNN", _packed),)
        ),
    ),
    torch.bfloat16: (
        StorageOrder(
            "as they come",
            _narrow_weights,
            (Kernel("linear", _narrowed(functional.linear)),),
        ),
        StorageOrder(
            "packed",
            lambda weight: _pack(_narrow_weights(weight)),
            (Kernel("oneDNN", _narrowed(_packed)),),
        ),
    ),
    torch.int8: (
        StorageOrder(
            "a byte each",
            as_bytes,
            (Kernel("bytes", _scaled), Kernel("widened", _widened, least=16)),
            lambda inner: inner % VECTOR == 0,
        ),
        StorageOrder(
            "bytes as bfloat16",
            _widen_bytes,
            (Kernel("linear", _scaled_linear),),
            lambda inner: inner % VECTOR != 0,
        ),
    ),
}
"""By the dtype of the weights that are kept."""
