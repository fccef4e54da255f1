"""Ray's part: placement, death and restart of real processes, and what is left when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import psutil
import pytest
import pytest_asyncio

from pearl.actors.client import Client
from pearl.actors.cluster import RayDeployment
from pearl.actors.deadlines import Patience
from pearl.actors.engine import Engine, Generation
from pearl.actors.engine_settings import EngineSettings
from pearl.actors.guardian import marked
from pearl.actors.membership import Membership
from pearl.actors.wire import Finished
from pearl.decoding.errors import PeerError, PlacementError, ProtocolError
from pearl.decoding.messages import DEVICES, DRAFT, TARGET, Device, Role, TokenId
from pearl.decoding.settings import Settings
from tests.actors.family import connection, mentions
from tests.actors.pairs import SavedPair
from tests.actors.requests import AR, PROMPTS, VARIANTS, all_at_once, sampled

if TYPE_CHECKING:
    from pearl.decoding.text import Detokenizer

pytestmark = [pytest.mark.ray, pytest.mark.asyncio(loop_scope="module")]

PROMPT: Final = PROMPTS[0]
LONG: Final = 440
RESTART_S: Final = 100.0
ELSEWHERE: Final = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_AUTH_TOKEN": "of-another-cluster",
    "RAY_ADDRESS": "192.0.2.1:6379",
    "RAY_TMPDIR": "/nowhere",
    "RAY_USE_TLS": "1",
    "RAY_memory_usage_threshold": "0.01",
}


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
    from pearl.actors.cluster import RayDeployment  # noqa: PLC0415 - Ray comes with it
    from pearl.actors.specs import DeviceSpec  # noqa: PLC0415

    spec = DeviceSpec(
        role=Role.TARGET, model=str(text_pair.target), place="cuda:0", vocabulary=300, gpu_share=7
    )
    settings = EngineSettings(placement_s=0.5)
    pair: Any = SimpleNamespace(
        settings=settings, specs=lambda: (spec,), text_loader=lambda: _no_text
    )

    with pytest.raises(PlacementError, match=r"7 GPU wanted, 0 free of 0"):
        await RayDeployment.start(pair)
    children = psutil.Process().children(recursive=True)
    assert not [child for child in children if mentions(child, "/tmp/pearl-")]  # noqa: S108


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
    with pytest.MonkeyPatch.context() as patch:
        # What a user may have set for other clusters, all of which would spoil a private one.
        for name, value in ELSEWHERE.items():
            patch.setenv(name, value)
        engine = await Engine.start(settings)
    async with engine:
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
    from pearl.actors.engine_settings import Devices  # noqa: PLC0415 - beside its only use

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

    await _kill_at(engine, generation, DRAFT, tokens=40)

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

    await _kill_at(engine, generation, TARGET, tokens=40)

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


def _family(engine: Engine) -> list[psutil.Process]:
    return marked(cast("str", connection(engine).folder))


def _listening(process: psutil.Process) -> set[str]:
    with contextlib.suppress(psutil.Error):
        connections = process.net_connections("tcp")
        return {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
    return set()


async def test_a_private_cluster_listens_on_loopback_only(engine: Engine) -> None:
    family = [*_family(engine), psutil.Process()]

    addresses = set().union(*map(_listening, family))

    assert len(family) > 4
    assert addresses
    assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1"}


async def test_nobody_else_can_look_into_the_folder_of_a_private_cluster(engine: Engine) -> None:
    folder = Path(cast("str", connection(engine).folder))

    # Ray opens them whenever one of its processes starts, and the guardian shuts them again.
    async with asyncio.timeout(RESTART_S):
        while _modes(folder) != {0o700}:  # noqa: ASYNC110 - another process shuts them
            await asyncio.sleep(0)

    assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600


def _modes(folder: Path) -> set[int]:
    folders = [folder, *(made for made in folder.rglob("*") if made.is_dir())]
    return {stat.S_IMODE(each.stat().st_mode) for each in folders}


async def test_the_token_stands_on_no_command_line(engine: Engine) -> None:
    """Everybody may read those, unlike the file and the environment."""
    token = (Path(cast("str", connection(engine).folder)) / "token").read_text()

    assert token
    assert not [process for process in _family(engine) if mentions(process, token)]


@pytest.mark.parametrize("token", [None, "guessed" * 8])
async def test_who_does_not_know_the_token_is_not_let_in(engine: Engine, token: str | None) -> None:
    (gcs,) = [process for process in _family(engine) if process.name() == "gcs_server"]
    (port,) = {c.laddr.port for c in gcs.net_connections("tcp") if c.status == "LISTEN"}
    given = {} if token is None else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    stranger = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"from ray._raylet import GcsClient; GcsClient(address='127.0.0.1:{port}')",
        env={k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | given,
        stderr=asyncio.subprocess.PIPE,
    )

    _, said = await stranger.communicate()

    assert stranger.returncode != 0
    assert b"InvalidAuthToken" in said


async def test_two_engines_of_a_program_live_and_die_apart(
    engine: Engine, text_pair: SavedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what starts and ends them waits in threads: the loop belongs to whoever called."""
    threads: set[int] = set()
    _record(monkeypatch, Membership, "join", threads)
    _record(monkeypatch, Membership, "end", threads)
    for step in ("_start_scheduler", "_start_devices", "_close"):
        _record(monkeypatch, RayDeployment, step, threads)
    settings = EngineSettings(target=str(text_pair.target), draft=str(text_pair.draft), gpus=0)

    async with await Engine.start(settings) as other:
        theirs = await other.generate(PROMPT, AR).wait()
        ours = await engine.generate(PROMPT, AR).wait()
    await other.close()

    assert ours.token_ids == theirs.token_ids
    assert (await engine.generate(PROMPT, AR).wait()).token_ids == ours.token_ids
    assert connection(engine) is connection(other)
    assert threads
    assert threading.get_ident() not in threads
    with pytest.raises(ProtocolError, match="the engine is closed"):
        other.generate(PROMPT, AR)
    with pytest.raises(ProtocolError, match="the engine is closed"):
        await other.statistics()


