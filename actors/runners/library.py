"""A model's forward as the library runs it: any architecture, at the library's own pace.

May import: torch, transformers (through the cache).
Must never: know rows and feeds beyond a `Passage`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, Final, final

import torch
from torch import Tensor

from pearl.actors.runners.cache import RowCache
from pearl.actors.runners.masks import MaskArgument, Masks

# Longer feeds are read in pieces: the scores and activations of a piece are all that a long prompt
# needs beside its cache.
PIECE: Final = 2048


@final
class LibraryForward:
    """A model's passes; `store` has the keys and values of its rows.

    `passage`: where the next pass reads and writes.
    `piece`: how many tokens of a row a pass takes.
    `most`: how many it takes of several rows together; None: any number.
    `takes_positions`: whether it takes the position of each token; otherwise it counts itself.
    """

    def __init__(self, model: Any, layers: Iterable[Any | None]) -> None:
        """Take a model and, for each of its layers, what `RowCache` takes."""
        accepted = inspect.signature(model.forward).parameters
        self.takes_positions = "position_ids" in accepted
        self.piece = PIECE
        self.most: int | None = None
        self.score_dtype: torch.dtype = model.dtype
        self._takes_keep = "logits_to_keep" in accepted
        self._model = model
        self.store = RowCache(layers)
        self.passage = self.store.passage

    def reach(self, length: int) -> None:
        """The model knows its positions itself."""

    def sees(self, length: int) -> int:
        """How many positions a pass sees where texts have so many."""
        return length

    def mask(self, masks: Masks, start: int, tokens: int) -> MaskArgument | None:
        """The mask of one row."""
        return masks.alone(start, tokens)

    def settle(self) -> None:
        """Store the weights as it reads them; for a model that stays with the library."""
        store_by_input(self._model)

    def __call__(
        self, ids: Tensor, places: Tensor, mask: MaskArgument | None, logits: int
    ) -> Tensor:
        """One pass.

        Args:
            ids: tokens, (rows, tokens).
            places: the position of each, (1 or rows, tokens).
            mask: as `Masks` gives it.
            logits: how many of the last tokens of each row need theirs.
        Returns: (rows, at least `logits` tokens, width of the vocabulary).
        """
        options: dict[str, Any] = {"position_ids": places} if self.takes_positions else {}
        if self._takes_keep:
            options["logits_to_keep"] = logits or 1  # 0 would mean all
        out = self._model(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=self.store.library,
            use_cache=True,
            **options,
        )
        found: Tensor = out.logits
        return found


def store_by_input(model: Any) -> None:
    """On a CPU, store matrices of float32 by input (in, out); what the model computes is the same.

    A product with a few rows then reads the matrix once, as one with a single row does. Stored the
    usual way the kernels repack it first: eight rows took 1.7 to 3 times as long as one, and take
    1.1 to 1.2 times as long (docs/speed.md). A head that shares its matrix with the embedding stays
    as it is: there, single rows are looked up.
    """
    modules = list(model.modules())
    looked_up = {id(each.weight) for each in modules if isinstance(each, torch.nn.Embedding)}
    for module in modules:
        if isinstance(module, torch.nn.Linear) and id(module.weight) not in looked_up:
            weight = module.weight
            if weight.device.type == "cpu" and weight.dtype == torch.float32:
                weight.data = weight.data.t().contiguous().t()
