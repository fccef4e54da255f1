"""The text of tokens while they come: what it is now, and how much of it will stay.

A text is what its tokenizer makes of all its tokens. That is not the sum of what it makes of each:

    half a character       is a replacement character until the rest has come
    a run of single bytes  (byte fallback) is text as a whole, or as a whole is none
    a word                 begins with a space, but not the first of a text
    clean-up of spaces     takes a space away when it sees what follows
    a special token        is hidden, wherever it stands

`GrowingText` follows all of it for a few microseconds a token. It decodes a window: the last tokens
whose text is settled, for context, and those that have come since. Whoever looks for the end of a
text and whoever shows it read the same object, so that they see the same text.

May import: decoding.messages.  Must never: know a tokenizer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias, final

if TYPE_CHECKING:
    from decoding.messages import TokenId

Decode: TypeAlias = "Callable[[Sequence[TokenId]], str]"

UNFINISHED: Final = "\ufffd"  # what a decoder writes for half a character, and for what is none
CONTEXT: Final = 8  # tokens that are decoded again before new ones, at first
ENOUGH: Final = 4  # characters of context: more bytes than half a character can have
LOOK_AHEAD: Final = 8  # characters: clean-up of spaces looks no further


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Detokenizer:
    """Tokens to text, and what one must know to do it bit by bit.

    Args:
        decode: the text of tokens, before clean-up.
        clean: takes away spaces by what stands within `LOOK_AHEAD` characters behind them.
        special: the names of tokens that are hidden from the text.
        hidden: all tokens that are.
        fallback: tokens that are single bytes of a run.
        local: whether a token's text depends on nothing but the tokens right beside it, but for
            the beginning of a text. Otherwise all of a text is decoded again with every token.
    """

    decode: Decode
    _: dataclasses.KW_ONLY
    clean: Callable[[str], str] | None = None
    special: Mapping[str, TokenId] = dataclasses.field(default_factory=dict)
    hidden: frozenset[TokenId] = frozenset()
    fallback: frozenset[TokenId] = frozenset()
    local: bool = True

    def __call__(self, tokens: Sequence[TokenId]) -> str:
        """The text of all these tokens."""
        text = self.decode(tokens)
        return text if self.clean is None else self.clean(text)


@final
class GrowingText:
    """The text of tokens that come one after the other.

    `text` is that of all tokens so far, word for word as `Detokenizer` makes it at once. Its first
    `sure` characters will stay, whatever comes.
    """

    def __init__(self, detokenizer: Detokenizer) -> None:
        self.tokens: list[TokenId] = []
        self.text = ""
        self.sure = 0
        self._made = detokenizer
        self._local = detokenizer.local
        self._settled = ""  # text before clean-up that will stay
        self._window: list[TokenId] = []  # visible tokens: context, and what is not settled
        self._keep = CONTEXT  # tokens of the window that stay when it moves
        self._context = ""  # what the window's text begins with; the settled text ends with it

    def push(self, tokens: Sequence[TokenId]) -> None:
        """Read on."""
        self.tokens.extend(tokens)
        if not (self._local and self._push_locally(tokens)):
            self._local = False
            self._read_all()

    @property
    def finished(self) -> int:
        """So many characters are not half of one, as far as one can tell now."""
        return max(self.sure, len(self.text.rstrip(UNFINISHED)))

    def _push_locally(self, tokens: Sequence[TokenId]) -> bool:
        """Read on in the window; False if the decoder breaks its word."""
        hidden, window = self._made.hidden, self._window
        window.extend([token for token in tokens if token not in hidden] if hidden else tokens)
        solid = self._solid()
        before = self._made.decode(window[:solid]) if solid else ""
        now = self._made.decode(window) if solid < len(window) else before
        if not (before.startswith(self._context) and now.startswith(before)):
            return False
        stays = _staying(before)
        self._settled += before[len(self._context) : stays]
        self._context = before[:stays]
        self._show(now[stays:])
        if solid > 2 * self._keep:
            self._move(solid - self._keep, solid)
        return True

    def _solid(self) -> int:
        """How many tokens of the window are followed or preceded by no byte that may join them."""
        solid, fallback = len(self._window), self._made.fallback
        while solid > 0 and self._window[solid - 1] in fallback:
            solid -= 1
        return solid

    def _show(self, rest: str) -> None:
        """The text is what is settled, and a rest that may yet change."""
        clean = self._made.clean
        self.text = self._settled + rest
        self.sure = len(self._settled)
        if clean is not None:
            self.text = clean(self.text)
            self.sure = max(0, len(clean(self._settled)) - LOOK_AHEAD)

    def _move(self, start: int, solid: int) -> None:
        """Let the window begin later, if enough text is left to go on from."""
        context = self._made.decode(self._window[start:solid])
        if len(context) > ENOUGH:
            self._context = context[: _staying(context)]
            del self._window[:start]
        else:
            self._keep *= 2

    def _read_all(self) -> None:
        """The slow way; of an unknown decoder one can only guess how far it looks ahead."""
        self.text = self._made(self.tokens)
        guess = len(self.text.rstrip(UNFINISHED)) - LOOK_AHEAD
        self.sure = min(max(self.sure, guess), len(self.text))


def _staying(text: str) -> int:
    """How much of a text stays when tokens follow: only its last character can be half of one."""
    return len(text) - text.endswith(UNFINISHED)
