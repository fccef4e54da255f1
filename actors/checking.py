"""A draft and a target, checked but not loaded: what an engine is started with.

May import: decoding, the rest of `actors` but for whatever runs an engine; torch comes in with the
runners when models are checked.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from typing import TYPE_CHECKING, Protocol, final

from pearl.actors.placing import device_specs, places
from pearl.actors.text import check_ids, check_stop, check_text, load_detokenizer
from pearl.actors.threads import available_cores, cores_of
from pearl.decoding.errors import SettingError
from pearl.decoding.messages import Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from pearl.actors.engine_settings import EngineSettings
    from pearl.actors.specs import DeviceSpec
    from pearl.actors.text import Prompt
    from pearl.actors.threads import Cores
    from pearl.decoding.messages import TokenId
    from pearl.decoding.settings import Settings
    from pearl.decoding.text import Detokenizer


class ModelPair(Protocol):
    """Draft and target, checked but not loaded yet, and what a client needs of them."""

    @property
    def settings(self) -> EngineSettings:
        """Where it is to run."""

    @property
    def eos(self) -> tuple[TokenId, ...]:
        """The tokens that end a text."""

    @property
    def draft_positions(self) -> int | None:
        """How many positions the draft holds; None where there is none, or no end."""

    @property
    def detokenizer(self) -> Detokenizer:
        """Tokens to text, without special tokens."""

    def encode(self, prompt: Prompt, settings: Settings) -> tuple[TokenId, ...]:
        """The prompt's tokens, when all of the request can be done."""

    def specs(self) -> tuple[DeviceSpec, ...]:
        """What each device is to load, and where."""

    def text_loader(self) -> Callable[[], Detokenizer]:
        """Gives the scheduler, perhaps on another machine, its own way from tokens to text."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DevicePlan:
    """What a device will be: for people who want to know it before it is started.

    Args:
        dtype: that it computes in, and how its weights are kept.
        forward: whose it is, and why.
        loading_bytes: the most memory that loading takes.
        cores: that it computes on; None on a GPU.
    """

    dtype: str
    forward: str
    loading_bytes: int
    cores: Cores | None


@final
class CheckedPair:
    """A pair that was checked, and what the client needs of it: the tokenizer and the limits.

    Raises:
        UsageError: a model cannot be used, or draft and target do not fit together.
    """

    def __init__(self, settings: EngineSettings) -> None:
        from pearl.actors.runners import loading, vocabulary  # noqa: PLC0415 - torch comes in with it
        from pearl.actors.runners.describing import describe  # noqa: PLC0415 - as above
        from pearl.actors.runners.text import detokenizer_of, encode  # noqa: PLC0415 - as above

        self._room = loading.check_room
        self.settings = settings
        self.models = settings.models()
        trust = settings.trust_remote_code
        found = {
            role: describe(name, trust_remote_code=trust) for role, name in self.models.items()
        }
        self._described = found
        target = found[Role.TARGET]
        tokenizer = vocabulary.load_tokenizer(target.name, trust_remote_code=trust)
        self._encode = functools.partial(encode, tokenizer)
        self.detokenizer = detokenizer_of(tokenizer)
        draft = found.get(Role.DRAFT)
        self.shared = vocabulary.check_pair(draft or target, target, tokenizer)
        self.vocabulary = self.shared.size
        self.positions = target.positions
        self.draft_positions = None if draft is None else draft.positions
        self.eos = target.eos
        self.places = places(tuple(found), settings.gpus, len(loading.gpu_names()))
        taken: Counter[str] = Counter()  # both are loaded at a time, perhaps into one memory
        for role, model in found.items():
            at, dtype, quantize = self.places[role], settings.dtype, settings.quantize
            loading.check_memory(model, device=at, dtype=dtype, quantize=quantize, beside=taken[at])
            taken[at] += loading.loading_bytes(model, device=at, dtype=dtype, quantize=quantize)

    def plan(self, role: Role) -> DevicePlan:
        """What a device will be, as far as is known before it is loaded."""
        from pearl.actors.runners import loading  # noqa: PLC0415 - torch comes in with it

        spec = next(spec for spec in self.specs() if spec.role is role)
        model, at, dtype = self._described[role], self.places[role], spec.dtype
        place = loading.choose_device(at)
        precision = loading.choose_dtype(dtype, place, spec.quantize)
        named = str(precision).removeprefix("torch.")
        return DevicePlan(
            dtype=named if spec.quantize is None else f"{spec.quantize}, computed in {named}",
            forward=loading.forward_of(model, device=at, dtype=named),
            loading_bytes=loading.loading_bytes(
                model, device=at, dtype=dtype, quantize=spec.quantize
            ),
            cores=cores_of(role, available_cores(), shared=spec.shared) if at == "cpu" else None,
        )

    def encode(self, prompt: Prompt, settings: Settings) -> tuple[TokenId, ...]:
        """The prompt's tokens, when all of the request can be done.

        Raises:
            PromptError: the prompt is no text and no tokens, is empty or too long.
            SettingError: there is no draft, a stop text can never come, or the output is too long
                for the target.
        """
        if settings.widest > 0 and Role.DRAFT not in self.models:
            message = f"schedule is {settings.schedule} without a draft; name one, or take ar"
            raise SettingError(message)
        check_stop(settings.stop, self.detokenizer)
        tokens = self._tokens(prompt)
        self._room(
            prompt_tokens=len(tokens),
            max_new_tokens=settings.max_new_tokens,
            positions=self.positions,
        )
        return tokens

    def _tokens(self, prompt: Prompt) -> tuple[TokenId, ...]:
        if isinstance(prompt, str):
            check_text(prompt)
            prompt = self._encode(prompt)
        return check_ids(prompt, self.vocabulary)

    def text_loader(self) -> Callable[[], Detokenizer]:
        """The target's tokenizer, loaded where it is needed."""
        trust = self.settings.trust_remote_code
        name = self.models[Role.TARGET]
        return functools.partial(load_detokenizer, name, trust_remote_code=trust)

    def specs(self) -> tuple[DeviceSpec, ...]:
        """What each device is to load, and where."""
        specs = device_specs(self.settings, self.models, self.places, self.vocabulary)
        return tuple(
            dataclasses.replace(spec, translation=self.shared)
            if spec.role is Role.DRAFT and self.shared.foreign
            else spec
            for spec in specs
        )
