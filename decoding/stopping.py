"""When a request ends, how much of a verdict may still be committed, and what text is shown.

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

from pearl.decoding.errors import ProtocolError
from pearl.decoding.text import Detokenizer, GrowingText

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pearl.decoding.messages import TokenId


class FinishReason(enum.StrEnum):
    """Why a request ended."""

    EOS = "eos"
    STOP = "stop"
    LENGTH = "length"


@final
class TextStream:
    """The text of a growing list of tokens, given out as soon as it is sure.

    What may yet change is held back, half a character above all, and so is what may turn out to
    be the beginning of a stop string. Joined, the pieces are exactly the text of all tokens, cut
    before the first stop string.
    """

    def __init__(self, detokenizer: Detokenizer, stop: Sequence[str] = ()) -> None:
        self._growing = GrowingText(detokenizer)
        self._stop = stop
        self._pieces: list[str] = []
        self._given = 0  # characters
        self.stopped = False
        """Whether a stop string has come."""

    @property
    def tokens(self) -> list[TokenId]:
        """All that was read."""
        return self._growing.tokens

    @property
    def text(self) -> str:
        """All that was given out."""
        return "".join(self._pieces)

    def push(self, tokens: Sequence[TokenId]) -> str:
        """The text that is sure now and was not before."""
        growing = self._growing
        growing.push(tokens)
        sure = growing.text[self._given : growing.sure]
        held = max((_begun(string, sure) for string in self._stop), default=0)
        end = self._given + len(sure) - held
        return self._give(min(end, self._stopped(growing.finished)))

    def finish(self) -> str:
        """What was held back."""
        return self._give(self._stopped(len(self._growing.text)))

    def _stopped(self, end: int) -> int:
        """Where the first stop string begins, or `end` if there is none before it."""
        at = first_stop(self._growing.text, self._stop, self._given, end)
        self.stopped = self.stopped or at is not None
        return end if at is None else at

    def _give(self, end: int) -> str:
        piece = self._growing.text[self._given : end]
        self._given += len(piece)
        self._pieces.append(piece)
        return piece


@final
class _Reader:
    """Reads a text token by token, and says where a stop text is complete."""

    def __init__(self, strings: Sequence[str], detokenizer: Detokenizer) -> None:
        self._strings = strings
        self._detokenizer = detokenizer
        self._names = {detokenizer.special.get(string) for string in strings}
        self._stream = TextStream(detokenizer, strings)

    def follow(self, committed: Sequence[TokenId]) -> None:
        """Stand behind these tokens; where it does already, nothing is read again."""
        if self._stream.tokens != list(committed):
            self._stream = TextStream(self._detokenizer, self._strings)
            self._stream.push(committed)

    def completes(self, token: TokenId, *, last: bool) -> bool:
        """Read one more token; what is half a character is no text yet, unless it is the last."""
        self._stream.push((token,))
        if last:
            self._stream.finish()
        return self._stream.stopped or token in self._names


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


def _begun(string: str, text: str) -> int:
    """How many characters at the end of `text` may be the beginning of `string`."""
    most = min(len(string) - 1, len(text))
    return next((n for n in range(most, 0, -1) if text.endswith(string[:n])), 0)
