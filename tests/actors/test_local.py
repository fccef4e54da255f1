"""Devices in threads of this process: cut off, failed, and started again."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from pearl.actors import device, transcripts
from pearl.actors.engine import Engine
from pearl.actors.engine_settings import Devices, EngineSettings
from pearl.actors.hosts import Host
from pearl.actors.local import LocalDeployment
from pearl.actors.scripts import PROMPT_TOKENS, Script
from pearl.actors.specs import DeviceSpec
from pearl.actors.stand_ins import StandInPair, parse_stand_ins
from pearl.decoding.errors import PeerError
from pearl.decoding.messages import TARGET, Device, Role
from pearl.decoding.settings import Settings

DEADLINE_S: Final = 60.0
PROMPT: Final = "a prompt"
LENGTH: Final = 64
SETTINGS: Final = Settings(gamma=4, max_new_tokens=LENGTH)
SCRIPT: Final = Script()
PLACES: Final = range(PROMPT_TOKENS, PROMPT_TOKENS + LENGTH)
WHOLE: Final = tuple(SCRIPT.token(SCRIPT.prompt(PROMPT), place) for place in PLACES)
ENDLESS: Final = Settings(gamma=4, max_new_tokens=60_000)
ALONE: Final = Settings(schedule="ar", max_new_tokens=LENGTH)


@contextlib.asynccontextmanager
async def _engine() -> AsyncIterator[tuple[Engine, Any]]:
    """An engine, and the scheduler in it."""
    settings = EngineSettings(devices=Devices.LOCAL, gpus=0)
    devices = parse_stand_ins("timed", "0,1")
    pair = StandInPair(settings=settings, devices=devices, script=SCRIPT)
    async with asyncio.timeout(DEADLINE_S), await Engine.start_pair(pair) as engine:
        assert isinstance(engine._deployment, LocalDeployment)
        yield engine, engine._deployment._scheduler


async def _tokens(engine: Engine, settings: Settings = SETTINGS) -> tuple[int, ...]:
    return (await engine.generate(PROMPT, settings).wait()).token_ids


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Role]:
    """The devices that have loaded a model."""
    loaded: list[Role] = []
    load = device._load

    def counted(spec: DeviceSpec, link: device.SchedulerLink) -> Any:
        loaded.append(spec.role)
        return load(spec, link)

    monkeypatch.setattr(device, "_load", counted)
    return loaded


@pytest.mark.parametrize("role", list(Role))
async def test_a_device_that_lives_dials_again_when_its_connection_is_cut(
    role: Role, loads: list[Role]
) -> None:
    """With the model it has, and the request goes on."""
    async with _engine() as (engine, scheduler):
        generation = engine.generate(PROMPT, SETTINGS)
        tokens: list[int] = []
        async for piece in generation:
            if not tokens:
                scheduler._dispatch.stations[Device(role)].peer.cut()
            tokens += piece.token_ids

        assert tuple(tokens) == WHOLE
        assert await _tokens(engine, ALONE) == WHOLE
        while not scheduler._dispatch.stations[Device(role)].usable:  # noqa: ASYNC110 - it is dialling
            await asyncio.sleep(0)
        statistics = await engine.statistics()
        assert statistics.restarts[role] == statistics.losses[role] == 1
        assert sorted(loads) == sorted(Role)


@pytest.mark.slow
async def test_a_connection_that_is_cut_again_and_again_costs_no_request() -> None:
    """No request is blamed for what the network does."""
    async with _engine() as (engine, scheduler):
        for _ in range(20):
            generation = engine.generate(PROMPT, SETTINGS)
            tokens: list[int] = []
            async for piece in generation:
                peer = scheduler._dispatch.stations[TARGET].peer
                if peer is not None and len(tokens) < LENGTH // 2:
                    peer.cut()
                tokens += piece.token_ids

            assert tuple(tokens) == WHOLE


async def test_a_device_that_failed_is_started_again(
    loads: list[Role], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _engine() as (engine, _):
        _break_once(monkeypatch)

        assert await _tokens(engine) == WHOLE

        statistics = await engine.statistics()
        assert statistics.losses["target"] == 1
        assert "the target failed with RuntimeError: the device broke" in statistics.reasons[0]
        assert loads.count(Role.TARGET) == 2


async def test_a_device_that_cannot_be_started_again_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(*_: Any, **__: Any) -> Any:
        raise OSError("the weights are gone")

    async with _engine() as (engine, _):
        monkeypatch.setattr(device, "_load", gone)
        _break_once(monkeypatch)

        for _ in range(2):
            with pytest.raises(PeerError, match=r"cannot be started: .* the weights are gone"):
                await _tokens(engine)


def _break_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next turn of the target ends its thread."""
    turn = Host.turn

    def broken(host: Host) -> Any:
        if host._work.role is Role.DRAFT:
            return turn(host)
        monkeypatch.setattr(Host, "turn", turn)
        raise RuntimeError("the device broke")

    monkeypatch.setattr(Host, "turn", broken)


async def test_a_generation_that_nobody_holds_any_more_is_ended() -> None:
    """However it was let go: never read, read a little, or its reader cancelled."""

    async def read_a_little(engine: Engine) -> None:
        async for _ in engine.generate(PROMPT, ENDLESS):
            return

    async with _engine() as (engine, _):
        engine.generate(PROMPT, ENDLESS)
        await read_a_little(engine)
        waiting = asyncio.create_task(engine.generate(PROMPT, ENDLESS).wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        del waiting

        assert await _tokens(engine) == WHOLE
        while (await engine.statistics()).running:
            gc.collect()
            await asyncio.sleep(0)


async def test_two_may_wait_for_the_same_request() -> None:
    async with _engine() as (engine, _):
        generation = engine.generate(PROMPT, SETTINGS)

        both = await asyncio.gather(generation.wait(), generation.wait())

        assert [result.token_ids for result in both] == [WHOLE, WHOLE]


async def test_a_request_that_failed_says_so_as_often_as_it_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("struck")

    async with _engine() as (engine, _):
        with monkeypatch.context() as patched:
            patched.setattr(transcripts.Transcript, "feed", broken)
            generation = engine.generate(PROMPT, SETTINGS)
            for _ in range(2):
                with pytest.raises(PeerError, match="struck"):
                    await generation.wait()

        assert await _tokens(engine) == WHOLE
