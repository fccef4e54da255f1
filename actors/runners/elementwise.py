"""Functions of single numbers, of which the same number always gets the same bits.

A kernel takes many numbers at once, by an approximation of its own, and those that are left over at
the end one by one, by the function of the system's library. The two may differ in the last bit. So
what a number gets depends on where it stands: at the end of a row, or where the share of a thread
ends. Here rows are taken in pieces that no threads share, and one by one where their width leaves
something over.

May import: torch.
Must never: know what is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

TOGETHER: Final = 32
"""Numbers; every kernel takes so many, or a part of it, at once."""
SERIAL: Final = 1023 * TOGETHER
"""Numbers; torch gives no more than 32,768 to one thread, however many threads there are."""


def serially(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function of single numbers, over (rows, width) in such pieces."""

    def in_pieces(x: Tensor) -> Tensor:
        rows, width = x.shape
        if width > SERIAL:
            lines = [[function(part) for part in torch.split(row, SERIAL)] for row in x]
            return torch.stack([torch.cat(parts) for parts in lines])
        # Rows that lie end to end are one long row to a kernel.
        at_once = 1 if x.is_contiguous() and width % TOGETHER else SERIAL // width
        if rows <= at_once:
            return function(x)
        return torch.cat([function(part) for part in torch.split(x, at_once)])

    return in_pieces
