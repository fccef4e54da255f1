"""Measures a real pair into a profile, the file that simulations read.

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
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from pearl.decoding.settings import Settings
from pearl.harness.engines import check_prompts, fit, warmed
from pearl.harness.machines import machine, models, packages
from pearl.harness.records import recording, request_of
from pearl.progress import bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pearl.actors.engine import Engine
    from pearl.actors.engine_settings import EngineSettings
    from pearl.decoding.messages import TokenId
    from pearl.simulator.profiles import Profile
    from pearl.simulator.profiling import Recording

SIZES: Final = (1, 2, 4, 8, 16)  # windows whose times are measured
CROWDS: Final = (2, 4, 8)
CROWD_SIZES: Final = (1, 4, 8)
TIMED_TOKENS: Final = 64
TIMED_PROMPTS: Final = 6


async def measure(
    engine_settings: EngineSettings, settings: Settings, prompts: list[str]
) -> Profile:
    """Run everything, and make a profile of it.

    Args:
        settings: with which acceptance is measured.

    Raises:
        UsageError: the pair or a prompt does not do.
        PeerError: a device failed.
    """
    from pearl.simulator import profiling

    pair = await asyncio.to_thread(fit, engine_settings, "a profile")
    check_prompts(pair, prompts, settings)
    batches = plan(settings, prompts)
    ways = {batch.settings.schedule: batch.settings for batch in batches}
    async with warmed(pair, ways.values(), prompts[0]) as engine:
        with bar(len(batches), "runs") as advance:
            found = []
            for batch in batches:
                found.append(await _record(engine, batch, pair.eos))
                advance()
    together = zip(batches, found, strict=True)
    return profiling.profile(
        found,
        luck=[one for batch, group in together if batch.luck for one in group],
        settings=settings,
        machine={name: str(value) for name, value in (machine() | packages()).items()},
        models=models(engine_settings),
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Requests to run at the same time; `luck` where agreement is read from them."""

    settings: Settings
    prompts: tuple[str, ...]
    luck: bool = False


def plan(settings: Settings, prompts: Sequence[str]) -> list[Batch]:
    """All runs: single ones shuffled, for a machine that slows down; the crowds last."""
    in_turn = itertools.cycle(prompts)
    short = replace(settings, max_new_tokens=TIMED_TOKENS)
    alone = replace(short, schedule="ar")
    parallel = [replace(short, gamma=size) for size in SIZES]
    in_turns = [replace(each, schedule="sd") for each in parallel]
    timed = [alone, *parallel, *in_turns] * TIMED_PROMPTS
    single = [Batch(settings=settings, prompts=(prompt,), luck=True) for prompt in prompts]
    single += [Batch(settings=each, prompts=(next(in_turn),)) for each in timed]
    random.Random(0).shuffle(single)  # noqa: S311 - an order, no secret
    crowded = [alone, *(each for each in in_turns if each.gamma in CROWD_SIZES)]
    crowds = [tuple(itertools.islice(in_turn, crowd)) for crowd in CROWDS]
    return [*single, *(Batch(settings=s, prompts=crowd) for crowd in crowds for s in crowded)]


async def _record(engine: Engine, batch: Batch, eos: tuple[TokenId, ...]) -> list[Recording]:
    running = [engine.generate(p, batch.settings, trace=True) for p in batch.prompts]
    results = [await generation.wait() for generation in running]
    return [recording(request_of("", batch.settings, result, eos)) for result in results]
