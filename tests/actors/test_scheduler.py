"""The scheduler over the loopback interface, with toy devices that pause and die on request."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any, Final

import msgspec
import pytest

from pearl.actors import client, peers
from pearl.actors.client import Client, Ticket
from pearl.actors.deadlines import SILENCE_S, Patience
from pearl.actors.peers import HANDSHAKE_S, MOST_STRANGERS, Peer
from pearl.actors.runners.interface import Room
from pearl.actors.scheduler import Scheduler
from pearl.actors.stations import MOST_LOSSES, MOST_STARTS
from pearl.actors.wire import (
    LARGEST_FRAME,
    LENGTH,
    Address,
    Beat,
    Finished,
    Hello,
    JobDone,
    Probe,
    Tokens,
    Unframer,
    frame,
)
from pearl.decoding.errors import PeerError, ProtocolError
from pearl.decoding.messages import DEVICES, DRAFT, TARGET, Device, Judged, TokenId
from pearl.decoding.sampling import Sampling
from pearl.decoding.settings import Settings
from pearl.decoding.stopping import FinishReason
from pearl.decoding.text import Detokenizer
from pearl.decoding.trace import Received
from tests.actors.toys import ToyDevice, ToyRunner, alone, until
from tests.decoding.toys import Logits, Prefix, similar

DEADLINE_S: Final = 60.0
PAIR: Final = similar(8, seed=5)
PROMPT: Final[Prefix] = (1, 2, 3)
LENGTH_: Final = 40
WHOLE: Final = alone(PAIR.target, PROMPT, LENGTH_)
"""What the target alone writes."""
PEARL: Final = Settings(gamma=3, max_new_tokens=LENGTH_)
AR: Final = Settings(schedule="ar", max_new_tokens=LENGTH_)
ENDLESS: Final = Patience(draft=1e6, target=1e6, restart=1e6)


@dataclasses.dataclass(kw_only=True)
class World:
    """A scheduler with its devices and a client."""

    scheduler: Scheduler
    address: Address
    client: Client
    devices: dict[Device, ToyDevice]

    @property
    def draft(self) -> ToyDevice:
        return self.devices[DRAFT]

    @property
    def target(self) -> ToyDevice:
        return self.devices[TARGET]

    async def add(self, device: ToyDevice) -> ToyDevice:
        """A device dials in, in place of the one there was."""
        self.devices[device.role] = await device.dial(self.address)
        await self.until_usable(device.role)
        return device

    async def until_usable(self, *devices: Device) -> None:
        await until(lambda: set(devices) <= set(self.scheduler.statistics().devices))

    async def until_lost(self, device: Device) -> None:
        await until(lambda: device not in self.scheduler.statistics().devices)


def _toy(
    role: Device, *, pause_after: int | None = None, die_after: int | None = None
) -> ToyDevice:
    model = PAIR.draft if role == DRAFT else PAIR.target
    return ToyDevice(role, ToyRunner(model), pause_after=pause_after, die_after=die_after)


@contextlib.asynccontextmanager
async def _world(
    *devices: ToyDevice,
    roles: tuple[Device, ...] = tuple(DEVICES),
    restarts: bool = False,
    patience: Patience = ENDLESS,
    load_text: Callable[[], Detokenizer] | None = None,
    restart: Callable[[Hello], None] | None = None,
) -> AsyncIterator[World]:
    """Devices that are not given are as good as can be; all ends before the deadline."""
    scheduler = Scheduler(
        roles, load_text=load_text, restarts=restarts, patience=patience, restart=restart
    )
    given = {role: _toy(role) for role in roles} | {device.role: device for device in devices}
    async with asyncio.timeout(DEADLINE_S):
        address = await scheduler.open()
        world = World(
            scheduler=scheduler,
            address=address,
            client=await Client.dial(address),
            devices={role: await device.dial(address) for role, device in given.items()},
        )
        try:
            await scheduler.wait_ready(DEADLINE_S)
            yield world
        finally:
            await world.client.close()
            await scheduler.close()
            for device in world.devices.values():
                device.resume()
                await device.wait_ended()


async def _finish(ticket: Ticket) -> tuple[tuple[TokenId, ...], Finished]:
    """Everything up to the end."""
    tokens: list[TokenId] = []
    while isinstance(packet := await ticket.next(), Tokens):
        tokens += packet.tokens
    return tuple(tokens), packet


# -- requests --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        AR,
        Settings(schedule="sd", gamma=3, max_new_tokens=LENGTH_),
        PEARL,
        Settings(gamma=3, head_start=2, max_new_tokens=LENGTH_),
        Settings(gamma=3, strict=True, max_new_tokens=LENGTH_),
        Settings(gamma="auto", max_new_tokens=LENGTH_),
    ],
    ids=["AR", "SD", "PEARL", "PEARL with a head start", "PEARL strict", "PEARL auto"],
)
async def test_every_schedule_writes_what_the_target_alone_writes(settings: Settings) -> None:
    async with _world() as world:
        tokens, end = await _finish(world.client.submit(PROMPT, settings))

        assert tokens == WHOLE
        assert end.reason is FinishReason.LENGTH
        assert end.metrics.tokens == LENGTH_


async def test_tokens_stream_as_they_are_committed() -> None:
    """The target has stopped in the middle: what it said so far is there."""
    async with _world(_toy(TARGET, pause_after=5)) as world:
        ticket = world.client.submit(PROMPT, AR)
        tokens: tuple[TokenId, ...] = ()
        while len(tokens) < 5:
            packet = await ticket.next()
            assert isinstance(packet, Tokens)
            tokens += packet.tokens

        assert tokens == WHOLE[:5]
        assert world.target.paused


async def test_many_requests_share_the_passes_of_the_target() -> None:
    async with _world() as world:
        prompts: list[Prefix] = [(1, n, 2) for n in range(8)]
        tickets = [world.client.submit(prompt, PEARL) for prompt in prompts]

        found = [tokens for tokens, _ in await asyncio.gather(*map(_finish, tickets))]

        assert found == [alone(PAIR.target, prompt, LENGTH_) for prompt in prompts]
        feeds = sum(len(forward) for forward in world.target.runner.forwards)
        assert feeds > 1.5 * len(world.target.runner.forwards)


async def test_a_seed_gives_the_same_tokens_in_any_company() -> None:
    sampling = Sampling(temperature=1.0)
    settings = [msgspec.structs.replace(PEARL, sampling=sampling, seed=seed) for seed in range(6)]
    async with _world() as world:
        tickets = [world.client.submit(PROMPT, one) for one in settings]

        found = [tokens for tokens, _ in await asyncio.gather(*map(_finish, tickets))]

        assert found == [
            alone(PAIR.target, PROMPT, LENGTH_, sampling=sampling, seed=seed) for seed in range(6)
        ]


async def test_a_request_that_has_ended_leaves_nothing_on_the_devices() -> None:
    async with _world() as world:
        await _finish(world.client.submit(PROMPT, PEARL))

        await until(lambda: world.draft.runner.rows == world.target.runner.rows == 0)
        assert world.scheduler.statistics().running == 0
        assert world.scheduler.statistics().finished == 1


async def test_an_aborted_request_ends_with_what_was_committed() -> None:
    async with _world(_toy(TARGET, pause_after=5)) as world:
        ticket = world.client.submit(PROMPT, PEARL)
        await until(lambda: world.target.paused)
        ticket.abort()

        tokens, end = await _finish(ticket)

        assert end.reason is None
        assert 0 < len(tokens) < LENGTH_
        assert tokens == WHOLE[: len(tokens)]
        assert end.metrics.tokens == len(tokens)
        assert world.scheduler.statistics().running == 0


async def test_aborting_twice_or_too_late_changes_nothing() -> None:
    async with _world() as world:
        ticket = world.client.submit(PROMPT, PEARL)
        await _finish(ticket)
        ticket.abort()
        ticket.abort()

        tokens, _ = await _finish(world.client.submit(PROMPT, PEARL))

        assert tokens == WHOLE


async def test_the_requests_of_a_client_that_vanishes_are_forgotten() -> None:
    async with _world(_toy(TARGET, pause_after=3)) as world:
        gone = await Client.dial(world.address)
        gone.submit(PROMPT, PEARL)
        await until(lambda: world.target.paused)
        await gone.close()
        await until(lambda: world.scheduler.statistics().running == 0)
        world.target.resume()

        tokens, _ = await _finish(world.client.submit(PROMPT, PEARL))

        assert tokens == WHOLE
        await until(lambda: world.draft.runner.rows == world.target.runner.rows == 0)


async def test_an_engine_without_a_draft_says_so_and_runs_alone() -> None:
    async with _world(roles=(TARGET,)) as world:
        with pytest.raises(PeerError, match="schedule pearl needs a draft"):
            await _finish(world.client.submit(PROMPT, PEARL))

        tokens, _ = await _finish(world.client.submit(PROMPT, AR))

        assert tokens == WHOLE


async def test_stop_strings_end_a_request_where_they_appear() -> None:
    loads = []

    def load_text() -> Detokenizer:
        loads.append(1)
        return Detokenizer(lambda tokens: "".join("abcdefgh"[token] for token in tokens))

    letters = load_text()(WHOLE)
    stop = letters[10:13]
    settings = msgspec.structs.replace(PEARL, stop=("never", stop))
    async with _world(load_text=load_text) as world:
        tickets = [world.client.submit(PROMPT, settings) for _ in range(2)]

        for tokens, end in await asyncio.gather(*map(_finish, tickets)):
            assert tokens == WHOLE[: letters.find(stop) + len(stop)]
            assert end.reason is FinishReason.STOP
        assert len(loads) == 2, "once here, once by the scheduler"


async def test_the_trace_has_every_committed_token() -> None:
    async with _world() as world:
        _, end = await _finish(world.client.submit(PROMPT, PEARL, trace=True))

        received = [record for record in end.trace if isinstance(record, Received)]
        assert tuple(token for record in received for token in record.tokens) == WHOLE
        assert [record.at for record in end.trace] == sorted(record.at for record in end.trace)
        assert received[-1].kept == end.metrics.kept


# -- peers that are not what they should be --------------------------------------------------------


@pytest.mark.parametrize("secret", ["wrong", "", "ü"])
async def test_a_client_with_a_wrong_secret_is_cut_off_and_its_request_fails(secret: str) -> None:
    async with _world() as world:
        stranger = await Client.dial(msgspec.structs.replace(world.address, secret=secret))

        with pytest.raises(PeerError, match="the scheduler is gone"):
            await _finish(stranger.submit(PROMPT, PEARL))

        await stranger.close()
        assert world.scheduler.statistics().finished == 0


def _nonsense(secret: str) -> dict[str, bytes]:
    client = frame(Hello(secret=secret))
    judged = Judged(job=1, epoch=0, base=0, judged=0, kept=0, token=1)
    return {
        "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "garbage": LENGTH.pack(3) + b"\xc1\xc1\xc1",
        "a frame too large": LENGTH.pack(LARGEST_FRAME + 1),
        "no hello": frame(Probe()),
        "hello twice": client + client,
        "a client that speaks like a scheduler": client + frame(Probe()),
        "a fault of no device": client + LENGTH.pack(0),
        "an answer of no device, and garbage": client
        + frame(JobDone(request=0, event=judged))
        + LENGTH.pack(0),
    }


@pytest.mark.parametrize("name", list(_nonsense("")))
async def test_a_peer_that_talks_nonsense_is_cut_off_and_harms_nobody(name: str) -> None:
    async with _world(_toy(TARGET, pause_after=3)) as world:
        ticket = world.client.submit(PROMPT, PEARL)
        await until(lambda: world.target.paused)
        reader, writer = await asyncio.open_connection(world.address.host, world.address.port)
        writer.write(_nonsense(world.address.secret)[name])

        heard = list(Unframer().feed(await reader.read()))

        assert all(packet == Beat() for packet in heard), "no more than a greeting, then the end"
        writer.close()
        world.target.resume()
        tokens, _ = await _finish(ticket)
        assert tokens == WHOLE


async def test_a_device_that_is_not_wanted_is_hung_up_on() -> None:
    failures: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    async with _world(roles=(TARGET,)) as world:
        device = await _toy(DRAFT).dial(world.address)

        await device.wait_ended()
        await until(lambda: len(world.scheduler._peers) == 2)

        assert world.scheduler.statistics().devices == (TARGET,)
        assert not failures


async def test_a_device_that_dials_in_twice_is_heard_on_its_newer_connection() -> None:
    """Its old process may not have noticed yet that it was given up."""
    async with _world(_toy(DRAFT, pause_after=3)) as world:
        ticket = world.client.submit(PROMPT, PEARL)
        await until(lambda: world.draft.paused)
        old = world.draft
        await world.add(_toy(DRAFT))
        old.resume()

        tokens, end = await _finish(ticket)

        await old.wait_ended()
        assert tokens == WHOLE
        assert end.metrics.draft_losses == 1


# -- devices that come and go ----------------------------------------------------------------------


async def test_a_request_goes_on_while_the_draft_is_away() -> None:
    async with _world(_toy(TARGET, pause_after=3)) as world:
        ticket = world.client.submit(PROMPT, PEARL)
        await until(lambda: world.target.paused)
        world.draft.die()
        await world.until_lost(DRAFT)
        world.target.resume()

        tokens, end = await _finish(ticket)

        assert tokens == WHOLE
        assert end.metrics.draft_losses == 1
        assert end.metrics.tokens_without_draft > LENGTH_ / 2
        assert world.scheduler.statistics().losses == {"draft": 1, "target": 0}


async def test_a_draft_that_comes_back_works_again() -> None:
    async with _world(_toy(TARGET, pause_after=3)) as world:
        ticket = world.client.submit(PROMPT, PEARL)
        await until(lambda: world.target.paused)
        world.draft.die()
        await world.until_lost(DRAFT)
        again = await world.add(_toy(DRAFT))
        world.target.resume()

        tokens, end = await _finish(ticket)

        assert tokens == WHOLE
        assert end.metrics.draft_losses == 1
        assert again.turns > 0


async def test_a_target_that_is_restarted_goes_on_from_the_committed_tokens() -> None:
    async with _world(_toy(TARGET, die_after=4), restarts=True) as world:
        ticket = world.client.submit(PROMPT, PEARL)
        await world.until_lost(TARGET)
        await world.add(_toy(TARGET))

        tokens, end = await _finish(ticket)

        assert tokens == WHOLE
        assert end.metrics.target_losses == 1


async def test_a_target_that_nobody_restarts_fails_its_requests_at_once() -> None:
    async with _world(_toy(TARGET, die_after=4)) as world:
        with pytest.raises(PeerError, match="the target died"):
            await _finish(world.client.submit(PROMPT, PEARL))


async def test_what_a_target_says_before_it_dies_is_what_its_requests_fail_with() -> None:
    async with _world(_toy(TARGET, pause_after=2)) as world:
        ticket = world.client.submit(PROMPT, PEARL)
        await until(lambda: world.target.paused)
        world.target.fail("the target failed: out of memory")

        with pytest.raises(PeerError, match="out of memory"):
            await _finish(ticket)


async def test_a_target_that_does_not_come_back_in_time_fails_its_requests() -> None:
    patience = Patience(draft=1e6, target=1e6, restart=50.0)
    async with _world(_toy(TARGET, die_after=4), restarts=True, patience=patience) as world:
        ticket = world.client.submit(PROMPT, PEARL)
        await world.until_lost(TARGET)
        world.scheduler._deadlines.check(time.monotonic() + 51)

        with pytest.raises(PeerError, match="did not come back: it was not restarted in time"):
            await _finish(ticket)


async def test_a_target_that_is_being_restarted_is_not_blamed_for_its_silence() -> None:
    """The two deadlines are for different things, and the one for a verdict may be the shorter."""
    patience = Patience(draft=1e6, target=50.0, restart=1e6)
    async with _world(_toy(TARGET, die_after=4), restarts=True, patience=patience) as world:
        ticket = world.client.submit(PROMPT, PEARL)
        await world.until_lost(TARGET)
        world.scheduler._deadlines.check(time.monotonic() + 51)
        await world.add(_toy(TARGET))

        tokens, _ = await _finish(ticket)

        assert tokens == WHOLE


async def test_a_request_that_kills_its_target_again_and_again_fails() -> None:
    """Or one bad request would keep a device restarting for ever."""
    async with _world(_toy(TARGET, die_after=0), restarts=True) as world:
        ticket = world.client.submit(PROMPT, AR)
        for _ in range(MOST_LOSSES - 1):
            await world.until_lost(TARGET)
            await world.add(_toy(TARGET, die_after=0))

        with pytest.raises(PeerError, match=f"the target died {MOST_LOSSES} times"):
            await _finish(ticket)


async def test_requests_wait_for_devices_that_are_still_loading() -> None:
    """Which one is late must not matter."""
    for late in DEVICES:
        async with _world(restarts=True) as world:
            world.devices[late].die()
            await world.until_lost(late)
            loading = await _toy(late).dial(world.address, ready=False)
            ticket = world.client.submit(PROMPT, PEARL)
            await until(lambda: world.scheduler.statistics().running == 1)
            loading.ready()
            world.devices[late] = loading

            tokens, _ = await _finish(ticket)

            assert tokens == WHOLE


async def test_a_stalled_draft_is_given_up_and_taken_back_when_it_has_caught_up() -> None:
    """It is asked once whether it lives, and answers when it has read all that came before."""
    patience = Patience(draft=1e3, target=1e6, restart=1e6)
    draft, target = _toy(DRAFT, pause_after=4), _toy(TARGET)
    async with _world(draft, target, patience=patience) as world:
        ticket = world.client.submit(PROMPT, PEARL)
        await until(lambda: draft.paused)
        target.pause()
        world.scheduler._deadlines.check(time.monotonic() + 2e3)
        assert world.scheduler.statistics().devices == (TARGET,)
        draft.resume()
        await world.until_usable(DRAFT)
        target.resume()

        tokens, end = await _finish(ticket)

        assert tokens == WHOLE
        assert end.metrics.draft_losses == 1
        assert draft.turns > 4


async def test_a_request_goes_on_alone_beside_a_draft_that_stays_stalled() -> None:
    patience = Patience(draft=1e3, target=1e6, restart=1e6)
    async with _world(_toy(DRAFT, pause_after=4), patience=patience) as world:
        ticket = world.client.submit(PROMPT, PEARL)
        await until(lambda: world.draft.paused)
        world.scheduler._deadlines.check(time.monotonic() + 2e3)

        tokens, end = await _finish(ticket)
        later, _ = await _finish(world.client.submit(PROMPT, PEARL))

        assert tokens == later == WHOLE
        assert end.metrics.tokens_without_draft > 0


async def test_a_target_that_never_answers_fails_its_requests() -> None:
    patience = Patience(draft=1e6, target=50.0, restart=1e6)
    async with _world(_toy(TARGET, pause_after=2), patience=patience) as world:
        tickets = [world.client.submit(PROMPT, AR) for _ in range(3)]
        await until(lambda: world.target.paused)
        world.scheduler._deadlines.check(time.monotonic() + 51)

        for ticket in tickets:
            with pytest.raises(PeerError, match="no verdict within 50 s"):
                await _finish(ticket)


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_dies_whenever_the_text_is_the_same(seed: int) -> None:
    """Both devices die after a few turns, again and again, and others take their places."""
    random = Random(seed)
    settings = msgspec.structs.replace(PEARL, head_start=seed % 3, strict=seed % 4 == 0)

    def mortal(role: Device) -> ToyDevice:
        return _toy(role, die_after=random.randint(8, 30))

    async def replace(world: World, role: Device) -> None:
        while True:
            await world.devices[role].wait_ended()
            await world.until_lost(role)
            await world.add(mortal(role))

    async with _world(*map(mortal, DEVICES), restarts=True) as world:
        replacing = [asyncio.create_task(replace(world, role)) for role in DEVICES]
        tickets = [world.client.submit((1, 2, n), settings) for n in range(3)]

        found = [tokens for tokens, _ in await asyncio.gather(*map(_finish, tickets))]

        for task in replacing:
            task.cancel()
        await asyncio.gather(*replacing, return_exceptions=True)
        assert found == [alone(PAIR.target, (1, 2, n), LENGTH_) for n in range(3)]


# -- whose fault it is -----------------------------------------------------------------------------


def _deadly(prompt: Prefix) -> Callable[[], ToyDevice]:
    """Makes targets whose context is lost as soon as they read this prompt."""

    def make() -> ToyDevice:
        lost = False

        def model(prefix: Prefix) -> Logits:
            nonlocal lost
            lost = lost or prefix[: len(prompt)] == prompt
            if lost:
                raise RuntimeError("the context is lost")
            return PAIR.target(prefix)

        return ToyDevice(TARGET, ToyRunner(model))

    return make


async def test_only_the_request_that_kills_a_device_is_charged_with_it() -> None:
    """The others share its passes, and are lost with it; then each has the device for itself."""
    make = _deadly((7, 7))
    async with _world(make(), restarts=True) as world:
        others = [world.client.submit((1, n, 2), PEARL) for n in range(4)]
        guilty = world.client.submit((7, 7), PEARL)

        async def restart() -> None:
            while True:
                await world.until_lost(TARGET)
                await world.add(make())

        restarting = asyncio.create_task(restart())
        with pytest.raises(PeerError, match=f"died {MOST_LOSSES} times .* the context is lost"):
            await _finish(guilty)
        assert world.scheduler.statistics().losses["target"] <= MOST_LOSSES + 1
        found = [tokens for tokens, _ in await asyncio.gather(*map(_finish, others))]

        assert found == [alone(PAIR.target, (1, n, 2), LENGTH_) for n in range(4)]
        restarting.cancel()
        await asyncio.gather(restarting, return_exceptions=True)


async def test_a_suspect_has_the_device_to_itself() -> None:
    """Also where a new request comes meanwhile: else nobody would know who killed it next."""
    async with _world(_toy(TARGET, pause_after=1), restarts=True) as world:
        tickets = [world.client.submit(prompt, AR) for prompt in ((1,), (2,), (3,))]
        await until(lambda: world.target.paused and world.scheduler.statistics().running == 3)
        world.target.die()
        await world.until_lost(TARGET)
        again = _toy(TARGET)
        again.pause()
        await world.add(again)
        tickets.append(world.client.submit((4,), AR))
        await until(lambda: world.scheduler.statistics().running == 4)

        asked = [r for r in world.scheduler._dispatch.running.values() if TARGET in r.waiting]

        assert len(asked) == 1
        again.resume()
        found = [tokens for tokens, _ in await asyncio.gather(*map(_finish, tickets))]
        assert found == [alone(PAIR.target, (n,), LENGTH_) for n in (1, 2, 3, 4)]


async def test_a_request_that_stalls_a_device_and_then_kills_it_is_charged_too() -> None:
    async with _world(_toy(TARGET, pause_after=0), restarts=True) as world:
        ticket = world.client.submit(PROMPT, AR)
        for _ in range(MOST_LOSSES):
            await until(lambda: bool(_asked(world, TARGET)))
            world.scheduler._dispatch.lose(TARGET, "it says nothing")
            stalled = world.target
            stalled.die()
            if world.scheduler.statistics().running:
                await world.add(_toy(TARGET, pause_after=0))

        with pytest.raises(PeerError, match=f"the target died {MOST_LOSSES} times"):
            await _finish(ticket)


def _asked(world: World, device: Device) -> list[int]:
    return [r.number for r in world.scheduler._dispatch.running.values() if device in r.waiting]


async def test_a_suspect_that_the_draft_has_no_room_for_goes_on_without_it() -> None:
    """It must not be given back what it has just been refused."""

    class Full(ToyRunner):  # type: ignore[misc]
        def room(self, length: int) -> Room:
            return Room(needed=length, used=0, free=0)

    async with _world(_toy(DRAFT, pause_after=2), restarts=True) as world:
        ticket = world.client.submit(PROMPT, PEARL)
        await until(lambda: world.draft.paused)
        world.draft.die()
        await world.until_lost(DRAFT)
        await world.add(ToyDevice(DRAFT, Full(PAIR.draft)))

        tokens, _ = await _finish(ticket)

        assert tokens == WHOLE


async def test_a_draft_that_loads_is_sent_nothing_yet() -> None:
    """Both devices are away when a request comes; nobody may wait for a window meanwhile."""
    async with _world(restarts=True) as world:
        for role in DEVICES:
            world.devices[role].die()
            await world.until_lost(role)
        loading = [await _toy(role).dial(world.address, ready=False) for role in DEVICES]
        ticket = world.client.submit(PROMPT, PEARL)
        await until(lambda: world.scheduler.statistics().running == 1)

        assert _asked(world, DRAFT) == _asked(world, TARGET) == []
        for device in loading:
            device.ready()
            world.devices[device.role] = device
        assert (await _finish(ticket))[0] == WHOLE


async def test_losses_of_a_request_that_makes_progress_wear_off() -> None:
    """A target that dies after each verdict is no fault of whoever is unlucky enough to use it."""
    async with _world(_toy(TARGET, die_after=1), restarts=True) as world:
        settings = msgspec.structs.replace(AR, max_new_tokens=3 * MOST_LOSSES)
        asked = asyncio.create_task(_finish(world.client.submit(PROMPT, settings)))
        while not asked.done():
            await until(
                lambda: asked.done() or not world.scheduler._dispatch.stations[TARGET].usable
            )
            if not asked.done():
                world.devices[TARGET] = await _toy(TARGET, die_after=1).dial(world.address)
                await until(
                    lambda: asked.done() or world.scheduler._dispatch.stations[TARGET].usable
                )

        tokens, end = await asked

        assert tokens == WHOLE[: 3 * MOST_LOSSES]
        assert end.metrics.target_losses >= 2 * MOST_LOSSES


async def test_a_target_that_cannot_be_started_again_fails_everybody_at_once() -> None:
    """Also those that come later: nobody waits for what cannot come."""
    async with _world(_toy(TARGET, die_after=4), restarts=True) as world:
        ticket = world.client.submit(PROMPT, PEARL)
        await world.until_lost(TARGET)
        for _ in range(MOST_STARTS):
            device = await _toy(TARGET).dial(world.address, ready=False)
            device.fail("the target failed: its weights are gone")
            await device.wait_ended()

        for asked in (ticket, world.client.submit(PROMPT, AR)):
            with pytest.raises(PeerError, match=r"cannot be started: .* its weights are gone"):
                await _finish(asked)


async def test_a_device_that_gives_no_sign_of_life_is_lost_and_then_restarted() -> None:
    asked_for: list[Hello] = []
    target = ToyDevice(TARGET, ToyRunner(PAIR.target), pause_after=3, beats=True)
    async with _world(target, restarts=True, restart=asked_for.append) as world:
        ticket = world.client.submit(PROMPT, PEARL)
        await until(lambda: world.target.paused)
        world.scheduler._deadlines.check(time.monotonic() + SILENCE_S + 1)
        assert world.scheduler.statistics().devices == (DRAFT,)
        assert asked_for == []
        world.scheduler._deadlines.check(time.monotonic() + 2 * SILENCE_S + 1)
        assert [hello.device for hello in asked_for] == [TARGET]
        await world.add(_toy(TARGET))

        tokens, _ = await _finish(ticket)

        target.resume()
        await target.wait_ended()
        assert tokens == WHOLE
        assert "no sign of life" in world.scheduler.statistics().reasons[0]


async def test_a_scheduler_that_was_held_up_blames_nobody_for_its_own_silence() -> None:
    """A program that computes in the event loop does not hear its devices meanwhile."""
    target = ToyDevice(TARGET, ToyRunner(PAIR.target), pause_after=3, beats=True)
    async with _world(target) as world:
        ticket = world.client.submit(PROMPT, PEARL)
        await until(lambda: world.target.paused)
        world.scheduler._deadlines._overslept(60.0)
        world.scheduler._deadlines.check(time.monotonic() + 60.0)
        assert set(world.scheduler.statistics().devices) == set(DEVICES)
        world.target.resume()

        tokens, _ = await _finish(ticket)

        assert tokens == WHOLE


# -- strangers, and peers that do not listen -------------------------------------------------------


async def test_strangers_have_a_deadline_and_are_not_many() -> None:
    async with _world() as world:
        host, port = world.address.host, world.address.port
        strangers = [await asyncio.open_connection(host, port) for _ in range(MOST_STRANGERS)]
        reader, writer = await asyncio.open_connection(host, port)
        assert await reader.read() == b"", "one too many"
        world.scheduler._deadlines.check(time.monotonic() + HANDSHAKE_S + 1)

        assert {await reader.read() for reader, _ in strangers} == {b""}
        tokens, _ = await _finish(world.client.submit(PROMPT, PEARL))
        assert tokens == WHOLE
        for _, each in (*strangers, (reader, writer)):
            each.close()


@pytest.mark.slow
async def test_a_client_that_does_not_read_is_cut_off_before_it_fills_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers, "MOST_UNREAD", 1 << 10)
    async with _world() as world:
        reader, writer = await asyncio.open_connection(world.address.host, world.address.port)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(frame(Hello(secret=world.address.secret)) + frame(Beat()) * 2_000_000)
        flooded = await _until_flooded(world)
        world.scheduler._deadlines.check(time.monotonic())
        await until(lambda: flooded not in world.scheduler._peers)

        tokens, _ = await _finish(world.client.submit(PROMPT, PEARL))

        assert tokens == WHOLE
        writer.close()
        del reader


async def _until_flooded(world: World) -> Peer:
    await until(lambda: any(peer.is_flooded() for peer in world.scheduler._peers))
    return next(peer for peer in world.scheduler._peers if peer.is_flooded())


# -- a scheduler that dies -------------------------------------------------------------------------


class Keeping:
    """Keeps a scheduler, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.alive = True
        self.revived = 0

    def revive(self) -> None:
        self.revived += 1


