"""Systems that compete on one machine: tuned with equal care, then measured in turns.

    warming     the first passes of a process are slow: every family once, not measured
    tuning      every candidate of every family once on each of a few prompts, the best three of
                each family on the others too; the best median speed over AR goes on
    measuring   those on all prompts, for several rounds, in an order that changes
    tracing     ours once more, with their records

Candidates of ours and of the library are looked at equally often. The speed of the one that is
chosen is measured anew, so one that was fast by chance when it was chosen gains nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from msgspec.structs import replace

from pearl.decoding.settings import Settings
from pearl.harness.competitors import Competitor, Contest, Family, StandIns, candidates
from pearl.harness.engines import WARMING_TOKENS, check_prompts, fit, warmed
from pearl.harness.meters import Others
from pearl.harness.records import recorded_in_turns
from pearl.harness.stage import Stage, library_beside
from pearl.harness.turns import turns
from pearl.progress import bar

if TYPE_CHECKING:
    from pearl.actors.checking import ModelPair
    from pearl.actors.engine_settings import EngineSettings
    from pearl.analysis.benchmark import BenchmarkRun, System
    from pearl.analysis.traces import Request

Speeds: TypeAlias = dict[str, list[float]]  # tokens per second by competitor, prompt by prompt

FINALISTS: Final = 3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """How a family's competitor was chosen: median speed over AR of every candidate."""

    best: Competitor
    speeds: dict[str, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ContestResult:
    """Everything that was run, for `pearl.analysis.benchmark.report`."""

    systems: list[System]
    runs: list[BenchmarkRun]
    traced: dict[str, list[Request]]
    tuned: dict[Family, Tuned]
    others: float


async def compete(
    contest: Contest, engine_settings: EngineSettings, prompts: Sequence[str]
) -> ContestResult:
    """Start everything, and run all phases.

    Raises:
        UsageError: the pair, a prompt or the machine does not do.
        PeerError: a device, or the library's process, failed.
    """
    pair = await asyncio.to_thread(pair_for, contest, engine_settings, prompts)
    every = candidates(contest)
    firsts = [competitors[0] for competitors in every.values()]
    ours = [each.way for each in firsts if isinstance(each.way, Settings)]
    async with (
        warmed(pair, ours, prompts[0]) as engine,
        library_beside(pair, wanted=contest.reference) as library,
    ):
        stage = await Stage.open(contest, pair, engine, library)
        for each in firsts[len(ours) :]:
            await stage.run(each, prompts[0], WARMING_TOKENS)
        with Others() as others:
            tuned = await tune(stage, every, prompts, contest.tuning_prompts)
            chosen = [found.best for found in tuned.values()]
            runs = await _measure(stage, chosen, prompts, contest.rounds)
            ours_chosen = {each.name: each.way for each in chosen if isinstance(each.way, Settings)}
            traced = await recorded_in_turns(engine, ours_chosen, prompts, pair.eos)
        return ContestResult(
            systems=[stage.system(each) for each in chosen],
            runs=runs,
            traced=traced,
            tuned=tuned,
            others=others.share,
        )


def pair_for(
    contest: Contest, engine_settings: EngineSettings, prompts: Sequence[str]
) -> ModelPair:
    """The pair, when it can do all that is planned.

    Raises:
        UsageError: it cannot.
    """
    pair: ModelPair
    if contest.stand_ins is None:
        pair = fit(engine_settings, "a benchmark")
    else:
        pair = _stand_ins(contest.stand_ins, contest.settings.seed, engine_settings)
    check_prompts(pair, prompts, contest.widest)
    return pair


def _stand_ins(given: StandIns, seed: int, engine_settings: EngineSettings) -> ModelPair:
    from pearl.actors.scripts import Script
    from pearl.actors.stand_ins import StandInPair

    script = Script(acceptance=given.acceptance, seed=seed)
    return StandInPair(settings=engine_settings, devices=given.devices, script=script)


async def tune(
    stage: Stage, every: dict[Family, list[Competitor]], prompts: Sequence[str], first: int
) -> dict[Family, Tuned]:
    """Of each family the best; where there is no choice, nothing is run.

    Args:
        first: on how many of the prompts all are tried; the finalists of each family then on the
            others too.
    """
    everybody = [each for competitors in every.values() for each in competitors]
    chances = [each for each in everybody if len(every[each.family]) > 1]
    if not chances:
        return {family: Tuned(best=single, speeds={}) for family, (single,) in every.items()}
    alone = every[Family.AR]
    found: Speeds = {each.name: [] for each in everybody}
    await _try(stage, [*alone, *chances], prompts[:first], found)
    finalists = {
        family: sorted(competitors, key=lambda each: -_over(found, each, alone[0]))[:FINALISTS]
        for family, competitors in every.items()
        if len(competitors) > 1
    }
    again = [each for competitors in finalists.values() for each in competitors]
    await _try(stage, [*alone, *again], prompts[first:], found)
    return {
        family: Tuned(
            best=max(
                finalists.get(family, competitors), key=lambda each: _over(found, each, alone[0])
            ),
            speeds={
                each.name: _over(found, each, alone[0]) for each in competitors if each in chances
            },
        )
        for family, competitors in every.items()
    }


async def _try(
    stage: Stage, tried: Sequence[Competitor], prompts: Sequence[str], found: Speeds
) -> None:
    """Everybody once on every prompt."""
    every = turns(tried, prompts)
    with bar(len(every), "runs to tune") as advance:
        for turn in every:
            run = await stage.run(turn.system, turn.prompt)
            found[turn.system.name].append(run.tokens_per_s)
            advance()


def _over(found: Speeds, each: Competitor, alone: Competitor) -> float:
    """Median speed over AR, on the prompts that it was tried on; those came first."""
    pairs = zip(found[each.name], found[alone.name], strict=False)
    return statistics.median([own / ar for own, ar in pairs] or [0.0])


async def _measure(
    stage: Stage, chosen: Sequence[Competitor], prompts: Sequence[str], rounds: int
) -> list[BenchmarkRun]:
    """Every prompt by everybody, in every round."""
    found, every = [], turns(chosen, prompts, rounds)
    with bar(len(every), "runs") as advance:
        for turn in every:
            run = await stage.run(turn.system, turn.prompt)
            found.append(replace(run, prompt=turn.number, round=turn.round + 1))
            advance()
    return found
