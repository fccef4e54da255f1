"""Ray's part: placement, death and restart of real processes, and what is left when it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import msgspec
import psutil
import pytest
import pytest_asyncio

from actors.engine import Engine, EngineSettings, Generation
from actors.scheduler import Patience
from decoding.errors import PeerError, PlacementError
from decoding.messages import Device, TokenId
from decoding.settings import ScheduleName, Settings
from tests.actors.pairs import SavedPair
from tests.actors.requests import AR, PROMPTS, VARIANTS, all_at_once, sampled

if TYPE_CHECKING:
    from decoding.text import Detokenizer

pytestmark = [pytest.mark.ray, pytest.mark.asyncio(loop_scope="module")]

PROMPT: Final = PROMPTS[0]
LONG: Final = 440
RESTART_S: Final = 100.0


# -- what cannot be had, told before a model is loaded ---------------------------------------------


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Somebody listens there and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.timeout(15)
@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-host.invalid:6379", "nonsense", ""])
async def test_a_cluster_that_cannot_be_reached_is_named_at_once(
    text_pair: SavedPair, address: str
) -> None:
    """Left to itself, Ray asks for two minutes and prints about it."""
    settings = EngineSettings(target=str(text_pair.target), ray_address=address, gpus=0)

    with pytest.raises(PlacementError, match=f"no Ray cluster can be reached at {address} "):
        await Engine.start(settings)


@pytest.mark.timeout(15)
async def test_a_cluster_that_says_nothing_is_not_waited_for(
    text_pair: SavedPair, silent_port: int
) -> None:
    """Left to itself, Ray ends the whole program over this."""
    address = f"127.0.0.1:{silent_port}"
    settings = EngineSettings(target=str(text_pair.target), ray_address=address, gpus=0)

    with pytest.raises(PlacementError, match=address):
        await Engine.start(settings)


async def test_a_placement_that_cannot_be_had_says_what_is_missing(text_pair: SavedPair) -> None:
    """A GPU is asked for where Ray knows of none."""
    from actors.cluster import ClusterSettings, RayDeployment  # noqa: PLC0415 - Ray comes with it
    from actors.device import DeviceSpec  # noqa: PLC0415

    spec = DeviceSpec(
        role=Device.TARGET, model=str(text_pair.target), place="cuda:0", vocabulary=300, gpu_share=7
    )

    with pytest.raises(PlacementError, match=r"7 GPU wanted, 0 free of 0"):
        await RayDeployment.start(
            (spec,),
            load_text=_no_text,
            patience=Patience(),
            settings=ClusterSettings(placement_s=0.5),
        )
    children = psutil.Process().children(recursive=True)
    assert not [child for child in children if _mentions(child, "/tmp/pearl-")]  # noqa: S108


def _no_text() -> Detokenizer:
    raise NotImplementedError


# -- one engine ------------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(text_pair: SavedPair) -> AsyncIterator[Engine]:
    settings = EngineSettings(
        target=str(text_pair.target),
        draft=str(text_pair.draft),
        gpus=0,
        patience=Patience(restart=RESTART_S),
    )
    async with await Engine.start(settings) as engine:
        yield engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alone(engine: Engine) -> dict[float, tuple[TokenId, ...]]:
    """What the target alone writes, by temperature."""
    settings = msgspec.structs.replace(AR, max_new_tokens=LONG)
    return {
        temperature: (
            await engine.generate(PROMPT, sampled(settings, temperature)).wait()
        ).token_ids
        for temperature in (0.0, 0.7)
    }


async def test_every_schedule_writes_the_same_on_ray(
    engine: Engine, alone: dict[float, tuple[TokenId, ...]]
) -> None:
    for temperature, expected in alone.items():
        for settings in VARIANTS.values():
            result = await engine.generate(PROMPT, sampled(settings, temperature)).wait()

            assert result.token_ids == expected[: settings.max_new_tokens]


async def test_ray_writes_what_threads_of_this_process_write(
    engine: Engine, text_pair: SavedPair
) -> None:
    """Eight requests in flight on both, of every schedule."""
    from actors.engine import Devices  # noqa: PLC0415 - beside its only use

    asked = [
        (prompt, sampled(settings, 0.7, seed))
        for seed, (prompt, settings) in enumerate(zip(PROMPTS, VARIANTS.values(), strict=False))
    ]
    local = EngineSettings(
        target=str(text_pair.target), draft=str(text_pair.draft), devices=Devices.LOCAL, gpus=0
    )
    async with await Engine.start(local) as other:
        expected = [result.token_ids for result in await all_at_once(other, asked)]

    found = [result.token_ids for result in await all_at_once(engine, asked)]

    assert found == expected


@pytest.mark.parametrize("temperature", [0.0, 0.7])
async def test_killing_the_draft_changes_nothing_but_the_pace(
    engine: Engine, alone: dict[float, tuple[TokenId, ...]], temperature: float
) -> None:
    await _until_whole(engine)
    settings = sampled(Settings(gamma=3, max_new_tokens=LONG), temperature)
    generation = engine.generate(PROMPT, settings)

    await _kill_at(engine, generation, Device.DRAFT, tokens=40)

    metrics = generation.result.metrics
    assert generation.result.token_ids == alone[temperature]
    assert metrics.draft_losses == 1
    assert metrics.tokens_without_draft > 0


async def test_killing_the_target_costs_time_and_nothing_else(
    engine: Engine, alone: dict[float, tuple[TokenId, ...]]
) -> None:
    await _until_whole(engine)
    settings = sampled(Settings(gamma=3, max_new_tokens=LONG), 0.7)
    generation = engine.generate(PROMPT, settings)

    await _kill_at(engine, generation, Device.TARGET, tokens=40)

    assert generation.result.token_ids == alone[0.7]
    assert generation.result.metrics.target_losses == 1


async def test_deaths_are_counted_and_not_printed(
    engine: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ray likes to print them on standard output, where the generated text goes."""
    await _until_whole(engine)
    before = await engine.statistics()
    os.kill(before.processes["draft"], signal.SIGKILL)
    await _until_whole(engine, losses=before.losses["draft"] + 1)

    after = await engine.statistics()

    assert after.processes["draft"] != before.processes["draft"]
    assert after.processes["target"] == before.processes["target"]
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""