async def _kill(scheduler: Scheduler) -> None:
    """End it without a word, as a killed process does."""
    assert scheduler._watchdog is not None
    assert scheduler._server is not None
    scheduler._watchdog.cancel()
    scheduler._server.close()
    for peer in list(scheduler._peers):
        peer.cut()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_a_request_goes_on_where_it_was_with_the_scheduler_that_was_restarted(
    temperature: float,
) -> None:
    """No token comes twice, and none is missing."""
    sampling = Sampling(temperature=temperature)
    settings = msgspec.structs.replace(PEARL, sampling=sampling)
    async with _world(_toy(TARGET, pause_after=5)) as world:
        ticket = world.client.submit(PROMPT, settings)
        first = await ticket.next()
        assert isinstance(first, Tokens)
        await until(lambda: world.target.paused)
        await _kill(world.scheduler)
        again = Scheduler(restarts=True, patience=ENDLESS)
        await again.open(port=world.address.port, secret=world.address.secret)
        devices = [await _toy(role).dial(world.address) for role in DEVICES]

        rest, end = await _finish(ticket)

        assert first.tokens + rest == alone(PAIR.target, PROMPT, LENGTH_, sampling=sampling)
        assert end.reason is FinishReason.LENGTH
        await world.client.close()
        await again.close()
        for device in devices:
            await device.wait_ended()