def _record(patch: pytest.MonkeyPatch, owner: type, name: str, threads: set[int]) -> None:
    """Note in which threads this is done."""
    as_it_was = vars(owner)[name]
    function = as_it_was.__func__ if isinstance(as_it_was, classmethod) else as_it_was

    @functools.wraps(function)
    def noting(*args: Any, **kwargs: Any) -> Any:
        threads.add(threading.get_ident())
        return function(*args, **kwargs)

    patch.setattr(owner, name, classmethod(noting) if function is not as_it_was else noting)


async def test_an_engine_elsewhere_is_refused_while_one_is_here(
    engine: Engine, text_pair: SavedPair
) -> None:
    """Ray knows one cluster a process; another would silently be the same."""
    await _until_whole(engine)
    settings = EngineSettings(target=str(text_pair.target), ray_address="127.0.0.1:1", gpus=0)

    with pytest.raises(PlacementError, match="uses a private cluster; close it before"):
        await Engine.start(settings)


async def test_who_gives_up_a_start_leaves_nothing_behind(
    engine: Engine, text_pair: SavedPair
) -> None:
    await _until_whole(engine)
    settings = EngineSettings(target=str(text_pair.target), gpus=0)
    before = connection(engine).members
    starting = asyncio.create_task(Engine.start(settings))
    while connection(engine).members == before and not starting.done():  # noqa: ASYNC110
        await asyncio.sleep(0)
    starting.cancel()

    await asyncio.wait([starting])

    assert starting.cancelled()
    assert connection(engine).members == before


async def test_a_killed_scheduler_comes_back_where_it_was(engine: Engine) -> None:
    """Devices find it there; requests under way end with one clear error."""
    await _until_whole(engine)
    address = engine._deployment.address
    (scheduler,) = [p for p in _family(engine) if p.name().startswith("ray::Scheduler")]
    scheduler.kill()
    scheduler.wait()

    async with asyncio.timeout(RESTART_S):
        while not await _is_whole(engine):
            pass

    client = await Client.dial(address)
    settings = Settings(schedule="ar", max_new_tokens=4)
    ticket = client.submit((5, 6, 7), settings)
    while not isinstance(packet := await ticket.next(), Finished):
        pass
    assert packet.metrics.tokens == 4
    await client.close()


async def _is_whole(engine: Engine) -> bool:
    with contextlib.suppress(PeerError):
        return set((await engine.statistics()).devices) == set(DEVICES)
    return False


async def _kill_at(engine: Engine, generation: Generation, device: Device, *, tokens: int) -> None:
    """Run to the end; the device's process is killed after so many tokens."""
    processes = (await engine.statistics()).processes
    seen, killed = 0, False
    async for piece in generation:
        seen += len(piece.token_ids)
        if seen >= tokens and not killed:
            os.kill(processes[str(device)], signal.SIGKILL)
            killed = True
    assert killed


async def _until_whole(engine: Engine, losses: int = 0) -> None:
    """Wait until both devices can work, and the draft has been lost so often."""
    async with asyncio.timeout(RESTART_S):
        while True:
            statistics = await engine.statistics()
            if set(statistics.devices) == set(DEVICES) and statistics.losses["draft"] >= losses:
                return
