"""Prompts and stop texts as a request may give them, and the way from tokens to text.

May import: decoding; the runners (for a tokenizer) only when one is loaded.
"""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from pearl.decoding.errors import PromptError, SettingError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pearl.decoding.messages import TokenId
    from pearl.decoding.text import Detokenizer

Prompt: TypeAlias = "str | Sequence[TokenId] | NDArray[np.integer[Any]]"


def load_detokenizer(name: str, *, trust_remote_code: bool = False) -> Detokenizer:
    """Tokens to text as the model `name` does it, without special tokens."""
    from pearl.actors.runners.text import detokenizer_of  # noqa: PLC0415 - transformers come with it
    from pearl.actors.runners.vocabulary import load_tokenizer  # noqa: PLC0415 - as above

    return detokenizer_of(load_tokenizer(name, trust_remote_code=trust_remote_code))


def check_text(prompt: str) -> None:
    """Refuse a prompt that is no text.

    Raises:
        PromptError: it has characters that UTF-8 has not.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        message = f"the prompt is not UTF-8 at character {error.start}; convert it"
        raise PromptError(message) from None


def check_ids(prompt: Any, vocabulary: int) -> tuple[TokenId, ...]:
    """A prompt that is given as tokens.

    Args:
        prompt: a sequence of whole numbers, an array of them included.
        vocabulary: they are below it.
    Raises:
        PromptError: it is something else, or a token is none.
    """
    if getattr(prompt, "ndim", None) == 1:
        prompt = prompt.tolist()
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes | bytearray | memoryview):
        kind = type(prompt).__name__
        message = f"the prompt is of type {kind}; it must be text or a list of token ids"
        raise PromptError(message)
    return tuple(_token(at, number, vocabulary) for at, number in enumerate(prompt))


def _token(at: int, number: Any, vocabulary: int) -> TokenId:
    try:
        token = None if isinstance(number, bool) else operator.index(number)
    except TypeError:
        token = None
    if token is None or not 0 <= token < vocabulary:
        allowed = f"a whole number from 0 to {vocabulary - 1}"
        message = f"token {at} of the prompt is {_shown(number)}; it must be {allowed}"
        raise PromptError(message)
    return token


def _shown(value: Any) -> str:
    """A value in a few characters, on one line."""
    try:
        return " ".join(reprlib.repr(value).split())
    except ValueError:  # Python refuses to write numbers of thousands of digits
        return "an endless number"


def check_stop(strings: Sequence[str], detokenizer: Detokenizer) -> None:
    """Refuse stop texts that no text can contain.

    A special token's name alone is none of them: the token itself then ends the request.

    Raises:
        SettingError: a text has a special token in it, or characters that UTF-8 has not.
    """
    for string in strings:
        if any("\ud800" <= character <= "\udfff" for character in string):
            message = f"stop is {string!r}, which is not UTF-8; no text contains it"
            raise SettingError(message)
        inside = next((name for name in detokenizer.special if name and name in string), string)
        if inside != string and string not in detokenizer.special:
            message = (
                f"stop is {string!r}; the special token {inside!r} in it is hidden from the text, "
                "so give it alone"
            )
            raise SettingError(message)