async def test_a_scheduler_that_comes_back_late_is_found_by_the_next_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever waited was told in time; nobody has to start the engine again."""
    async with _world(_toy(TARGET, pause_after=5)) as world:
        ticket = world.client.submit(PROMPT, PEARL)
        await until(lambda: world.target.paused)
        monkeypatch.setattr(client, "REDIAL_S", 1e-3)
        await _kill(world.scheduler)
        with pytest.raises(PeerError, match="the scheduler is gone"):
            await _finish(ticket)
        monkeypatch.setattr(client, "REDIAL_S", DEADLINE_S)
        again = Scheduler(restarts=True, patience=ENDLESS)
        await again.open(port=world.address.port, secret=world.address.secret)
        devices = [await _toy(role).dial(world.address) for role in DEVICES]

        tokens, _ = await _finish(world.client.submit(PROMPT, PEARL))

        assert tokens == WHOLE
        await world.client.close()
        await again.close()
        for device in devices:
            await device.wait_ended()


async def test_nobody_dials_where_there_is_no_hope() -> None:
    """The cluster is gone, and its guardian knows: requests are told at once."""
    keeper = Keeping()
    async with _world(_toy(TARGET, pause_after=5)) as world:
        hoping = await Client.dial(world.address, keeper)
        ticket = hoping.submit(PROMPT, PEARL)
        await until(lambda: world.target.paused)
        keeper.alive = False
        await _kill(world.scheduler)

        for asked in (ticket, hoping.submit(PROMPT, PEARL)):
            with pytest.raises(PeerError, match="the scheduler is gone"):
                await _finish(asked)

        await hoping.close()


async def test_a_request_that_was_aborted_meanwhile_is_not_begun_again() -> None:
    async with _world(_toy(TARGET, pause_after=5)) as world:
        ticket = world.client.submit(PROMPT, PEARL)
        first = await ticket.next()
        assert isinstance(first, Tokens)
        await until(lambda: world.target.paused)
        await _kill(world.scheduler)
        await until(lambda: world.client._line is None)
        ticket.abort()
        again = Scheduler(restarts=True, patience=ENDLESS)
        await again.open(port=world.address.port, secret=world.address.secret)

        rest, end = await _finish(ticket)

        assert first.tokens + rest == WHOLE[: len(first.tokens + rest)]
        assert end.reason is None
        assert again.statistics().running == 0
        await again.close()


async def test_a_text_that_would_not_go_on_as_it_began_ends_with_an_error() -> None:
    """Rejection draws other tokens when its windows are others."""
    verifier, sampling = "rejection", Sampling(temperature=1.0)
    settings = msgspec.structs.replace(PEARL, verifier=verifier, sampling=sampling)
    async with _world(_toy(TARGET, pause_after=5)) as world:
        ticket = world.client.submit(PROMPT, settings)
        await ticket.next()
        await until(lambda: world.target.paused)
        await _kill(world.scheduler)
        again = Scheduler(restarts=True, patience=ENDLESS)
        await again.open(port=world.address.port, secret=world.address.secret)

        with pytest.raises(PeerError, match="would not go on as it began; ask again"):
            await _finish(ticket)

        await again.close()


async def test_a_scheduler_that_says_nothing_any_more_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was stopped: its connections stand, and nobody answers. Whoever keeps it is asked to."""
    monkeypatch.setattr(client, "BEAT_S", 1e-3)
    monkeypatch.setattr(client, "REDIAL_S", 0.1)
    monkeypatch.setattr(client, "PAUSE_S", 1e-3)
    keeper = Keeping()

    opened: list[asyncio.StreamWriter] = []

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not opened:
            writer.write(frame(Beat()))
        opened.append(writer)

    async with asyncio.timeout(DEADLINE_S):
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        address = Address(host=host, port=port, secret="quiet")  # noqa: S106
        asking = await Client.dial(address, keeper)

        with pytest.raises(PeerError, match="the scheduler is gone"):
            await _finish(asking.submit(PROMPT, PEARL))

        assert keeper.revived > 0

        await asking.close()
        server.close()
        for writer in opened:
            writer.close()


