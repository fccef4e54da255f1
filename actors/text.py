"""Text from tokens: whole, and piece by piece while they come.

May import: decoding; the runners (for a tokenizer) only when one is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from decoding.stopping import before_stop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from decoding.messages import TokenId
    from decoding.stopping import Detokenizer

UNFINISHED: Final = "\ufffd"  # what a decoder writes for half a character


def load_detokenizer(name: str, *, trust_remote_code: bool = False) -> Detokenizer:
    """Tokens to text as the model `name` does it, without special tokens."""
    from actors.runners.loading import load_tokenizer  # noqa: PLC0415 - transformers come with it

    tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
    return lambda tokens: str(tokenizer.decode(list(tokens), skip_special_tokens=True))


@final
class TextStream:
    """The text of a growing list of tokens, given out as soon as it is sure.

    Half a character is held back until the rest has come, and so is what may turn out to be the
    beginning of a stop string. Joined, the pieces are exactly the text of all tokens, cut before
    the first stop string.
    """

    CONTEXT: Final = (
        8  # tokens decoded again, because some begin differently at the start of a text
    )

    def __init__(self, detokenize: Detokenizer, stop: Sequence[str] = ()) -> None:
        self._detokenize = detokenize
        self._stop = stop
        self._hold = max((len(text) - 1 for text in stop), default=0)
        self._tokens: list[TokenId] = []
        self._read = 0  # tokens whose text is in `_text`
        self._text = ""
        self._given = 0  # characters given out

    def push(self, tokens: Sequence[TokenId]) -> str:
        """The text that is sure now and was not before."""
        self._tokens.extend(tokens)
        self._advance()
        return self._give(max(0, len(self._text) - self._hold))

    def finish(self) -> str:
        """What was held back."""
        rest = self._detokenize(self._tokens)
        self._text = self._text + rest[len(self._text) :]
        return self._give(len(self._text))

    def _advance(self) -> None:
        start = max(0, self._read - self.CONTEXT)
        before = self._detokenize(self._tokens[start : self._read])
        now = self._detokenize(self._tokens[start:])
        if not now.endswith(UNFINISHED):
            self._text += now[len(before) :]
            self._read = len(self._tokens)

    def _give(self, end: int) -> str:
        sure = before_stop(self._text, self._stop) if self._stop else self._text
        piece = sure[self._given : end]
        self._given = max(self._given, min(end, len(sure)))
        return piece
