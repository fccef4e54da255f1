"""When a request ends, and how much of a verdict may still be committed.

A request ends at the first committed end-of-sequence token, at the first token that completes a
stop string, or at the length limit, whichever comes first. The token that ends it is committed;
nothing after it is.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, TypeAlias, final

from decoding.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from decoding.messages import TokenId

    Detokenizer: TypeAlias = Callable[[Sequence[TokenId]], str]


class FinishReason(enum.StrEnum):
    """Why a request ended."""

    EOS = "eos"
    STOP = "stop"
    LENGTH = "length"


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StopRules:
    """The three ways to end.

    Args:
        limit: the most tokens to generate, at least 1.
        eos: ids of end-of-sequence tokens.
        strings: texts that end the request where they first appear.
        text: tokens to text; needed only where there are `strings`.
    """

    limit: int
    eos: frozenset[TokenId] = frozenset()
    strings: tuple[str, ...] = ()
    text: Detokenizer | None = None

    def admit(
        self, committed: Sequence[TokenId], new: Sequence[TokenId]
    ) -> tuple[tuple[TokenId, ...], FinishReason | None]:
        """The part of `new` that may follow `committed`, and why it ends there if it does."""
        room = self.limit - len(committed)
        for index, token in enumerate(new[:room]):
            if token in self.eos:
                return tuple(new[: index + 1]), FinishReason.EOS
            if self.strings and self._completes([*committed[-self._reach :], *new[: index + 1]]):
                return tuple(new[: index + 1]), FinishReason.STOP
        return tuple(new[:room]), FinishReason.LENGTH if len(new) >= room else None

    def __post_init__(self) -> None:
        """Refuse what could never stop."""
        if self.strings and self.text is None:
            message = "stop strings need a detokenizer; give `text`"
            raise ProtocolError(message)

    @property
    def _reach(self) -> int:
        """How many committed tokens a stop string can begin in: a token is a byte or more."""
        return max(len(string.encode()) for string in self.strings)

    def _completes(self, tail: Sequence[TokenId]) -> bool:
        text = self.text(tail[-self._reach - 1 :]) if self.text is not None else ""
        return any(string in text for string in self.strings)


def before_stop(text: str, strings: Sequence[str]) -> str:
    """`text` up to the first stop string."""
    ends = [found for string in strings if (found := text.find(string)) >= 0]
    return text[: min(ends, default=len(text))]
