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
import importlib
import weakref
from typing import TYPE_CHECKING, Protocol, Self, final

from pearl.actors.checking import CheckedPair
from pearl.actors.client import Client, Keeper
from pearl.actors.engine_settings import Devices, EngineSettings
from pearl.actors.starting import CHECKING, Told, untold
from pearl.actors.wire import Finished, Tokens
from pearl.decoding.errors import ProtocolError
from pearl.decoding.settings import Settings
from pearl.decoding.stopping import TextStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pearl.actors.checking import ModelPair
    from pearl.actors.client import Ticket
    from pearl.actors.scheduler import SchedulerStatistics
    from pearl.actors.text import Prompt
    from pearl.actors.wire import Address
    from pearl.decoding.messages import TokenId
    from pearl.decoding.metrics import Metrics
    from pearl.decoding.stopping import FinishReason
    from pearl.decoding.text import Detokenizer
    from pearl.decoding.trace import Record


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
    """A request that has ended; `finish_reason` is None when it was interrupted.

    `reach` is the most tokens after the prompt that the draft can hold; None: as many as asked.
    """

    text: str
    token_ids: tuple[TokenId, ...]
    finish_reason: FinishReason | None
    prompt_tokens: int
    metrics: Metrics
    trace: tuple[Record, ...] = ()
    reach: int | None = None


@final
class Generation:
    """A request under way: iterate for the pieces, then ask for the `result`."""

    def __init__(
        self,
        ticket: Ticket,
        prompt_tokens: int,
        reach: int | None,
        detokenizer: Detokenizer,
        stop: tuple[str, ...],
    ) -> None:
        self._ticket = ticket
        self._prompt_tokens, self._reach = prompt_tokens, reach
        self._stream = TextStream(detokenizer, stop)
        self._tokens: list[TokenId] = []
        self._finished: Finished | None = None
        # One without a reference is not read any more.
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
            if self._finished is None:  # the reader has left
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
            reach=self._reach,
        )


@final
class Engine:
    """A target and a draft, loaded and ready; see the top of this file."""

    def __init__(self, pair: ModelPair, deployment: Deployment, client: Client) -> None:
        self._pair = pair
        self._deployment = deployment
        self._client = client
        self._closed = False

    @classmethod
    async def start(cls, settings: EngineSettings | None = None, told: Told = untold) -> Engine:
        """Check the models, start the devices, wait until they are ready.

        Args:
            settings: what it is made of.
            told: is told on the way what is being done, and which share of it is done.
        Raises:
            UsageError: the models, the pair or the machine do not do.
            PeerError: a device did not start.
        """
        told(CHECKING, None)
        pair = await asyncio.to_thread(CheckedPair, settings or EngineSettings())
        return await cls.start_pair(pair, told)

    @classmethod
    async def start_pair(cls, pair: ModelPair, told: Told = untold) -> Engine:
        """Start the devices of models that were checked; arguments as `start`.

        Raises:
            PlacementError: the machine or the cluster lacks what is needed.
            PeerError: a device did not start.
        """
        deployment = await _deploy(pair, told)
        try:
            client = await Client.dial(deployment.address, deployment)
        except BaseException:
            await deployment.close()
            raise
        return cls(pair, deployment, client)

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
            PeerError: the scheduler is gone; raised when the generation is awaited.
        """
        self._check_open()
        settings = settings or Settings()
        tokens = self._pair.encode(prompt, settings)
        held = self._pair.draft_positions
        reach = None if held is None else held - len(tokens)
        ticket = self._client.submit(tokens, settings, eos=self._pair.eos, trace=trace, reach=reach)
        return Generation(ticket, len(tokens), reach, self._pair.detokenizer, settings.stop)

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


async def _deploy(pair: ModelPair, told: Told) -> Deployment:
    if pair.settings.devices is Devices.LOCAL:
        from pearl.actors.local import LocalDeployment  # noqa: PLC0415 - one of the two is needed

        return await LocalDeployment.start(pair, told)
    await asyncio.to_thread(importlib.import_module, "pearl.actors.cluster")  # Ray comes in with it
    from pearl.actors.cluster import RayDeployment  # noqa: PLC0415 - as above

    return await RayDeployment.start(pair, told)
