"""The engine: a pair of models that is ready, and requests to it as async iterators.

    async with await Engine.start() as engine:           # the embedded pair on Ray
        generation = engine.generate("def quicksort(items):")
        async for piece in generation:
            print(piece.text, end="")
        print(generation.result.metrics)

May import: the whole of `actors`; Ray and torch only when they are needed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import functools
import importlib
import os
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol, Self, final

from actors import pair
from actors.client import Client, Keeper
from actors.deadlines import Patience, is_time
from actors.device import DeviceSpec
from actors.text import TextStream, check_ids, check_stop, check_text, load_detokenizer
from actors.wire import Finished, Tokens
from decoding.errors import PlacementError, ProtocolError, SettingError
from decoding.messages import Role
from decoding.sampling import refuse_unless
from decoding.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from actors.client import Ticket
    from actors.scheduler import SchedulerStatistics
    from actors.text import Prompt
    from actors.wire import Address
    from decoding.messages import TokenId
    from decoding.metrics import Metrics
    from decoding.stopping import FinishReason
    from decoding.text import Detokenizer
    from decoding.trace import Record


class Devices(enum.StrEnum):
    """Where draft and target run."""

    RAY = "ray"
    LOCAL = "local"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What an engine is made of.

    Args:
        target, draft: folders or hub names; a target of None is the embedded pair, a draft of
            None beside a named target leaves only the autoregressive schedule.
        devices: `ray`, or `local` for threads of this process.
        dtype: `auto` (float32 on CPU, bfloat16 on GPU), `float32`, `bfloat16`, `float16`.
        gpus: how many to use, 0 to 2; with one, draft and target share it. None takes what
            this machine has.
        ray_address: of a running cluster; None starts a private one.
        placement_s: how long to wait for room in the cluster.
        startup_s: how long the models may take to load.
        patience: deadlines while it runs.
        trust_remote_code: whether the models may bring code of their own.
    """

    target: str | None = None
    draft: str | None = None
    devices: Devices = Devices.RAY
    dtype: str = "auto"
    gpus: int | None = None
    ray_address: str | None = None
    placement_s: float = 30.0
    startup_s: float = 300.0
    patience: Patience = dataclasses.field(default_factory=Patience)
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        """Refuse what is of another kind; names may be paths, and devices a name."""
        for name in ("target", "draft", "ray_address"):
            self._take_name(name)
        known = ", ".join(Devices)
        refuse_unless(self, "devices", f"one of {known}", fine=self.devices in list(Devices))
        object.__setattr__(self, "devices", Devices(self.devices))
        refuse_unless(self, "dtype", "a name, such as float32", fine=isinstance(self.dtype, str))
        refuse_unless(self, "gpus", "a whole number, or None", fine=is_whole(self.gpus, none=True))
        for name in ("placement_s", "startup_s"):
            refuse_unless(self, name, "seconds, more than 0", fine=is_time(getattr(self, name)))
        given: Any = self.patience
        refuse_unless(self, "patience", "a Patience", fine=isinstance(given, Patience))
        trust: Any = self.trust_remote_code
        refuse_unless(self, "trust_remote_code", "True or False", fine=isinstance(trust, bool))

    def _take_name(self, name: str) -> None:
        value = getattr(self, name)
        plain = os.fspath(value) if isinstance(value, os.PathLike) else value
        fine = plain is None or (isinstance(plain, str) and "\0" not in plain)
        refuse_unless(self, name, "a name, or left out", fine=fine)
        # An empty address is told by whoever looks for it.
        given = plain != "" or name == "ray_address"
        refuse_unless(self, name, "a name, not empty, or left out", fine=given)
        object.__setattr__(self, name, plain)

    def models(self) -> dict[Role, str]:
        """The models by role; the embedded pair where none is named."""
        if self.target is None and self.draft is None:
            return {Role.DRAFT: str(pair.DRAFT), Role.TARGET: str(pair.TARGET)}
        target = local_path(self.target or str(pair.TARGET))
        named = {} if self.draft is None else {Role.DRAFT: local_path(self.draft)}
        return named | {Role.TARGET: target}


def is_whole(value: object, *, none: bool = False) -> bool:
    """Whether it is a whole number; with `none`, or None."""
    return (none and value is None) or (isinstance(value, int) and not isinstance(value, bool))


def local_path(name: str) -> str:
    """What stands in a folder here is meant as it stands here, wherever its device runs."""
    path = os.path.expanduser(name)  # noqa: PTH111 - a name without a home stays as it is
    return os.path.abspath(path) if os.path.exists(path) else name  # noqa: PTH100, PTH110


