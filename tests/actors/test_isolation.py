"""Eight requests share every pass, and whatever goes wrong with one of them is nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec
import numpy as np
import pytest

from pearl.actors import transcripts
from pearl.actors.client import Client
from pearl.actors.hosts import draft_host, target_host
from pearl.actors.isolation import LONGEST_REASON
from pearl.actors.runners.interface import Room
from pearl.actors.scheduler import Scheduler
from pearl.actors.wire import Alive, DeviceFailed, Finished, JobDone, Open, Spoilt, Tokens
from pearl.decoding.errors import PeerError, PlacementError
from pearl.decoding.messages import DEVICES, DRAFT, TARGET, Device, Drafted, Judge, Order, TokenId
from pearl.decoding.settings import Settings
from pearl.decoding.turns import PIECE
from pearl.decoding.verification import make_verifier
from tests.actors.toys import ToyDevice, ToyRunner, alone, until
from tests.decoding.toys import Logits, Model, Prefix, similar

DEADLINE_S: Final = 60.0
PAIR: Final = similar(8, seed=5)
GUILTY: Final[Prefix] = (7, 7, 7)
PROMPTS: Final[tuple[Prefix, ...]] = ((1, 2, 3), (2,), (3, 1), (4, 4, 4), (5,), (6, 0), (0, 0, 1))
LENGTH: Final = 24
SETTINGS: Final = Settings(gamma=3, max_new_tokens=LENGTH)
ERRORS: Final = (
    RuntimeError,
    ValueError,
    MemoryError,
    KeyError,
    RecursionError,
    OSError,
    AssertionError,
    StopIteration,
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
    asyncio.CancelledError,
)
"""Also those that are meant to end a program: a model's own code may raise anything."""


def _of(model: Model, breaks: Callable[[Prefix], None]) -> Model:
    def broken(prefix: Prefix) -> Logits:
        breaks(prefix)
        return model(prefix)

    return broken


@contextlib.asynccontextmanager
async def _world(
    **models: Model,
) -> AsyncIterator[tuple[Client, Scheduler, dict[Device, ToyDevice]]]:
    """A scheduler with both devices and a client."""
    scheduler = Scheduler(restarts=True)
    async with asyncio.timeout(DEADLINE_S):
        address = await scheduler.open()
        devices = {
            role: await ToyDevice(
                role, ToyRunner(models.get(str(role), getattr(PAIR, str(role))))
            ).dial(address)
            for role in DEVICES
        }
        client = await Client.dial(address)
        try:
            await scheduler.wait_ready(DEADLINE_S)
            yield client, scheduler, devices
        finally:
            await client.close()
            await scheduler.close()
            for device in devices.values():
                await device.wait_ended()


async def _tokens(client: Client, prompt: Prefix) -> tuple[TokenId, ...]:
    ticket = client.submit(prompt, SETTINGS)
    tokens: list[TokenId] = []
    while isinstance(packet := await ticket.next(), Tokens):
        tokens += packet.tokens
    assert isinstance(packet, Finished)
    return tuple(tokens)


def _sabotage(step: str, role: Device, error: type[BaseException], patch: Any) -> dict[str, Model]:
    """Have the guilty request fail at this step of a turn of this device."""

    def strike(prefix: Prefix) -> None:
        if tuple(prefix[: len(GUILTY)]) == GUILTY:
            raise error("struck")

    if step == "forward":
        return {str(role): _of(getattr(PAIR, str(role)), strike)}
    if step == "draw":
        make = make_verifier
        opening: list[Prefix] = []
        patch.setattr(
            transcripts.Transcript,
            "__init__",
            _before(
                transcripts.Transcript.__init__,
                lambda _, opened, *__: opening.append(opened.prompt),
            ),
        )

        def made(*given: Any) -> Any:
            verifier, prompt = make(*given), opening[-1]
            return _Struck(verifier, lambda: strike(prompt))

        patch.setattr(transcripts, "make_verifier", made)
        return {}
    struck = _before(getattr(transcripts.Transcript, step), lambda self, *_: strike(self._text))
    patch.setattr(transcripts.Transcript, step, struck)
    return {}


def _before(method: Any, what: Callable[..., object]) -> Any:
    def wrapped(*given: Any) -> Any:
        what(*given)
        return method(*given)

    return wrapped


