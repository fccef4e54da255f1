"""When a request ends, and how much of a verdict may still be committed.

A request ends at the first committed end-of-sequence token, at the first token that completes a
stop text, or at the length limit, whichever comes first. The token that ends it is committed;
nothing after it is.

A token completes a stop text when the text of all tokens up to it contains that text, or when it
is the special token of that name, which no text shows.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, final

from decoding.errors import ProtocolError
from decoding.text import Detokenizer, GrowingText

if TYPE_CHECKING:
    from collections.abc import Sequence

    from decoding.messages import TokenId


class FinishReason(enum.StrEnum):
    """Why a request ended."""

    EOS = "eos"
    STOP = "stop"
    LENGTH = "length"


@final
class _Reader:
    """Reads a text token by token, and says where a stop text is complete."""

    def __init__(self, strings: Sequence[str], detokenizer: Detokenizer) -> None:
        self._strings = strings
        self._detokenizer = detokenizer
        self._names = {detokenizer.special.get(string) for string in strings}
        self._longest = max(map(len, strings))
        self._text = GrowingText(detokenizer)

    def follow(self, committed: Sequence[TokenId]) -> None:
        """Stand behind these tokens; where it does already, nothing is read again."""
        if self._text.tokens != list(committed):
            self._text = GrowingText(self._detokenizer)
            self._text.push(committed)

    def completes(self, token: TokenId, *, last: bool) -> bool:
        """Read one more token; what is half a character is no text yet, unless it is the last."""
        text = self._text
        start = max(0, text.sure - self._longest + 1)
        text.push((token,))
        end = len(text.text) if last else text.finished
        shown = first_stop(text.text, self._strings, start, end) is not None
        return shown or token in self._names


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
    # What was read of the committed text, so that no token is read twice.
    _reader: _Reader | None = dataclasses.field(default=None, init=False, repr=False, compare=False)

    def admit(
        self, committed: Sequence[TokenId], new: Sequence[TokenId]
    ) -> tuple[tuple[TokenId, ...], FinishReason | None]:
        """The part of `new` that may follow `committed`, and why it ends there if it does."""
        room = self.limit - len(committed)
        reader = self._reader
        if reader is not None:
            reader.follow(committed)
        for index, token in enumerate(new[:room]):
            if token in self.eos:
                return tuple(new[: index + 1]), FinishReason.EOS
            if reader is not None and reader.completes(token, last=index + 1 == room):
                return tuple(new[: index + 1]), FinishReason.STOP
        return tuple(new[:room]), FinishReason.LENGTH if len(new) >= room else None

    def __post_init__(self) -> None:
        """Refuse what could never stop."""
        if not self.strings:
            return
        if self.text is None:
            message = "stop strings need a detokenizer; give `text`"
            raise ProtocolError(message)
        object.__setattr__(self, "_reader", _Reader(self.strings, self.text))


def first_stop(text: str, strings: Sequence[str], start: int, end: int) -> int | None:
    """Where the first stop text of `text[start:end]` begins."""
    found = (text.find(string, start, end) for string in strings)
    return min((at for at in found if at >= 0), default=None)
