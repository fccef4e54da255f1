"""Stand-ins for models: devices that do some work, and say a text that is known beforehand.

    timed = {Role.DRAFT: Timed(pass_s=0.002), Role.TARGET: Timed(pass_s=0.010)}
    pair = StandInPair(settings=EngineSettings(), devices=timed)
    async with await Engine.start_pair(pair) as engine:
        result = await engine.generate("any text", Settings(gamma=5)).wait()

The text is a script that the target says word by word and the draft guesses with the acceptance
that was asked for. Everything else is real: hosts, wire, scheduler, Ray. So what such a pair falls
short of theory is what the machinery costs. `STAND_INS` has every kind of work; another one is a
class here and a line there.

May import: the standard library, decoding, actors.placing, actors.scripts, actors.specs,
actors.text; the runners (and with them torch) only where one is made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, Self, final

from pearl.actors.placing import device_specs, places
from pearl.actors.scripts import POSITIONS, PROMPT_TOKENS, Script
from pearl.actors.text import Prompt, check_ids, check_text
from pearl.decoding.errors import SettingError
from pearl.decoding.messages import Role, TokenId
from pearl.decoding.text import Detokenizer

if TYPE_CHECKING:
    from pearl.actors.engine_settings import EngineSettings
    from pearl.actors.runners.interface import Runner
    from pearl.actors.specs import DeviceSpec
    from pearl.decoding.settings import Settings

LONGEST_PASS_S: Final = 100


class StandIn(Protocol):
    """The work of a device without a trained model; what it computes does not count."""

    takes: ClassVar[str]
    """What the command line takes for both devices, such as `two numbers of ms`."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """One device's, as the command line has it.

        Raises:
            ValueError: the text is not what it takes.
            SettingError: it is, and cannot be.
        """

    @property
    def shape(self) -> str | None:
        """The folder whose configuration sets its limits, on a GPU if there is one; None: a CPU."""

    def runner(self, spec: DeviceSpec, threads: int) -> Runner:
        """What does the work, made where the device runs."""


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Timed:
    """Passes take their time, whatever is read; nothing is computed.

    Args:
        pass_s: seconds of a pass.
    Raises:
        SettingError: it cannot be waited for.
    """

    pass_s: float
    takes: ClassVar = "two numbers of ms"
    shape: ClassVar = None

    def __post_init__(self) -> None:
        """Refuse what is no time."""
        if not 0 <= self.pass_s <= LONGEST_PASS_S:
            message = f"a pass takes {self.pass_s:g} s; it must be 0 to {LONGEST_PASS_S}"
            raise SettingError(message)

    @classmethod
    def parse(cls, text: str) -> Self:
        """From milliseconds."""
        return cls(float(text) / 1e3)

    def runner(self, _spec: DeviceSpec, _threads: int) -> Runner:
        """One that waits."""
        from pearl.actors.runners.stand_in import TimedRunner  # noqa: PLC0415 - torch comes in with it

        return TimedRunner(lambda _: self.pass_s)


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Untrained:
    """A model with random weights, which is as fast as a trained one of its shape.

    Args:
        shape: a folder with a config.json.
    """

    shape: str
    takes: ClassVar = "two folders with a config.json"

    @classmethod
    def parse(cls, text: str) -> Self:
        """From the folder's name."""
        if not text:
            raise ValueError
        return cls(text)

    def runner(self, spec: DeviceSpec, threads: int) -> Runner:
        """The model, without its words."""
        from pearl.actors.runners.loading import load_untrained  # noqa: PLC0415 - torch comes in with it

        return load_untrained(
            self.shape,
            device=spec.place,
            dtype=spec.dtype,
            threads=threads,
            trust_remote_code=spec.trust_remote_code,
        )


STAND_INS: Final[Mapping[str, type[StandIn]]] = MappingProxyType(
    {"timed": Timed, "untrained": Untrained}
)
"""Every kind of stand-in, by its name on the command line."""


def parse_stand_ins(kind: str, text: str) -> dict[Role, StandIn]:
    """A draft and a target of one kind, with a comma between them.

    Raises:
        SettingError: there is no such kind, or it takes something else.
    """
    if kind not in STAND_INS:
        message = f"stand-in is {kind!r}; it must be one of {', '.join(STAND_INS)}"
        raise SettingError(message)
    made = STAND_INS[kind]
    try:
        draft, target = text.split(",")
        return {Role.DRAFT: made.parse(draft), Role.TARGET: made.parse(target)}
    except ValueError:
        message = f"{kind} is {text!r}; it must be {made.takes} with a comma between"
        raise SettingError(message) from None


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scripted:
    """A stand-in's work, and what is said beside it."""

    work: StandIn
    script: Script

    def load(self, spec: DeviceSpec, threads: int) -> Runner:
        """The worker, with the script's words."""
        from pearl.actors.runners.stand_in import ScriptedRunner  # noqa: PLC0415 - torch comes with it

        return ScriptedRunner(self.work.runner(spec, threads), self.script, spec.role)


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StandInPair:
    """A draft and a target that are none, ready for `Engine.start_pair`.

    Args:
        settings: where to run; it names no models.
        devices: what each of the two does.
        script: what is written.
    Raises:
        SettingError: a model is named too.
    """

    settings: EngineSettings
    devices: Mapping[Role, StandIn]
    script: Script = dataclasses.field(default_factory=Script)
    eos: tuple[TokenId, ...] = ()
    draft_positions: None = None  # texts that neither device holds are refused

    def __post_init__(self) -> None:
        """Refuse a model beside its stand-in."""
        named = {Role.DRAFT: self.settings.draft, Role.TARGET: self.settings.target}
        for role, model in named.items():
            if model is not None:
                message = f"the {role} is {model} and has a stand-in; give one of them"
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
        shapes = self._shapes().values()
        if not shapes:
            return POSITIONS, self.script.vocabulary
        from pearl.actors.runners.loading import limits  # noqa: PLC0415 - torch comes in with it

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
        """What the devices are to be; those without a shape are on a CPU."""
        shapes, at = self._shapes(), dict.fromkeys(self.devices, "cpu")
        if shapes:
            from pearl.actors.runners.loading import gpu_names  # noqa: PLC0415 - torch comes in with it

            at |= places(tuple(shapes), self.settings.gpus, len(gpu_names()))
        named = {role: shapes.get(role, "") for role in self.devices}
        found = device_specs(self.settings, named, at, self.script.vocabulary)
        return tuple(dataclasses.replace(spec, stand_in=self._scripted(spec)) for spec in found)

    def _scripted(self, spec: DeviceSpec) -> Scripted:
        return Scripted(work=self.devices[spec.role], script=self.script)

    def _shapes(self) -> dict[Role, str]:
        found = {role: device.shape for role, device in self.devices.items()}
        return {role: shape for role, shape in found.items() if shape is not None}


def _no_tokenizer() -> Detokenizer:
    return Detokenizer(_words)


def _words(tokens: Sequence[TokenId]) -> str:
    return "".join(f" {token}" for token in tokens)