async def test_after_closing_nothing_is_left(engine: Engine) -> None:
    """No process, no file, no socket, no shared memory. The last test of this engine."""
    folder = Path(cast("str", engine._deployment._membership.folder))  # type: ignore[attr-defined]
    port = engine._deployment.address.port
    generation = engine.generate(PROMPT, Settings(schedule=ScheduleName.AR, max_new_tokens=LONG))
    ours = [process for process in psutil.process_iter() if _mentions(process, str(folder))]
    children = psutil.Process().children(recursive=True)
    # Python's own helper, which a test of another module may have started, stays to the end.
    ours += [child for child in children if not _mentions(child, "multiprocessing")]
    await engine.close()

    _, alive = psutil.wait_procs(set(ours), timeout=30)
    assert ours
    assert not alive
    assert not folder.exists()  # noqa: ASYNC240 - there is nothing else to do meanwhile
    with pytest.raises(PeerError, match="start the engine again"):
        await generation.wait()
    connections = psutil.Process().net_connections()
    assert not [c for c in connections if c.raddr and c.raddr.port == port]


async def _kill_at(engine: Engine, generation: Generation, device: Device, *, tokens: int) -> None:
    """Run to the end; the device's process is killed after so many tokens."""
    processes = (await engine.statistics()).processes
    seen, killed = 0, False
    async for piece in generation:
        seen += len(piece.token_ids)
        if seen >= tokens and not killed:
            os.kill(processes[device], signal.SIGKILL)
            killed = True
    assert killed


async def _until_whole(engine: Engine, losses: int = 0) -> None:
    """Wait until both devices can work, and the draft has been lost so often."""
    async with asyncio.timeout(RESTART_S):
        while True:
            statistics = await engine.statistics()
            if set(statistics.devices) == set(Device) and statistics.losses["draft"] >= losses:
                return


def _mentions(process: psutil.Process, folder: str) -> bool:
    try:
        return any(folder in word for word in process.cmdline())
    except psutil.Error:
        return False
