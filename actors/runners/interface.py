"""What a device host asks of a model: feed tokens at positions, get logits back.

A runner holds one model and its cache. The cache has *rows*, one per sequence; a row is written
at explicit positions, so going back is nothing but feeding again at an earlier start. The hosts
know this file and never the libraries behind it.

May import: the standard library; torch for types only.
Must never: load anything, hold state, or know which library runs the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """Tokens to read for one sequence: `tokens[i]` is written at position `start + i` of `row`.

    Whatever the row held from `start` on is forgotten: that is the rollback, and it costs nothing.
    """

    row: int
    start: int
    tokens: Sequence[int]
    """At least one."""
    logits: int
    """How many of the last positions need their logits, 0 to len(tokens)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerStatistics:
    """What a runner has done and what it holds, at one moment."""

    passes: int
    """Forwards of the model; one call of `forward` may take several."""
    tokens: int
    """Tokens read for feeds; padding is not counted."""
    padding: int
    """Tokens read only to make a batch rectangular, or for rows that were idle."""
    rows: int
    """Rows in use."""
    cache_bytes: int
    """Memory of the cache, in use or not."""


class Runner(Protocol):
    """One model with a cache of many rows."""

    @property
    def vocab_size(self) -> int:
        """Width of the logits; every token fed is below it."""
        ...

    @property
    def positions(self) -> int:
        """Length of the longest sequence that the model can hold."""
        ...

    def allocate(self, length: int) -> int:
        """Take a free row with room for `length` positions; more room is made when it is needed.

        Raises:
            PromptError: the model has fewer than `length` positions.
            PlacementError: the device has no memory for it.
        """
        ...

    def release(self, row: int) -> None:
        """Give a row back.

        Raises:
            ProtocolError: the row is not in use.
        """
        ...

    def forward(self, feeds: Sequence[Feed]) -> list[Tensor]:
        """Read all feeds; for each, in order, the logits of its last positions.

        Returns: one float32 tensor (feed.logits, vocab_size) per feed, on the model's device. They
            are inference tensors: read them, do not change them in place.
        Raises:
            ProtocolError: a row is not in use or fed twice, a start leaves a hole, a token is not
                in the vocabulary; nothing was changed.
            PromptError: a sequence would outgrow `positions`; nothing was changed.
        """
        ...

    def statistics(self) -> RunnerStatistics:
        """What was done so far, and what is held now."""
        ...
