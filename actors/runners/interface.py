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
    slower: str = ""
    """Why a slower way is gone than there is for most models; empty where it is not."""
    same_rounding: bool = False
    """Whether a token's logits are the same bits whatever stands beside it in a pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Memory of a runner's cache, in bytes, at one moment."""

    needed: int
    """What a sequence of the length asked for takes when it is that long, and not before."""
    used: int
    """What the cache holds now; a sequence in use may still grow up to what it needs."""
    free: int | None
    """What the device has left for it, and for everything else; None: there is no telling."""


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
        """Take a free row for a sequence of at most `length` positions; it holds no memory yet.

        Raises:
            PromptError: the model has fewer than `length` positions.
        """
        ...

    def release(self, row: int) -> None:
        """Give a row back: its memory is free, and its next user finds nothing in it.

        Raises:
            ProtocolError: the row is not in use.
        """
        ...

    def room(self, length: int) -> Room:
        """What a sequence of `length` positions needs, and what there is: ask before `allocate`.

        It takes longer than a pass may wait (the system is asked for what is free): once a request.
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
            PlacementError: the device has no memory for what one of the feeds would write, and the
                message says how much; nothing was changed. The other feeds can be read alone.
        """
        ...

    def statistics(self) -> RunnerStatistics:
        """What was done so far, and what is held now."""
        ...
