"""Measures a real pair into a profile, the file that simulations read.

A machine drifts, by some hundredths from one minute to the next. So everything is measured in
*blocks*, one after the other for as long as there is time, and every block has something of all:

    luck     its share of the prompts by PEARL with one gamma: where draft and target agree
    times    AR, SD and PEARL with windows of every size that can occur, PEARL with head starts
    crowds   several at once: passes and windows of many rows

All of it in the real loop: what a forward takes depends on what ran before it and runs beside it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import random
import time
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from msgspec.structs import replace

from pearl.decoding.measured import WIDEST
from pearl.decoding.settings import Settings
from pearl.harness.engines import check_prompts, fit, warmed
from pearl.harness.machines import machine, models, packages
from pearl.harness.meters import BUSY, Others
from pearl.harness.records import recording, request_of
from pearl.progress import bar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pearl.actors.engine import Engine
    from pearl.actors.engine_settings import EngineSettings
    from pearl.decoding.messages import TokenId
    from pearl.simulator.profiles import Profile
    from pearl.simulator.profiling import Recording

SECONDS: Final = 120
BLOCKS: Final = 3  # at least, however long they take: the drift between two would say little
OFTEN: Final = 16  # windows up to here are measured in every block, wider ones in turns
TURNS: Final = 4
CROWDS: Final = (2, 4, 8)
CROWD_SIZES: Final = (1, 4, 8)
HEAD_STARTS: Final = ((4, 1), (6, 2), (8, 4))  # gamma and k: windows that hurry behind a verdict
ALONE: Final = 3  # requests of AR in a block: what all others are compared with
TIMED_TOKENS: Final = 96


class ProfileMade(NamedTuple):
    """A profile, and in how many of its blocks other processes took much of the machine."""

    profile: Profile
    busy: int


async def measure(
    engine_settings: EngineSettings,
    settings: Settings,
    prompts: list[str],
    seconds: float = SECONDS,
) -> ProfileMade:
    """Measure for so long, and make a profile of it.

    Args:
        settings: with which acceptance is measured.

    Raises:
        UsageError: the pair or a prompt does not do.
        PeerError: a device failed.
    """
    from pearl.simulator import profiling

    pair = await asyncio.to_thread(fit, engine_settings, "a profile")
    check_prompts(pair, prompts, settings)
    ways = {batch.settings.schedule: batch.settings for batch in block(0, settings, prompts)}
    async with warmed(pair, ways.values(), prompts[0]) as engine:
        blocks, busy = await _blocks(engine, settings, prompts, pair.eos, seconds)
    kept = blocks if len(blocks) >= BLOCKS else [*blocks, *busy]
    profile = profiling.profile(
        [[group for _, group in found] for found in kept],
        luck=_luck([*blocks, *busy], len(prompts)),
        settings=settings,
        machine={name: str(value) for name, value in (machine() | packages()).items()},
        models=models(engine_settings),
    )
    return ProfileMade(profile, len(kept) - len(blocks))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Requests to run at the same time; `luck` where the agreement of a prompt is read from them.

    Args:
        luck: which prompt.
    """

    settings: Settings
    prompts: tuple[str, ...]
    luck: int | None = None


Found: TypeAlias = "list[tuple[Batch, list[Recording]]]"


def block(number: int, settings: Settings, prompts: Sequence[str]) -> list[Batch]:
    """The runs of a block: single ones shuffled, for a machine that slows down; a crowd last."""
    # The first blocks that there are in any case share the prompts.
    lucky = range(number % BLOCKS, len(prompts), BLOCKS)
    single = [Batch(settings=settings, prompts=(prompts[n],), luck=n) for n in lucky]
    short = replace(settings, max_new_tokens=min(TIMED_TOKENS, settings.max_new_tokens))
    alone = replace(short, schedule="ar")
    parallel = [replace(short, gamma=size) for size in _sizes(number)]
    in_turns = [replace(each, schedule="sd") for each in parallel]
    begun = number % len(prompts)
    rotated = [*prompts[begun:], *prompts[:begun]]
    in_turn = itertools.cycle(rotated)
    ahead = [replace(short, gamma=size, head_start=k) for size, k in HEAD_STARTS]
    timed = [*[alone] * ALONE, *parallel, *in_turns, *ahead]
    single += [Batch(settings=each, prompts=(next(in_turn),)) for each in timed]
    random.Random(number).shuffle(single)  # noqa: S311 - an order, no secret
    crowded = [alone, *(replace(short, schedule="sd", gamma=size) for size in CROWD_SIZES)]
    crowd = tuple(itertools.islice(in_turn, CROWDS[number % len(CROWDS)]))
    return [*single, *(Batch(settings=each, prompts=crowd) for each in crowded)]


def _sizes(number: int) -> Iterator[int]:
    """Windows of a block: small ones are the most frequent, and their times differ the most."""
    yield from range(1, OFTEN + 1)
    yield from range(OFTEN + 1 + number % TURNS, WIDEST + 1, TURNS)


async def _blocks(
    engine: Engine,
    settings: Settings,
    prompts: list[str],
    eos: tuple[TokenId, ...],
    seconds: float,
) -> tuple[list[Found], list[Found]]:
    """Whole blocks until the time is over: quiet ones, and those that other programs disturbed.

    For those there is as much time again.
    """
    began, shown = time.monotonic(), 0
    quiet: list[Found] = []
    busy: list[Found] = []
    with bar(round(seconds), "seconds") as advance:
        while _goes_on(len(quiet), len(busy), time.monotonic() - began, seconds):
            found: Found = []
            with Others() as others:
                for batch in block(len(quiet) + len(busy), settings, prompts):
                    found.append((batch, await _record(engine, batch, eos)))
                    passed = int(time.monotonic() - began)
                    advance(passed - shown)
                    shown = passed
            (busy if others.share > BUSY else quiet).append(found)
    return quiet, busy


def _goes_on(quiet: int, busy: int, passed: float, seconds: float) -> bool:
    """Whether another block is wanted."""
    if quiet + busy < BLOCKS or passed < seconds:
        return True
    return quiet < BLOCKS and passed < 2 * seconds


def _luck(blocks: Sequence[Found], count: int) -> list[Recording]:
    """A request of each prompt, the first one; the others tell times."""
    first: dict[int, Recording] = {}
    for batch, group in itertools.chain(*blocks):
        if batch.luck is not None:
            first.setdefault(batch.luck, group[0])
    return [first[number] for number in range(count)]


async def _record(engine: Engine, batch: Batch, eos: tuple[TokenId, ...]) -> list[Recording]:
    running = [engine.generate(p, batch.settings, trace=True) for p in batch.prompts]
    results = [await generation.wait() for generation in running]
    return [recording(request_of("", batch.settings, result, eos)) for result in results]