# -- its own life ----------------------------------------------------------------------------------


async def test_a_scheduler_that_is_closed_tells_its_clients() -> None:
    async with _world(_toy(TARGET, pause_after=2)) as world:
        ticket = world.client.submit(PROMPT, PEARL)
        await until(lambda: world.target.paused)
        await world.scheduler.close()

        with pytest.raises(PeerError, match="the scheduler was closed"):
            await _finish(ticket)


async def test_a_request_to_a_scheduler_that_is_gone_fails_at_once() -> None:
    async with _world() as world:
        await _finish(world.client.submit(PROMPT, PEARL))
        await world.scheduler.close()

        with pytest.raises(PeerError, match="the scheduler is gone"):
            await _finish(world.client.submit(PROMPT, PEARL))


@pytest.mark.parametrize("eos", [(True,), (2**70,), ("end",)])
async def test_what_no_wire_carries_is_refused_where_it_is_asked(eos: Any) -> None:
    """Else the scheduler would hang up on all that this client asks, again and again."""
    async with _world() as world:
        with pytest.raises(ProtocolError, match="a request that cannot be sent"):
            world.client.submit(PROMPT, PEARL, eos=eos)

        tokens, _ = await _finish(world.client.submit(PROMPT, PEARL))
        assert tokens == WHOLE


