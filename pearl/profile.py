"""`pearl profile`: measures a real pair into the file that simulations read.

Three kinds of requests, in turns, so that none has the machine at its best:

    luck     every prompt by PEARL with one gamma: where draft and target agree
    times    a few prompts by AR, SD and PEARL with many gammas: passes and windows of every size
    crowds   several at once: passes and windows of many rows
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import random
from typing import TYPE_CHECKING, Any, Final

import click
from msgspec.structs import replace

from decoding.errors import PlacementError
from decoding.settings import ScheduleName, Settings
from pearl import signals
from pearl.doctor import machine, packages
from pearl.options import (
    ENGINE,
    PROMPTS,
    SAMPLING,
    bar,
    check_writable,
    decoding_settings,
    engine_settings,
    options,
)
from pearl.prompts import read_prompts
from pearl.terminal import said

if TYPE_CHECKING:
    from collections.abc import Sequence

    from actors.engine import Engine
    from actors.engine_settings import EngineSettings
    from simulator.profiles import Profile
    from simulator.profiling import Recording

SIZES: Final = (1, 2, 4, 8, 16)  # windows whose times are measured
CROWDS: Final = (2, 4, 8)
CROWD_SIZES: Final = (1, 4, 8)
TIMED_TOKENS: Final = 64
TIMED_PROMPTS: Final = 6
WARMING_TOKENS: Final = 32


@click.command(name="profile")
@click.option("--output", required=True, metavar="FILE.json", help="Where to write it.")
@click.option("--gamma", type=int, default=5, show_default=True, metavar="N",
              help="The window with which acceptance is measured.")  # fmt: skip
@options(SAMPLING, PROMPTS, ENGINE)
def command(*, output: str, gamma: int, **given: Any) -> None:
    """Measure a pair's times, links and acceptance; takes a minute, on a quiet machine."""
    rest = {"schedule": "pearl", "gamma": str(gamma), "head_start": 0, "strict": False, "stop": ()}
    settings = decoding_settings(given | rest)
    engine = engine_settings(given)
    prompts = read_prompts(given)
    path = check_writable(output)
    profile = signals.run(_measure(engine, settings, prompts))
    from simulator import profiles

    with said(None, lambda: click.echo(f"{path}: {_summary(profile)}")):
        profiles.write(path, profile)


async def _measure(
    engine_settings: EngineSettings, settings: Settings, prompts: list[str]
) -> Profile:
    """Run everything, and make a profile of it."""
    from actors.checking import CheckedPair
    from actors.engine import Engine
    from simulator import profiling

    fitted = await asyncio.to_thread(CheckedPair, engine_settings)
    if len(fitted.models) == 1:
        message = "a profile needs a draft beside the target; name one"
        raise PlacementError(message)
    for prompt in prompts:
        fitted.encode(prompt, settings)
    asked = plan(settings, prompts)
    async with await Engine.start_pair(fitted) as engine:
        for warming in {each.settings.schedule: each for each in asked}.values():
            short = replace(warming.settings, max_new_tokens=WARMING_TOKENS)
            await engine.generate(prompts[0], short).wait()
        with bar(len(asked), "runs") as advance:
            found = []
            for each in asked:
                found.append(await _record(engine, each))
                advance()
    luck = [
        recording
        for each, group in zip(asked, found, strict=True)
        if each.luck
        for recording in group
    ]
    return profiling.profile(
        found,
        luck=luck,
        settings=settings,
        machine={name: str(value) for name, value in (machine() | packages()).items()},
        models=_names(engine_settings),
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Requests to run at the same time; `luck` where agreement is read from them."""

    settings: Settings
    prompts: tuple[str, ...]
    luck: bool = False


def plan(settings: Settings, prompts: Sequence[str]) -> list[Asked]:
    """All runs: single ones shuffled, for a machine that slows down; the crowds last."""
    in_turn = itertools.cycle(prompts)
    short = replace(settings, max_new_tokens=TIMED_TOKENS)
    alone = replace(short, schedule=ScheduleName.AR)
    parallel = [replace(short, gamma=size) for size in SIZES]
    in_turns = [replace(each, schedule=ScheduleName.SD) for each in parallel]
    timed = [alone, *parallel, *in_turns] * TIMED_PROMPTS
    single = [Asked(settings=settings, prompts=(prompt,), luck=True) for prompt in prompts]
    single += [Asked(settings=each, prompts=(next(in_turn),)) for each in timed]
    random.Random(0).shuffle(single)  # noqa: S311 - an order, no secret
    crowded = [alone, *(each for each in in_turns if each.gamma in CROWD_SIZES)]
    crowds = [tuple(itertools.islice(in_turn, crowd)) for crowd in CROWDS]
    return [*single, *(Asked(settings=s, prompts=crowd) for crowd in crowds for s in crowded)]


async def _record(engine: Engine, asked: Asked) -> list[Recording]:
    from simulator.profiling import Recording

    running = [engine.generate(p, asked.settings, trace=True) for p in asked.prompts]
    done = [await generation.wait() for generation in running]
    return [Recording(prompt=result.prompt_tokens, records=result.trace) for result in done]


def _names(engine_settings: EngineSettings) -> dict[str, str]:
    """The models as they were asked for."""
    own = "the embedded pair"
    return {"draft": engine_settings.draft or own, "target": engine_settings.target or own}


def _summary(profile: Profile) -> str:
    luck, network = profile.luck, profile.network
    step, judge = profile.pair.draft.seconds(1), profile.pair.target.seconds
    way = 2e6 * network.target.latency_s
    return (
        f"draft step {1e3 * step:.2f} ms, target pass {1e3 * judge(1):.2f} ms "
        f"({1e3 * judge(8):.2f} over 8 tokens), messages {way:.0f} µs there and back, "
        f"{luck.rate:.1%} accepted over {len(luck.texts)} prompts"
    )
