"""Which earlier positions a token may attend to, as the 4-D masks that transformers' models accept.

Layers come in kinds: in a layer of full attention a token sees all positions up to its own, in one
of sliding attention the last `window` of them. A model whose layers are all of one kind takes one
mask, a model of several kinds takes a dict of them.

One row needs no arithmetic. Its mask depends only on start - position, so it is a slice of a band
made once: column `reach + j` of line `i` says whether the i-th of the new tokens sees position
`start + j`. Many rows of different length get a mask computed from the place of each token.

May import: torch.
Must never: know rows, feeds or models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

MaskArgument = Tensor | dict[str, Tensor]

# A pass that judges a window has rarely more tokens; longer ones are prefills, and a mask computed
# by the model itself is then nothing beside the pass.
FEW_TOKENS = 64
BEHIND = 512
"""Positions behind a text that a pass may see, so that it has a round number of them."""


@final
class Masks:
    """The masks of one model."""

    def __init__(
        self, windows: Mapping[str, int | None], *, additive: bool, dtype: torch.dtype, device: str
    ) -> None:
        """Remember the kinds.

        Args:
            windows: for each kind of layer the number of positions it sees, None for all.
            additive: whether attention adds the mask to its scores (eager attention), so that even
                one token that sees everything needs one.
            dtype, device: of the scores.
        """
        self._windows = dict(windows)
        self._additive = additive
        self._dtype, self._device = dtype, device
        # Attention kernels of a GPU want their mask aligned in memory, which a slice is not.
        self._slices = device == "cpu"
        self._narrowest = min((w for w in windows.values() if w is not None), default=None)
        self._reach = 0
        self._bands: dict[str, Tensor] = {}

    def alone(self, start: int, tokens: int) -> MaskArgument | None:
        """The mask of one row, (1, 1, tokens, start + tokens) for each kind.

        Returns: None where the model does better without: one token that sees everything needs no
            mask, a pass from position 0 has a faster kernel, a long one makes its own.
        """
        if start == 0 or tokens > FEW_TOKENS:
            return None
        if tokens == 1 and self._additive:
            return self._slice(start, 1, start + 1)
        return self.window(start, tokens, start + tokens)

    def window(self, start: int, tokens: int, used: int) -> MaskArgument | None:
        """The mask of a row's next tokens, at most `FEW_TOKENS`, in a range of `used` positions.

        Returns: (1, 1, tokens, used) for each kind; None where one token sees everything.
        """
        narrowed = self._narrowest is not None and used > self._narrowest
        if tokens == 1 and used == start + 1 and not narrowed:
            return None
        return self._slice(start, tokens, used)

    def _slice(self, start: int, tokens: int, used: int) -> MaskArgument:
        if start >= self._reach:
            self._extend(max(start + 1, 2 * self._reach, 256))
        left = self._reach - start
        masks = {
            kind: band[:, :, :tokens, left : left + used]  # (1, 1, tokens, used)
            for kind, band in self._bands.items()
        }
        if not self._slices:
            masks = {kind: mask.contiguous() for kind, mask in masks.items()}
        return self._one_or_dict(masks)

    def together(self, places: Tensor, used: int) -> MaskArgument:
        """The mask of many rows.

        Args:
            places: the position of each token, (rows, tokens), each below `used`.
            used: positions that attention sees.
        Returns: (rows, 1, tokens, used) for each kind.
        """
        keys = torch.arange(used, device=self._device)
        queries = places[:, None, :, None]  # (rows, 1, tokens, 1)
        return self._one_or_dict(self._masks(keys, queries))

    def _extend(self, reach: int) -> None:
        keys = torch.arange(-reach, FEW_TOKENS + BEHIND, device=self._device)
        queries = torch.arange(FEW_TOKENS, device=self._device)[None, None, :, None]
        self._bands = self._masks(keys, queries)  # (1, 1, FEW_TOKENS, as many as keys)
        self._reach = reach

    def _masks(self, keys: Tensor, queries: Tensor) -> dict[str, Tensor]:
        # Additive for every attention: a boolean mask would be turned into one at each layer.
        return {
            kind: self._added(_seen(keys, queries, window))
            for kind, window in self._windows.items()
        }

    def _added(self, seen: Tensor) -> Tensor:
        # The smallest number and not -inf: a line of nothing but -inf would become NaN.
        smallest = torch.finfo(self._dtype).min
        mask = torch.zeros(seen.shape, dtype=self._dtype, device=self._device)
        return mask.masked_fill_(~seen, smallest)

    def _one_or_dict(self, masks: dict[str, Tensor]) -> MaskArgument:
        return masks if len(masks) > 1 else next(iter(masks.values()))


def _seen(keys: Tensor, queries: Tensor, window: int | None) -> Tensor:
    seen = keys <= queries
    return seen if window is None else seen & (keys > queries - window)
