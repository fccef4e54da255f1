"""Several requests at once, for `pearl bench --in-flight`: the same crowds by every system.

What a crowd is, says `pearl.analysis.crowds`. Only the time in which all users have a request under
way counts, because texts end at different times, and the last ones run with fewer beside them.
Prompts come in a fixed cycle, the same for all systems.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import itertools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from pearl.decoding.errors import SettingError
from pearl.decoding.settings import Settings
from pearl.harness.competitors import Contest, Family, candidates
from pearl.harness.contest import Tuned, pair_for, tune
from pearl.harness.engines import warmed
from pearl.harness.meters import Others
from pearl.harness.records import recording, request_of
from pearl.harness.stage import Stage
from pearl.harness.systems import name_of
from pearl.harness.turns import rotated
from pearl.progress import bar

if TYPE_CHECKING:
    from pearl.actors.engine import Engine, Result
    from pearl.actors.engine_settings import EngineSettings
    from pearl.analysis.benchmark import Difference
    from pearl.analysis.crowds import BatchTimes, Crowd, Level
    from pearl.decoding.messages import TokenId

LAPS: Final = 3  # requests of each user, about


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Crowds:
    """What was found; the `round` of a difference is the number of requests at once."""

    levels: list[Level]
    differences: list[Difference]
    tuned: dict[Family, Tuned]
    others: float


async def gather(
    contest: Contest, engine_settings: EngineSettings, prompts: Sequence[str], sizes: Sequence[int]
) -> Crowds:
    """Tune, then run every system with every number of requests at once.

    Raises:
        UsageError: the pair, a prompt or the machine does not do.
        PeerError: a device failed.
    """
    from pearl.analysis import crowds

    pair = await asyncio.to_thread(pair_for, contest, engine_settings, prompts)
    every = candidates(contest)
    few = {family: every[family] for family in (Family.AR, Family.SD, Family.PEARL)}
    ways = [way for (first, *_) in few.values() if isinstance(way := first.way, Settings)]
    async with warmed(pair, ways, prompts[0]) as engine:
        stage = await Stage.open(contest, pair, engine)
        with Others() as others:
            tuned = await tune(stage, few, prompts, contest.tuning_prompts)
            crowds_run = await _run(engine, systems(tuned), prompts, sizes, pair.eos)
    return Crowds(
        levels=crowds.levels(crowds_run, _times(crowds_run)),
        differences=_differences(crowds_run, len(prompts)),
        tuned=tuned,
        others=others.share,
    )


def systems(tuned: dict[Family, Tuned]) -> dict[str, Settings]:
    """AR, the best of SD and PEARL, and both with automatic windows."""
    best = [tuned[family].best.way for family in (Family.AR, Family.SD, Family.PEARL)]
    alone, sd, pearl = (way for way in best if isinstance(way, Settings))
    sd_auto, pearl_auto = replace(sd, gamma="auto"), replace(pearl, gamma="auto", head_start=0)
    return {name_of(each): each for each in (alone, sd, sd_auto, pearl, pearl_auto)}


def asked_of(prompts: int, size: int) -> list[int]:
    """Which prompts a crowd asks for: each of them, and some for every user."""
    count = max(prompts, LAPS * size)
    return list(itertools.islice(itertools.cycle(range(prompts)), count))


async def _run(
    engine: Engine,
    compared: dict[str, Settings],
    prompts: Sequence[str],
    sizes: Sequence[int],
    eos: tuple[TokenId, ...],
) -> list[Crowd]:
    """Every crowd by every system, in an order that rotates."""
    found = []
    with bar(len(sizes) * len(compared), "crowds") as advance:
        for number, size in enumerate(sizes):
            for name in rotated(list(compared), number):
                found.append(await _crowd(engine, name, compared[name], prompts, size, eos))
                advance()
    return found


async def _crowd(  # noqa: PLR0917 - what is asked, of whom, and how it ends
    engine: Engine,
    name: str,
    settings: Settings,
    prompts: Sequence[str],
    size: int,
    eos: tuple[TokenId, ...],
) -> Crowd:
    """So many users until all is written."""
    from pearl.analysis.crowds import Crowd

    places = asked_of(len(prompts), size)
    waiting = iter(enumerate(places))
    results: dict[int, Result] = {}
    written: collections.Counter[float] = collections.Counter()  # tokens, by when they came
    left: list[float] = []
    began = time.perf_counter()

    async def ask() -> None:
        for number, place in waiting:
            generation = engine.generate(prompts[place], settings, trace=True)
            async for piece in generation:
                written[time.perf_counter()] += len(piece.token_ids)
            results[number] = generation.result
        left.append(time.perf_counter())

    await asyncio.gather(*(ask() for _ in range(size)))
    return Crowd(
        system=name,
        in_flight=size,
        requests=tuple(
            request_of(name, settings, results[number], eos) for number in range(len(places))
        ),
        seconds=left[0] - began,
        tokens=sum(count for at, count in written.items() if at <= left[0]),
    )


def _times(crowds: Sequence[Crowd]) -> BatchTimes | None:
    """How long passes of so many rows took, in all crowds; None where too little was timed."""
    from pearl.analysis.crowds import BatchTimes
    from pearl.simulator import fitting, profiling

    together = [[recording(request) for request in crowd.requests] for crowd in crowds]
    try:
        target = fitting.of_passes(list(map(profiling.passes, together)))
        draft = fitting.of_windows(list(map(profiling.windows, together)))
    except SettingError:
        return None
    return BatchTimes(draft=draft.measured, target=target.measured)


def _differences(crowds: Sequence[Crowd], prompts: int) -> list[Difference]:
    """Texts that are not AR's, where they must be."""
    from pearl.analysis.benchmark import BenchmarkRun, System, differences

    settings = {crowd.system: crowd.requests[0].settings for crowd in crowds}
    compared = [
        System(
            name=name,
            settings=way,
            devices=1,
            same_text=way.widest == 0 or way.verifier_kind.same_text,
        )
        for name, way in settings.items()
    ]
    runs = [
        BenchmarkRun(
            system=crowd.system,
            prompt=place,
            round=crowd.in_flight,
            tokens=request.tokens,
            arrivals=((crowd.seconds, len(request.tokens)),),
        )
        for crowd in crowds
        for place, request in zip(asked_of(prompts, crowd.in_flight), crowd.requests, strict=True)
    ]
    return list(differences(compared, runs))