class Pair(Protocol):
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


class Deployment(Keeper, Protocol):
    """A scheduler with its devices, wherever they run."""

    address: Address

    async def statistics(self) -> SchedulerStatistics:
        """How the scheduler is."""

    async def close(self) -> None:
        """End all of it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Tokens that were committed together, and the text that is sure with them."""

    token_ids: tuple[TokenId, ...]
    text: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A request that has ended; `finish_reason` is None when it was interrupted."""

    text: str
    token_ids: tuple[TokenId, ...]
    finish_reason: FinishReason | None
    prompt_tokens: int
    metrics: Metrics
    trace: tuple[Record, ...] = ()


@final
class Generation:
    """A request under way: iterate for the pieces, then ask for the `result`."""

    def __init__(
        self, ticket: Ticket, prompt_tokens: int, detokenizer: Detokenizer, stop: tuple[str, ...]
    ) -> None:
        self._ticket = ticket
        self._prompt_tokens = prompt_tokens
        self._stream = TextStream(detokenizer, stop)
        self._tokens: list[TokenId] = []
        self._finished: Finished | None = None
        # One that nobody holds any more is read by nobody.
        weakref.finalize(self, ticket.abandon).atexit = False

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """The pieces as they are committed.

        Raises:
            PeerError: the request failed.
        """
        try:
            while self._finished is None:
                packet = await self._ticket.next()
                if isinstance(packet, Tokens):
                    self._tokens.extend(packet.tokens)
                    yield Piece(token_ids=packet.tokens, text=self._stream.push(packet.tokens))
                else:
                    self._finished = packet
        finally:
            if self._finished is None:  # whoever listened has left
                self.abort()
        if rest := self._stream.finish():
            yield Piece(token_ids=(), text=rest)

    async def wait(self) -> Result:
        """Run to the end."""
        async for _ in self:
            pass
        return self.result

    def abort(self) -> None:
        """End it early; what was committed so far is the result."""
        self._ticket.abort()

    @property
    def result(self) -> Result:
        """What came of it.

        Raises:
            ProtocolError: it is still running.
        """
        if self._finished is None:
            message = "the request is still running; iterate to its end first"
            raise ProtocolError(message)
        return Result(
            text=self._stream.text,
            token_ids=tuple(self._tokens),
            finish_reason=self._finished.reason,
            prompt_tokens=self._prompt_tokens,
            metrics=self._finished.metrics,
            trace=self._finished.trace,
        )


@final
class Engine:
    """A target and a draft, loaded and ready; see the top of this file."""

    def __init__(self, fitted: Pair, deployment: Deployment, client: Client) -> None:
        self._fitted = fitted
        self._deployment = deployment
        self._client = client
        self._closed = False

    @classmethod
    async def start(cls, settings: EngineSettings | None = None) -> Engine:
        """Check the models, start the devices, wait until they are ready.

        Raises:
            UsageError: the models, the pair or the machine do not do.
            PeerError: a device did not start.
        """
        fitted = await asyncio.to_thread(Fitted, settings or EngineSettings())
        return await cls.start_fitted(fitted)

    @classmethod
    async def start_fitted(cls, fitted: Pair) -> Engine:
        """Start the devices of models that were checked, perhaps with a first prompt.

        Raises:
            PlacementError: the machine or the cluster lacks what is needed.
            PeerError: a device did not start.
        """
        deployment = await _deploy(fitted)
        try:
            client = await Client.dial(deployment.address, deployment)
        except BaseException:
            await deployment.close()
            raise
        return cls(fitted, deployment, client)

    def generate(
        self, prompt: Prompt, settings: Settings | None = None, *, trace: bool = False
    ) -> Generation:
        """Start a request; any number may run at once.

        Args:
            prompt: a text, or the ids of its tokens, which are then taken as they are.
            settings: how to generate.
            trace: whether to keep a record of all messages.
        Raises:
            ProtocolError: the engine is closed.
            PromptError: the prompt is neither, is empty or too long, or a token is none.
            SettingError: the settings do not fit the pair.
            PeerError: the scheduler is gone; told when the generation is awaited.
        """
        self._check_open()
        settings = settings or Settings()
        tokens = self._fitted.encode(prompt, settings)
        held = self._fitted.draft_positions
        reach = None if held is None else held - len(tokens)
        ticket = self._client.submit(
            tokens, settings, eos=self._fitted.eos, trace=trace, reach=reach
        )
        return Generation(ticket, len(tokens), self._fitted.detokenizer, settings.stop)

    async def statistics(self) -> SchedulerStatistics:
        """How it is: requests, devices and their processes, losses.

        Raises:
            ProtocolError: the engine is closed.
        """
        self._check_open()
        return await self._deployment.statistics()

    async def close(self) -> None:
        """End the devices; requests that still run fail. A second time does nothing."""
        self._closed = True
        try:
            await self._client.close()
        finally:
            await self._deployment.close()

    def _check_open(self) -> None:
        if self._closed:
            message = "the engine is closed; start another"
            raise ProtocolError(message)

    async def __aenter__(self) -> Self:
        """The engine is ready already."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close."""
        await self.close()


