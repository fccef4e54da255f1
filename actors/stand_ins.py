"""A pair that stands in for models: timed devices, or weights that nobody trained.

    pair = StandInPair(settings=EngineSettings(), draft_s=0.002, target_s=0.010)
    async with await Engine.start_fitted(pair) as engine:
        result = await engine.generate("any text", Settings(gamma=5)).wait()

The text is a script that the target says word by word and the draft guesses with the acceptance
that was asked for. Everything else is real: hosts, wire, scheduler, Ray. So what such a pair falls
short of theory is what the machinery costs.

May import: the standard library, decoding, actors.device, actors.text, actors.engine (for types).
Must never: import torch; the runners do (`actors.runners.stand_in`).
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, final

from actors.device import DeviceSpec
from actors.text import Prompt, check_ids, check_text
from decoding.coins import mix, uniform
from decoding.errors import SettingError
from decoding.messages import Role, TokenId
from decoding.text import Detokenizer

if TYPE_CHECKING:
    from actors.engine import EngineSettings
    from decoding.settings import Settings

PROMPT_TOKENS: Final = 8
"""Tokens of every prompt; they tell one text of the script from another."""
POSITIONS: Final = 1 << 16
"""Of a device without a model."""
LONGEST_PASS_S: Final = 100
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


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StandIn:
    """What a device does instead of loading a model.

    Args:
        script: what it says.
        pass_s: seconds of a pass, whatever is read; None for a model with random weights, in the
            shape that the configuration at the device's `model` gives.
    """

    script: Script
    pass_s: float | None = None


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StandInPair:
    """A draft and a target that are none, ready for `Engine.start_fitted`.

    Args:
        settings: where to run. Models named there are shapes: folders with a config.json.
        draft_s, target_s: seconds of a pass; None where a shape is named.
        script: what is written.
    Raises:
        SettingError: a device has neither a time nor a shape, or both.
    """

    settings: EngineSettings
    draft_s: float | None = None
    target_s: float | None = None
    script: Script = Script()
    eos: tuple[TokenId, ...] = ()
    draft_positions: None = None  # texts that neither device holds are refused

    def __post_init__(self) -> None:
        """Refuse what is neither one thing nor the other."""
        for role, (shape, seconds) in self._devices().items():
            if (shape is None) == (seconds is None):
                message = f"the {role} needs a time or a shape, and not both"
                raise SettingError(message)
            if seconds is not None and not 0 <= seconds <= LONGEST_PASS_S:
                message = (
                    f"a pass of the {role} takes {seconds:g} s; it must be 0 to {LONGEST_PASS_S}"
                )
                raise SettingError(message)

    def encode(self, prompt: Prompt, settings: Settings) -> tuple[TokenId, ...]:
        """The beginning of one of the script's texts; another prompt, another text.

        Raises:
            SettingError: more tokens are asked for than a device holds, or other ones than it has.
        """
        positions, words = self._limits()
        if PROMPT_TOKENS + settings.max_new_tokens > positions:
            message = f"max-new-tokens is {settings.max_new_tokens}; a stand-in holds {positions}"
            raise SettingError(message)
        if self.script.vocabulary > words:
            message = f"vocabulary is {self.script.vocabulary}; a shape that is named has {words}"
            raise SettingError(message)
        if not isinstance(prompt, str):
            prompt = str(check_ids(prompt, words))
        check_text(prompt)
        return self.script.prompt(prompt)

    def _limits(self) -> tuple[int, int]:
        """Positions and tokens of the smaller device; one without a shape has no small limits."""
        shapes = [shape for shape, _ in self._devices().values() if shape is not None]
        if not shapes:
            return POSITIONS, self.script.vocabulary
        from actors.runners.loading import limits  # noqa: PLC0415 - torch comes in with it

        positions, words = zip(*map(limits, shapes), strict=True)
        return min(positions), min(words)

    @property
    def detokenizer(self) -> Detokenizer:
        """Numbers, for want of words."""
        return _no_tokenizer()

    def text_loader(self) -> Callable[[], Detokenizer]:
        """The same, for the scheduler's process."""
        return _no_tokenizer

    def specs(self) -> tuple[DeviceSpec, ...]:
        """What the devices are to be; those that only wait are on a CPU."""
        from actors.engine import device_specs, places  # noqa: PLC0415 - the engine comes after

        devices = self._devices()
        at = dict.fromkeys(devices, "cpu")
        shaped = tuple(role for role, (shape, _) in devices.items() if shape is not None)
        if shaped:
            from actors.runners.loading import gpu_names  # noqa: PLC0415 - torch comes in with it

            at |= places(shaped, self.settings.gpus, len(gpu_names()))
        shapes = {role: shape or "" for role, (shape, _) in devices.items()}
        found = device_specs(self.settings, shapes, at, self.script.vocabulary)
        return tuple(
            dataclasses.replace(
                spec, stand_in=StandIn(script=self.script, pass_s=devices[spec.role][1])
            )
            for spec in found
        )

    def _devices(self) -> dict[Role, tuple[str | None, float | None]]:
        return {
            Role.DRAFT: (self.settings.draft, self.draft_s),
            Role.TARGET: (self.settings.target, self.target_s),
        }


def _no_tokenizer() -> Detokenizer:
    return Detokenizer(_words)


def _words(tokens: Sequence[TokenId]) -> str:
    return "".join(f" {token}" for token in tokens)
