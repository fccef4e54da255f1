"""Several requests at once, for `pearl bench --in-flight`: the same waves by every system.

Prompts come in a fixed cycle. Every number of requests decodes every prompt once or more, so that
all numbers are asked of the same texts.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from decoding.errors import SettingError
from decoding.settings import Settings
from pearl.contest import Family, Stage, Tuned, candidates, fit, rotated, tune
from pearl.meters import Others
from pearl.options import bar
from pearl.validate import name_of

if TYPE_CHECKING:
    from actors.engine import Engine, EngineSettings, Result
    from analysis.benchmark import Difference
    from analysis.crowds import Level, Times, Wave
    from decoding.messages import TokenId
    from pearl.contest import Plan
    from simulator.profiling import Recording


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Crowds:
    """What was found; the `round` of a difference is the number of requests at once."""

    levels: list[Level]
    differences: list[Difference]
    tuned: dict[Family, Tuned]
    others: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Requests that were submitted together, and the time until all had ended."""

    system: str
    settings: Settings
    prompts: tuple[int, ...]
    results: tuple[Result, ...]
    seconds: float


async def gather(
    plan: Plan, engine_settings: EngineSettings, prompts: Sequence[str], sizes: Sequence[int]
) -> Crowds:
    """Tune, then run every system with every number of requests at once.

    Raises:
        UsageError: the pair, a prompt or the machine does not do.
        PeerError: a device failed.
    """
    from actors.engine import Engine
    from analysis import crowds

    fitted = fit(plan, engine_settings, prompts)
    every = candidates(plan)
    few = {family: every[family] for family in (Family.AR, Family.SD, Family.PEARL)}
    async with await Engine.start_fitted(fitted) as engine:
        stage = await Stage.open(plan, fitted, engine, None)
        for competitors in few.values():
            await stage.warm(competitors[0], prompts[0])
        with Others() as others:
            tuned = await tune(stage, few, prompts, plan.tuning_prompts)
            done = await _run(engine, systems(tuned), prompts, sizes)
    waves = [_wave(each, fitted.eos) for each in done]
    return Crowds(
        levels=crowds.levels(waves, _times(done)),
        differences=_differences(done),
        tuned=tuned,
        others=others.share,
    )


def systems(tuned: dict[Family, Tuned]) -> dict[str, Settings]:
    """AR, the best of SD and PEARL, and both with automatic windows."""
    best = [tuned[family].best.way for family in (Family.AR, Family.SD, Family.PEARL)]
    alone, sd, pearl = (way for way in best if isinstance(way, Settings))
    sd_auto, pearl_auto = replace(sd, gamma="auto"), replace(pearl, gamma="auto", head_start=0)
    return {name_of(each): each for each in (alone, sd, sd_auto, pearl, pearl_auto)}


def waves_of(prompts: int, size: int) -> list[tuple[int, ...]]:
    """Which prompts go together: as few waves as reach every one of them."""
    cycle = itertools.cycle(range(prompts))
    return [tuple(itertools.islice(cycle, size)) for _ in range(-(-prompts // size))]


async def _run(
    engine: Engine, compared: dict[str, Settings], prompts: Sequence[str], sizes: Sequence[int]
) -> list[Done]:
    """Every wave by every system, in an order that rotates."""
    planned = [wave for size in sizes for wave in waves_of(len(prompts), size)]
    found = []
    with bar(len(planned) * len(compared), "waves") as advance:
        for number, wave in enumerate(planned):
            for name in rotated(list(compared), number):
                began = time.perf_counter()
                running = [
                    engine.generate(prompts[place], compared[name], trace=True) for place in wave
                ]
                results = await asyncio.gather(*(generation.wait() for generation in running))
                seconds = time.perf_counter() - began
                found.append(
                    Done(
                        system=name,
                        settings=compared[name],
                        prompts=wave,
                        results=tuple(results),
                        seconds=seconds,
                    )
                )
                advance()
    return found


def _wave(done: Done, eos: tuple[TokenId, ...]) -> Wave:
    from analysis.crowds import Wave
    from analysis.traces import Request

    return Wave(
        system=done.system,
        seconds=done.seconds,
        requests=tuple(
            Request(
                name=done.system,
                settings=done.settings,
                prompt=result.prompt_tokens,
                records=result.trace,
                eos=eos,
            )
            for result in done.results
        ),
    )


def _times(done: Sequence[Done]) -> Times | None:
    """How long passes of so many rows took, in all waves; None where too little was timed."""
    from analysis.crowds import Times
    from simulator import profiling

    together = [_recordings(each) for each in done]
    try:
        target = profiling.fit([s for wave in together for s in profiling.passes(wave)])
        draft = profiling.fit([s for wave in together for s in profiling.windows(wave)])
    except SettingError:
        return None
    return Times(draft=draft.measured, target=target.measured)


def _recordings(done: Done) -> list[Recording]:
    from simulator.profiling import Recording

    return [Recording(prompt=r.prompt_tokens, records=r.trace) for r in done.results]


def _differences(done: Sequence[Done]) -> list[Difference]:
    """Texts that are not AR's, where they must be."""
    from analysis.benchmark import Run, System, differences

    settings = {each.system: each.settings for each in done}
    compared = [
        System(
            name=name,
            settings=way,
            devices=1,
            same_text=way.widest == 0 or not way.effective_verifier.carries_law,
        )
        for name, way in settings.items()
    ]
    runs = [
        Run(
            system=each.system,
            prompt=place,
            round=len(each.prompts),
            tokens=result.token_ids,
            arrivals=((each.seconds, len(result.token_ids)),),
        )
        for each in done
        for place, result in zip(each.prompts, each.results, strict=True)
    ]
    return list(differences(compared, runs))