@final
class Fitted:
    """A pair that was checked, and what the client needs of it: the tokenizer and the limits.

    Raises:
        UsageError: a model cannot be used, or draft and target do not fit together.
    """

    def __init__(self, settings: EngineSettings) -> None:
        from actors.runners import loading  # noqa: PLC0415 - torch comes in with it
        from actors.runners.text import detokenizer_of, encode  # noqa: PLC0415 - as above

        self._room = loading.check_room
        self.settings = settings
        self.models = settings.models()
        trust = settings.trust_remote_code
        found = {
            role: loading.describe(name, trust_remote_code=trust)
            for role, name in self.models.items()
        }
        target = found[Role.TARGET]
        tokenizer = loading.load_tokenizer(target.name, trust_remote_code=trust)
        self._encode = functools.partial(encode, tokenizer)
        self.detokenizer = detokenizer_of(tokenizer)
        draft = found.get(Role.DRAFT)
        self.shared = loading.check_pair(draft or target, target, tokenizer)
        self.vocabulary = self.shared.size
        self.positions = target.positions
        self.draft_positions = None if draft is None else draft.positions
        self.eos = target.eos
        self.places = places(tuple(found), settings.gpus, len(loading.gpu_names()))
        taken: Counter[str] = Counter()  # both are loaded at a time, perhaps into one memory
        for role, model in found.items():
            at, dtype = self.places[role], settings.dtype
            loading.check_memory(model, device=at, dtype=dtype, beside=taken[at])
            taken[at] += loading.loading_bytes(model, device=at, dtype=dtype)

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


def places(roles: tuple[Role, ...], gpus: int | None, present: int) -> dict[Role, str]:
    """Torch's device for each role: the target gets a GPU first, a second one goes to the draft.

    Raises:
        PlacementError: more GPUs are asked for than there are, or than a pair can use.
    """
    gpus = min(present, len(Role)) if gpus is None else gpus
    if gpus < 0 or gpus > len(Role):
        message = f"gpus is {gpus}; a pair uses 0, 1 (shared) or {len(Role)}"
        raise PlacementError(message)
    if gpus > present:
        message = f"{gpus} GPUs asked for, {present} present; use --gpus {present}"
        raise PlacementError(message)
    if gpus == 0:
        return dict.fromkeys(roles, "cpu")
    return {role: "cuda:1" if role is Role.DRAFT and gpus > 1 else "cuda:0" for role in roles}


async def _deploy(fitted: Pair) -> Deployment:
    settings = fitted.settings
    if settings.devices is Devices.LOCAL:
        from actors.local import LocalDeployment  # noqa: PLC0415 - one of the two is needed

        return await LocalDeployment.start(
            fitted.specs(),
            load_text=fitted.text_loader(),
            patience=settings.patience,
            startup_s=settings.startup_s,
        )
    await asyncio.to_thread(importlib.import_module, "actors.cluster")  # Ray comes in with it
    from actors.cluster import ClusterSettings, RayDeployment  # noqa: PLC0415 - as above

    cluster = ClusterSettings(
        address=settings.ray_address,
        placement_s=settings.placement_s,
        startup_s=settings.startup_s,
    )
    return await RayDeployment.start(
        fitted.specs(),
        load_text=fitted.text_loader(),
        patience=settings.patience,
        settings=cluster,
    )


def device_specs(
    settings: EngineSettings, models: Mapping[Role, str], at: Mapping[Role, str], tokens: int
) -> tuple[DeviceSpec, ...]:
    """Each model on its device; `tokens` is the size of the vocabulary they share."""
    alone = len(set(at.values())) == len(at)
    # Ray shows each actor only its own GPU, which is then the first.
    on_ray = settings.devices is Devices.RAY
    return tuple(
        DeviceSpec(
            role=role,
            model=model,
            place="cuda:0" if on_ray and at[role].startswith("cuda") else at[role],
            dtype=settings.dtype,
            vocabulary=tokens,
            gpu_share=1.0 if alone else 1 / len(Role),
            trust_remote_code=settings.trust_remote_code,
        )
        for role, model in models.items()
    )
