"""One protocol, two clocks: what real devices did comes out the same on the virtual one."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Final

import msgspec
import pytest
import pytest_asyncio

from pearl.actors.engine import Engine, Result
from pearl.actors.engine_settings import Devices, EngineSettings
from pearl.decoding.exchanges import agreement
from pearl.decoding.sampling import Sampling
from pearl.decoding.settings import Settings
from pearl.decoding.stopping import StopRules
from pearl.simulator.acceptance import Replay
from pearl.simulator.answers import run as simulate
from pearl.simulator.recording import Replayed, replay
from pearl.simulator.workload import Fixed, Workload
from pearl.simulator.world import Scenario
from tests.actors.pairs import SavedPair
from tests.actors.requests import AR, PROMPTS, VARIANTS, sampled

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPT: Final = PROMPTS[0]
FIXED: Final = {"AR": AR} | {n: s for n, s in VARIANTS.items() if s.gamma != "auto"}
AUTO: Final = [name for name, settings in VARIANTS.items() if settings.gamma == "auto"]


def _engine_settings(pair: SavedPair, devices: Devices = Devices.LOCAL) -> EngineSettings:
    return EngineSettings(target=str(pair.target), draft=str(pair.draft), devices=devices, gpus=0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(text_pair: SavedPair) -> AsyncIterator[Engine]:
    async with await Engine.start(_engine_settings(text_pair)) as engine:
        yield engine


async def _recorded(engine: Engine, settings: Settings, prompt: str = PROMPT) -> Result:
    return await engine.generate(prompt, settings, trace=True).wait()


def _replay(result: Result, settings: Settings) -> Replayed:
    return replay(result.trace, settings, StopRules(limit=settings.max_new_tokens))


def _assert_same(found: Replayed, result: Result) -> None:
    """Commands, commits, epochs and the text; the time within a hundredth, as it is promised."""
    committed = [t for record in found.records for t in getattr(record, "tokens", ())]
    assert found.same_commands
    assert found.same_commits
    assert found.same_epochs
    assert tuple(committed) == result.token_ids
    assert found.simulated_s == pytest.approx(found.recorded_s, rel=0.01)
    assert len(found.records) == len(result.trace)


# -- one request -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(FIXED))
@pytest.mark.parametrize("temperature", [0.0, 0.7])
async def test_a_real_run_comes_out_the_same(engine: Engine, name: str, temperature: float) -> None:
    settings = sampled(FIXED[name], temperature)
    result = await _recorded(engine, settings)

    _assert_same(_replay(result, settings), result)


@pytest.mark.parametrize("name", [name for name in FIXED if name != "AR"])
async def test_a_real_run_with_the_rejection_verifier_comes_out_the_same(
    engine: Engine, name: str
) -> None:
    """A held row is tested without a pass: answers that take no time at all."""
    settings = msgspec.structs.replace(
        FIXED[name], verifier="rejection", sampling=Sampling(temperature=1.0)
    )
    result = await _recorded(engine, settings)

    _assert_same(_replay(result, settings), result)


@pytest.mark.slow
@pytest.mark.parametrize("name", AUTO)
async def test_gamma_auto_decides_again_as_it_did(text_pair: SavedPair, name: str) -> None:
    """The first request of an engine: later ones begin with what was learned."""
    settings = msgspec.structs.replace(VARIANTS[name], max_new_tokens=200)
    async with await Engine.start(_engine_settings(text_pair)) as fresh:
        result = await _recorded(fresh, settings)

    _assert_same(_replay(result, settings), result)


async def test_requests_that_shared_their_passes_come_out_the_same(engine: Engine) -> None:
    kinds = list(FIXED.values())
    results = await asyncio.gather(
        *(_recorded(engine, kind, text) for kind, text in zip(kinds, PROMPTS, strict=False))
    )

    for result, settings in zip(results, kinds, strict=False):
        _assert_same(_replay(result, settings), result)


async def test_a_run_that_was_interrupted_comes_out_the_same(engine: Engine) -> None:
    settings = msgspec.structs.replace(FIXED["PEARL 4"], max_new_tokens=400)
    generation = engine.generate(PROMPT, settings, trace=True)
    async for _ in generation:
        generation.abort()
    result = generation.result

    assert result.finish_reason is None
    _assert_same(_replay(result, settings), result)


# -- the luck --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.7])
async def test_every_schedule_meets_the_same_luck(engine: Engine, temperature: float) -> None:
    """Agreement belongs to the text: where two schedules looked, they saw the same."""
    found = [
        agreement((await _recorded(engine, sampled(settings, temperature))).trace)
        for name, settings in FIXED.items()
        if name != "AR"
    ]
    lucks = [luck for by_request in found for luck in by_request.values()]

    for one, other in itertools.combinations(lucks, 2):
        assert all(a == b or "?" in {a, b} for a, b in zip(one, other, strict=True))


async def test_the_luck_gives_the_verdicts_of_the_run(engine: Engine) -> None:
    """Simulated on that luck, with a barrier, each round keeps as much as the real one."""
    settings = FIXED["PEARL 4 strict"]
    result = await _recorded(engine, settings)
    (luck,) = agreement(result.trace).values()
    scenario = Scenario(
        settings=settings,
        acceptance=Replay((luck,)),
        workload=Workload(output=Fixed(settings.max_new_tokens)),
    )

    (served,) = simulate(scenario).served

    names = ("tokens", "rounds", "target_passes", "draft_steps", "kept", "rejections", "drafted")
    real, simulated = (
        {name: getattr(metrics, name) for name in names}
        for metrics in (result.metrics, served.metrics)
    )
    assert simulated == real


# -- on Ray ----------------------------------------------------------------------------------------


@pytest.mark.ray
async def test_a_run_on_ray_comes_out_the_same(text_pair: SavedPair) -> None:
    """Three processes: their clocks are one, and the ways between them are longer."""
    async with await Engine.start(_engine_settings(text_pair, Devices.RAY)) as cluster:
        first = await _recorded(cluster, VARIANTS["PEARL auto"])
        others = [(s, await _recorded(cluster, sampled(s, 0.7))) for s in FIXED.values()]

    _assert_same(_replay(first, VARIANTS["PEARL auto"]), first)
    for settings, result in others:
        _assert_same(_replay(result, sampled(settings, 0.7)), result)
