"""The text of tokens while they come: what it is now, and how much of it will stay.

A text is what its tokenizer makes of all its tokens. That is not the sum of what it makes of each:

    half a character       is a replacement character until the rest has come
    a run of single bytes  (byte fallback) is text as a whole, or as a whole is none
    a word                 begins with a space, but not the first of a text
    clean-up of spaces     takes a space away when it sees what follows
    a special token        is hidden, wherever it stands

`GrowingText` follows all of it for a few microseconds a token. It decodes a window: the last tokens
whose text is settled, for context, and those that have come since. The search for stop texts and
what is shown both read it, so they see the same text.

May import: decoding.messages.  Must never: know a tokenizer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias, final

if TYPE_CHECKING:
    from pearl.decoding.messages import TokenId

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
        fallback: tokens that are single bytes of a run, and their bytes.
        plain: whether a run is what its bytes say, but for the beginning of a text. Otherwise all
            of a run is decoded again with every byte of it.
        local: whether a token's text depends on nothing but the tokens right beside it, but for
            the beginning of a text. Otherwise all of a text is decoded again with every token.
    """

    decode: Decode
    _: dataclasses.KW_ONLY
    clean: Callable[[str], str] | None = None
    special: Mapping[str, TokenId] = dataclasses.field(default_factory=dict)
    hidden: frozenset[TokenId] = frozenset()
    fallback: Mapping[TokenId, int] = dataclasses.field(default_factory=dict)
    plain: bool = False
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
        self._window: list[TokenId] = []  # visible tokens up to here, the last of all
        self._keep = CONTEXT  # tokens of the window that stay when it moves
        self._context = ""  # what the window's text begins with; the settled text ends with it
        self._half = ""  # what it ends with, if that may be half a character
        self._run: list[TokenId] = []  # visible tokens behind the window: bytes, more may come
        self._bytes = bytearray()  # theirs

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
        hidden, fallback = self._made.hidden, self._made.fallback
        visible = [token for token in tokens if token not in hidden] if hidden else list(tokens)
        solid = len(visible)
        while solid > 0 and visible[solid - 1] in fallback:
            solid -= 1
        if solid > 0 and not self._settle(visible[:solid]):
            return False
        self._run += visible[solid:]
        self._bytes += bytes(fallback[token] for token in visible[solid:])
        rest = self._rest()
        if rest is None:
            return False
        self._show(rest)
        return True

    def _settle(self, visible: Sequence[TokenId]) -> bool:
        """Take tokens into the window that no byte can join to what comes behind them."""
        self._window += [*self._run, *visible]
        self._run.clear()
        self._bytes.clear()
        now = self._made.decode(self._window)
        if not now.startswith(self._context):
            return False
        stays = _staying(now)
        self._settled += now[len(self._context) : stays]
        self._context, self._half = now[:stays], now[stays:]
        if len(self._window) > 2 * self._keep:
            self._move()
        return True

    def _rest(self) -> str | None:
        """What follows the settled text now; None if the decoder breaks its word."""
        if not self._run:
            return self._half
        if self._made.plain and self._context:
            return self._half + _said(self._bytes)
        now = self._made.decode([*self._window, *self._run])
        known = self._context + self._half
        return now[len(self._context) :] if now.startswith(known) else None

    def _show(self, rest: str) -> None:
        """The text is what is settled, and a rest that may yet change."""
        clean = self._made.clean
        self.text = self._settled + rest
        self.sure = len(self._settled)
        if clean is not None:
            self.text = clean(self.text)
            self.sure = max(0, len(clean(self._settled)) - LOOK_AHEAD)

    def _move(self) -> None:
        """Let the window begin later, if enough text is left to go on from."""
        window = self._window[-self._keep :]
        context = self._made.decode(window)
        if len(context) > ENOUGH:
            self._window, self._context = window, context[: _staying(context)]
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


def _said(data: bytes | bytearray) -> str:
    """A run of bytes: text as a whole, or as many replacement characters."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return UNFINISHED * len(data)
