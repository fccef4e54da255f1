"""What stand-ins say: a text that is known beforehand, and guesses of it that are right as asked.

May import: decoding.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Final, final

from pearl.decoding.coins import mix, uniform
from pearl.decoding.errors import SettingError
from pearl.decoding.messages import TokenId

PROMPT_TOKENS: Final = 8
"""Tokens of every prompt; they tell one text of the script from another."""
POSITIONS: Final = 1 << 16
"""Of a device without a model."""
FEWEST_WORDS: Final = 3
"""The end of a text, a word and another one."""


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What is written, token by token, and how often a draft guesses it.

    Args:
        acceptance: probability that the draft guesses a position, each for itself.
        seed: of the texts and of the guesses.
        vocabulary: token ids below it; 0 ends a text and is never written.
    """

    acceptance: float = 0.8
    seed: int = 0
    vocabulary: int = 64

    def __post_init__(self) -> None:
        """Refuse what is no probability, and words too few to be wrong."""
        if not 0 <= self.acceptance <= 1:
            message = f"acceptance is {self.acceptance}; it must be from 0 to 1"
            raise SettingError(message)
        if self.vocabulary < FEWEST_WORDS:
            message = f"vocabulary is {self.vocabulary}; it must be at least {FEWEST_WORDS}"
            raise SettingError(message)

    def prompt(self, text: str) -> tuple[TokenId, ...]:
        """Any text as a prompt, (PROMPT_TOKENS,)."""
        seed = zlib.crc32(text.encode())
        return tuple(1 + mix(seed + i) % (self.vocabulary - 1) for i in range(PROMPT_TOKENS))

    def token(self, prompt: Sequence[TokenId], position: int) -> TokenId:
        """The token at a position of the text that begins with `prompt`."""
        return 1 + self._bits(prompt, position, 0) % (self.vocabulary - 1)

    def guess(self, prompt: Sequence[TokenId], position: int) -> TokenId:
        """What the draft takes it for."""
        token = self.token(prompt, position)
        if uniform(self._bits(prompt, position, 1)) < self.acceptance:
            return token
        return 1 + token % (self.vocabulary - 1)

    def _bits(self, prompt: Sequence[TokenId], position: int, purpose: int) -> int:
        bits = mix(2 * self.seed + purpose)
        for number in (*prompt, position):
            bits = mix(bits ^ number)
        return bits