class _Struck:
    """A verifier that is struck before it says anything."""

    def __init__(self, inner: Any, strike: Callable[[], None]) -> None:
        self._inner, self._strike = inner, strike

    def draft(self, logits: Any, position: int) -> Drafted:
        self._strike()
        drafted: Drafted = self._inner.draft(logits, position)
        return drafted

    def judge(self, *given: Any, hold: bool) -> Any:
        self._strike()
        return self._inner.judge(*given, hold=hold)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
@pytest.mark.parametrize(
    ("step", "role"),
    [
        ("forward", DRAFT),
        ("forward", TARGET),
        ("draw", TARGET),
        ("feed", TARGET),
        ("note", TARGET),
        ("learn", TARGET),
        ("may_go_on", TARGET),
    ],
)
async def test_seven_go_on_and_the_eighth_says_why_it_cannot(
    step: str, role: Device, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = _sabotage(step, role, error, monkeypatch)
    async with _world(**models) as (client, scheduler, devices):
        asked = [asyncio.create_task(_tokens(client, prompt)) for prompt in (GUILTY, *PROMPTS)]

        guilty, *innocent = await asyncio.gather(*asked, return_exceptions=True)

        assert isinstance(guilty, PeerError)
        assert f"failed with {error.__name__}: " in str(guilty)
        assert "struck" in str(guilty)
        assert innocent == [alone(PAIR.target, prompt, LENGTH) for prompt in PROMPTS]
        await until(lambda: all(device.runner.rows == 0 for device in devices.values()))
        statistics = scheduler.statistics()
        assert (statistics.finished, statistics.failed) == (len(PROMPTS), 1)
        assert statistics.losses == {"draft": 0, "target": 0}
        assert str(guilty) in statistics.reasons[-1]


async def test_a_device_that_was_struck_two_hundred_times_is_as_it_was() -> None:
    def strike(prefix: Prefix) -> None:
        if tuple(prefix[:3]) == GUILTY:
            raise RuntimeError("struck")

    async with _world(target=_of(PAIR.target, strike)) as (client, _, devices):
        for _ in range(200):
            guilty, innocent = await asyncio.gather(
                _tokens(client, GUILTY), _tokens(client, PROMPTS[0]), return_exceptions=True
            )

            assert isinstance(guilty, PeerError)
            assert innocent == alone(PAIR.target, PROMPTS[0], LENGTH)
        await until(lambda: all(device.runner.rows == 0 for device in devices.values()))


async def test_logits_that_are_no_numbers_are_said_with_their_model_and_position() -> None:
    """And never become a token, least of all one that both models agree on."""

    def spoilt(model: Model) -> Model:
        def logits(prefix: Prefix) -> Logits:
            row = np.array(model(prefix))
            return row * np.nan if prefix[:3] == GUILTY and len(prefix) >= 5 else row

        return logits

    both = {str(role): spoilt(getattr(PAIR, str(role))) for role in DEVICES}
    async with _world(**both) as (client, _, _devices):
        guilty, innocent = await asyncio.gather(
            _tokens(client, GUILTY), _tokens(client, PROMPTS[0]), return_exceptions=True
        )

        assert "failed: the logits at position 2 after the prompt hold NaN" in str(guilty)
        assert innocent == alone(PAIR.target, PROMPTS[0], LENGTH)


async def test_a_request_that_the_draft_has_no_room_for_goes_on_without_one() -> None:
    """A draft never limits what the target writes."""

    class Full(ToyRunner):  # type: ignore[misc]
        def room(self, length: int) -> Room:
            return Room(needed=length, used=0, free=length // 2)

    async with _world() as (client, scheduler, devices):
        devices[DRAFT].die()
        await until(lambda: not scheduler._dispatch.stations[DRAFT].usable)
        address = client._address
        devices[DRAFT] = await ToyDevice(DRAFT, Full(PAIR.draft)).dial(address)
        await until(lambda: scheduler._dispatch.stations[DRAFT].usable)

        found = await asyncio.gather(*(_tokens(client, prompt) for prompt in PROMPTS))

        assert found == [alone(PAIR.target, prompt, LENGTH) for prompt in PROMPTS]
        assert (
            "goes on without a draft: the draft failed: a text of"
            in (scheduler.statistics().reasons[-1])
        )


# -- a host by itself ------------------------------------------------------------------------------


def _open(request: int, prompt: Prefix) -> Open:
    return Open(
        request=request,
        prompt=prompt,
        capacity=40,
        verifier="greedy",
        sampling=SETTINGS.sampling,
        seed=0,
    )


def _judge(request: int) -> Order:
    return Order(
        request=request, start=0, fresh=(), command=Judge(job=1, epoch=0, base=0, pending=Drafted())
    )


def test_a_pass_that_fails_only_in_company_fails_nobody() -> None:
    """As where there is memory for each of them, and not for all."""

    class Narrow(ToyRunner):  # type: ignore[misc]
        def forward(self, feeds: Any) -> Any:
            if len(feeds) > 1:
                raise MemoryError
            return super().forward(feeds)

    host = target_host(Narrow(PAIR.target))
    for request, prompt in enumerate(PROMPTS):
        host.take(_open(request, prompt))
        host.take(_judge(request))

    said = host.turn()

    assert [answer.request for answer in said] == list(range(len(PROMPTS)))
    assert not any(isinstance(answer, Spoilt) for answer in said)
    assert not host.busy


def test_the_guilty_one_is_found_also_where_texts_take_many_turns_to_read() -> None:
    """After a pass that failed both texts are read again, in pieces, and apart until then."""
    guilty, innocent = (7,) * (3 * PIECE), (1,) * (3 * PIECE)

    def choking(prefix: Prefix) -> Logits:
        if prefix[0] == 7:
            raise ArithmeticError("cannot be read")
        return PAIR.target(prefix)

    host = target_host(ToyRunner(choking))
    for request, prompt in ((1, guilty), (2, innocent)):
        host.take(msgspec.structs.replace(_open(request, prompt), capacity=len(prompt) + 8))
        host.take(_judge(request))
    said: list[Any] = []
    for _ in range(20):
        if host.busy:
            said += host.turn()

    assert {each.request: type(each) for each in said} == {1: Spoilt, 2: JobDone}


def test_a_device_that_is_full_is_not_dead() -> None:
    """Whoever has memory goes on; the one that cannot have any is told."""

    class Full(ToyRunner):  # type: ignore[misc]
        def forward(self, feeds: Any) -> Any:
            if any(feed.start == 0 and feed.tokens[0] in {0, 7} for feed in feeds):
                raise PlacementError("no memory for new rows")
            return super().forward(feeds)

    runner = Full(PAIR.target)
    host = target_host(runner)
    for request, prompt in ((1, (1, 2)), (2, GUILTY)):
        host.take(_open(request, prompt))
        host.take(_judge(request))

    said = {each.request: type(each) for each in host.turn()}

    assert said == {1: JobDone, 2: Spoilt}
    assert runner.rows == 1, "nothing was left behind by the look at the device"


def test_a_device_that_can_read_nothing_any_more_says_so_and_ends() -> None:
    """Its context is lost: to fail one request after the other would be in vain."""

    def lost(_: Prefix) -> Logits:
        raise RuntimeError("CUDA error: device-side assert triggered")

    host = target_host(ToyRunner(lost))
    host.take(_open(1, PROMPTS[0]))
    host.take(_judge(1))

    with pytest.raises(
        PeerError, match="device-side assert triggered, and can read nothing any more"
    ):
        host.turn()


def test_a_row_that_cannot_be_had_fails_its_request_only() -> None:
    class Full(ToyRunner):  # type: ignore[misc]
        def allocate(self, length: int) -> int:
            if length > 30:
                raise MemoryError("no room for 40 positions")
            return super().allocate(length)

    for host in (draft_host(Full(PAIR.draft)), target_host(Full(PAIR.target))):
        (said,) = host.take(_open(1, PROMPTS[0]))

        assert isinstance(said, Spoilt)
        assert said.request == 1
        assert "no room for 40 positions" in said.message


def test_reasons_are_one_line_of_a_bounded_length() -> None:
    def wordy(prefix: Prefix) -> Logits:
        if prefix[0] == 7:
            raise ValueError("first line\nsecond line" * 1000)
        return PAIR.target(prefix)

    host = target_host(ToyRunner(wordy))
    host.take(_open(1, GUILTY))
    host.take(_judge(1))

    (said,) = host.turn()

    assert isinstance(said, Spoilt)
    assert len(said.message) <= LONGEST_REASON + 50
    assert "\n" not in said.message
    assert not isinstance(said, DeviceFailed | Alive)