async def test_closing_the_client_ends_whoever_waits_for_it() -> None:
    """An engine is closed while another task still reads from it."""
    async with _world(_toy(TARGET, pause_after=2)) as world:
        waiting = asyncio.create_task(_finish(world.client.submit(PROMPT, PEARL)))
        await until(lambda: world.target.paused)
        await world.client.close()

        with pytest.raises(PeerError, match="the scheduler is gone"):
            await waiting


async def test_a_client_that_is_closed_at_once_hangs_up_all_the_same() -> None:
    async with _world() as world:
        dialled = await Client.dial(world.address)
        await dialled.close()

        assert dialled._line is not None
        assert dialled._line._writer.is_closing()


async def test_closing_hangs_up_on_everybody() -> None:
    async with _world() as world:
        reader, writer = await asyncio.open_connection(world.address.host, world.address.port)
        await world.scheduler.close()

        assert await reader.read() == b""
        await world.draft.wait_ended()
        await world.target.wait_ended()
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(world.address.host, world.address.port)


async def test_starting_up_tells_which_device_is_late() -> None:
    scheduler = Scheduler()
    async with asyncio.timeout(DEADLINE_S):
        address = await scheduler.open()
        target = await _toy(TARGET).dial(address)
        await until(lambda: scheduler.statistics().devices == (TARGET,))

        with pytest.raises(PeerError, match=r"the draft did not start within 0\.01 s"):
            await scheduler.wait_ready(0.01)

        await scheduler.close()
        await target.wait_ended()


async def test_starting_up_tells_what_a_device_complains_of() -> None:
    """The connection ends right behind the complaint, which must not be lost with it."""
    scheduler = Scheduler()
    async with asyncio.timeout(DEADLINE_S):
        address = await scheduler.open()
        target = await _toy(TARGET).dial(address)
        draft = await _toy(DRAFT).dial(address, ready=False)
        draft.fail("the draft failed: no such model")

        with pytest.raises(PeerError, match="no such model"):
            await scheduler.wait_ready(DEADLINE_S)

        await scheduler.close()
        await target.wait_ended()
        await draft.wait_ended()


async def test_the_statistics_name_the_processes_of_the_devices() -> None:
    async with _world() as world:
        statistics = world.scheduler.statistics()

        assert set(statistics.devices) == set(DEVICES)
        assert set(statistics.processes) == {"draft", "target"}
        assert statistics.losses == {"draft": 0, "target": 0}
