"""Systems that compete on one machine: tuned with equal care, then measured in turns.

    warming     the first passes of a process are slow: every family once, not measured
    tuning      every candidate of every family once on each of a few prompts, the best three of
                each family on the others too; the best median speed over AR goes on
    measuring   those on all prompts, for several rounds, in an order that changes
    tracing     ours once more, with their records

Candidates of ours and of the library are looked at equally often. The speed of the one that is
chosen is measured anew, so a candidate that was lucky when it was chosen gains nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar, final

from msgspec.structs import replace

from decoding.errors import PlacementError
from decoding.messages import Role
from decoding.settings import ScheduleName, Settings
from pearl.meters import Energy, Others, PeakMemory
from pearl.options import bar
from pearl.validate import name_of

if TYPE_CHECKING:
    from actors.engine import Engine, EngineSettings, Fitted, Pair, Result
    from actors.runners.reference import Assistance, ReferenceProcess, ReferenceSpec
    from analysis.benchmark import Run, System
    from analysis.traces import Request

_T = TypeVar("_T")

Speeds: TypeAlias = dict[str, list[float]]  # tokens per second by competitor, prompt by prompt

WARMING_TOKENS: Final = 32
FINALISTS: Final = 3
THRESHOLDS: Final = (0.0, 0.4)  # never stop early, and the library's own default


class Family(enum.StrEnum):
    """Who competes; of each the best one is measured."""

    AR = "AR"
    SD = "SD"
    STRICT = "PEARL strict"
    PEARL = "PEARL"
    AUTO = "PEARL auto"
    PLAIN = "HF generate"
    ASSISTED = "HF assisted"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Devices without models: seconds of a pass, and how often the draft guesses a token."""

    draft_s: float
    target_s: float
    acceptance: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be run.

    Args:
        settings: of AR; all others are the same but for their schedule.
        gammas, head_starts, assistant_tokens: of the candidates.
        rounds: how often every prompt is decoded by every system that is measured.
        tuning_prompts: on how many of the prompts candidates are tried.
        reference: whether the library competes.
        timed: what stands in for models; the library has none then.
    """

    settings: Settings
    gammas: tuple[int, ...]
    head_starts: tuple[int, ...]
    assistant_tokens: tuple[int, ...]
    rounds: int
    tuning_prompts: int
    reference: bool
    timed: Timed | None = None

    @property
    def widest(self) -> Settings:
        """What needs the most room behind a prompt."""
        gamma = max(self.gammas)
        return replace(self.settings, schedule=ScheduleName.PEARL, gamma=gamma)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Competitor:
    """One system: a schedule of ours, or the library's `generate`, alone or assisted."""

    family: Family
    name: str
    way: Settings | Assistance | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """How a family's competitor was chosen: median speed over AR of every candidate."""

    best: Competitor
    speeds: dict[str, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Everything that was run, for `analysis.benchmark.report`."""

    systems: list[System]
    runs: list[Run]
    traced: dict[str, list[Request]]
    tuned: dict[Family, Tuned]
    others: float


def candidates(plan: Plan) -> dict[Family, list[Competitor]]:
    """All that compete, by family."""
    alone = plan.settings
    parallel = replace(alone, schedule=ScheduleName.PEARL)
    ours: dict[Family, list[Settings]] = {
        Family.AR: [alone],
        Family.SD: [replace(alone, schedule=ScheduleName.SD, gamma=g) for g in plan.gammas],
        Family.STRICT: [replace(parallel, gamma=g, strict=True) for g in plan.gammas],
        Family.PEARL: [
            replace(parallel, gamma=g, head_start=k) for g in plan.gammas for k in plan.head_starts
        ],
        Family.AUTO: [parallel],
    }
    found = {
        family: [Competitor(family=family, name=name_of(way), way=way) for way in ways]
        for family, ways in ours.items()
    }
    if plan.reference:
        found[Family.PLAIN] = [Competitor(family=Family.PLAIN, name=Family.PLAIN, way=None)]
        found[Family.ASSISTED] = list(_assisted(plan.assistant_tokens))
    return found


def _assisted(tokens: Sequence[int]) -> Iterator[Competitor]:
    from actors.runners.reference import Assistance

    family = Family.ASSISTED
    yield Competitor(family=family, name=f"{family}, defaults", way=Assistance())
    for count in tokens:
        for threshold in THRESHOLDS:
            name = f"{family} {count}" + (f", threshold {threshold:g}" if threshold else "")
            way = Assistance(tokens=count, threshold=threshold)
            yield Competitor(family=family, name=name, way=way)


# -- running -----------------------------------------------------------------------------------


async def compete(plan: Plan, engine_settings: EngineSettings, prompts: Sequence[str]) -> Outcome:
    """Start everything, and run all phases.

    Raises:
        UsageError: the pair, a prompt or the machine does not do.
        PeerError: a device, or the library's process, failed.
    """
    from actors.engine import Engine, Fitted

    fitted = await asyncio.to_thread(fit, plan, engine_settings, prompts)
    async with await Engine.start_fitted(fitted) as engine:
        if not (plan.reference and isinstance(fitted, Fitted)):
            return await _phases(plan, await Stage.open(plan, fitted, engine, None), prompts)
        from actors.runners.reference import ReferenceProcess

        async with await ReferenceProcess.start(reference_spec(fitted)) as reference:
            stage = await Stage.open(plan, fitted, engine, reference)
            return await _phases(plan, stage, prompts)


def fit(plan: Plan, engine_settings: EngineSettings, prompts: Sequence[str]) -> Pair:
    """The pair, when it can do all that is planned.

    Raises:
        UsageError: it cannot.
    """
    fitted = _pair(plan, engine_settings)
    for prompt in prompts:
        fitted.encode(prompt, plan.widest)
    return fitted


def _pair(plan: Plan, engine_settings: EngineSettings) -> Pair:
    if plan.timed is not None:
        from actors.stand_ins import Script, StandInPair

        script = Script(acceptance=plan.timed.acceptance, seed=plan.settings.seed)
        return StandInPair(
            settings=engine_settings,
            draft_s=plan.timed.draft_s,
            target_s=plan.timed.target_s,
            script=script,
        )
    from actors.engine import Fitted

    fitted = Fitted(engine_settings)
    if len(fitted.models) == 1:
        message = "a benchmark needs a draft beside the target; name one"
        raise PlacementError(message)
    return fitted


def reference_spec(fitted: Fitted) -> ReferenceSpec:
    """The same pair for the library: on the target's device, its cores and as many threads."""
    from actors.runners.reference import ReferenceSpec
    from actors.threads import available_cores, cores_for

    settings, places = fitted.settings, fitted.places
    cores = cores_for(Role.TARGET, available_cores())
    return ReferenceSpec(
        target=fitted.models[Role.TARGET],
        draft=fitted.models[Role.DRAFT],
        target_place=places[Role.TARGET],
        draft_place=places[Role.DRAFT],
        dtype=settings.dtype,
        threads=len(cores),
        cores=tuple(cores) if places[Role.TARGET] == "cpu" else (),
        trust_remote_code=settings.trust_remote_code,
    )


async def _phases(plan: Plan, stage: Stage, prompts: Sequence[str]) -> Outcome:
    every = candidates(plan)
    for competitors in every.values():
        await stage.warm(competitors[0], prompts[0])
    with Others() as others:
        tuned = await tune(stage, every, prompts, plan.tuning_prompts)
        chosen = [found.best for found in tuned.values()]
        runs = await _measure(stage, chosen, prompts, plan.rounds)
    ours = [each for each in chosen if isinstance(each.way, Settings)]
    return Outcome(
        systems=[stage.system(each) for each in chosen],
        runs=runs,
        traced=await _trace(stage, ours, prompts),
        tuned=tuned,
        others=others.share,
    )


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
    with bar(len(tried) * len(prompts), "runs to tune") as advance:
        for number, prompt in enumerate(prompts):
            for each in rotated(tried, number * len(tried) // len(prompts)):
                run, _ = await stage.run(each, prompt)
                found[each.name].append(run.tokens_per_s)
                advance()


def _over(found: Speeds, each: Competitor, alone: Competitor) -> float:
    """Median speed over AR, on the prompts that it was tried on; those came first."""
    pairs = zip(found[each.name], found[alone.name], strict=False)
    return statistics.median([own / ar for own, ar in pairs] or [0.0])


async def _measure(
    stage: Stage, chosen: Sequence[Competitor], prompts: Sequence[str], rounds: int
) -> list[Run]:
    """Every prompt by everybody, in every round."""
    found = []
    with bar(len(chosen) * len(prompts) * rounds, "runs") as advance:
        for turn in range(rounds):
            for number, prompt in enumerate(prompts):
                for each in rotated(chosen, turn * len(prompts) + number):
                    run, _ = await stage.run(each, prompt)
                    found.append(replace(run, prompt=number, round=turn + 1))
                    advance()
    return found


async def _trace(
    stage: Stage, ours: Sequence[Competitor], prompts: Sequence[str]
) -> dict[str, list[Request]]:
    """One more round of our schedules, with their records."""
    from analysis.traces import Request

    found: dict[str, list[Request]] = {each.name: [] for each in ours}
    for number, prompt in enumerate(prompts):
        for each in rotated(ours, number):
            _, result = await stage.run(each, prompt, trace=True)
            assert result is not None
            assert isinstance(each.way, Settings)
            found[each.name].append(
                Request(
                    name=f"{each.name}, prompt {number}",
                    settings=each.way,
                    prompt=result.prompt_tokens,
                    records=result.trace,
                    eos=stage.eos,
                )
            )
    return found


def rotated(names: Sequence[_T], by: int) -> list[_T]:
    """The same in another order for each `by`: others begin, and others stand behind each other.

    Whoever comes after a system that left the caches cold must not always be the same. So the
    order goes around in steps that change too.
    """
    count = len(names)
    steps = [step for step in range(1, count) if math.gcd(step, count) == 1] or [1]
    step = steps[by % len(steps)]
    return [names[(by + step * place) % count] for place in range(count)]


@final
class Stage:
    """What is loaded, and the meters beside it."""

    def __init__(
        self,
        plan: Plan,
        fitted: Pair,
        engine: Engine,
        reference: ReferenceProcess | None,
        processes: dict[str, int],
    ) -> None:
        self._plan = plan
        self._fitted = fitted
        self._engine = engine
        self._reference = reference
        self._processes = processes
        self._energy = Energy()
        self._places: dict[Role, str] = getattr(fitted, "places", {})  # stand-ins: on CPUs
        self._on_gpu = "cuda:0" in self._places.values()
        self.eos = fitted.eos

    @classmethod
    async def open(
        cls, plan: Plan, fitted: Pair, engine: Engine, reference: ReferenceProcess | None
    ) -> Stage:
        """Find out which processes compute; those of somebody's cluster may be elsewhere."""
        elsewhere = fitted.settings.ray_address is not None
        processes = {} if elsewhere else (await engine.statistics()).processes
        return cls(plan, fitted, engine, reference, processes)

    def system(self, each: Competitor) -> System:
        """A competitor as the analysis knows it."""
        from analysis.benchmark import System

        ours = each.way if isinstance(each.way, Settings) else None
        if ours is None:
            same = self._plan.settings.sampling.temperature == 0
        else:
            same = each.family is Family.AR or not ours.effective_verifier.carries_law
        return System(name=each.name, settings=ours, devices=self._devices(each), same_text=same)

    def _devices(self, each: Competitor) -> int:
        """How many compute: on CPUs each model of ours has cores of its own."""
        if each.family in {Family.AR, Family.PLAIN}:
            return 1
        if self._on_gpu:
            return len(set(self._places.values()))
        return 1 if each.family is Family.ASSISTED else len(Role)

    async def warm(self, each: Competitor, prompt: str) -> None:
        """Run a little, for nothing."""
        await self.run(each, prompt, limit=WARMING_TOKENS)

    async def run(
        self, each: Competitor, prompt: str, *, trace: bool = False, limit: int | None = None
    ) -> tuple[Run, Result | None]:
        """One text, and for ours what the engine says of it; `limit` makes it shorter."""
        from analysis.benchmark import Run

        most = min(limit or self._plan.settings.max_new_tokens, self._plan.settings.max_new_tokens)
        memory = PeakMemory(self._computing(each))
        memory.reset()
        before = self._energy.read()
        result = None
        if isinstance(each.way, Settings):
            limited = replace(each.way, max_new_tokens=most)
            arrivals, result = await self._ours(prompt, limited, trace=trace)
            tokens = result.token_ids
        else:
            tokens, arrivals = await self._library(prompt, each.way, most)
        run = Run(
            system=each.name,
            prompt=0,
            round=0,
            tokens=tokens,
            arrivals=arrivals,
            metrics=None if result is None else result.metrics,
            memory_bytes=memory.bytes(),
            joules=self._energy.joules(before),
        )
        return run, result

    def _computing(self, each: Competitor) -> list[int]:
        """The processes that hold its models; none where a GPU does, whose memory nobody asks."""
        if self._on_gpu:
            return []
        if not isinstance(each.way, Settings):
            assert self._reference is not None
            return [self._reference.process]
        roles = (Role.TARGET,) if each.family is Family.AR else tuple(Role)
        return [self._processes[role] for role in roles if role in self._processes]

    async def _ours(
        self, prompt: str, settings: Settings, *, trace: bool
    ) -> tuple[tuple[tuple[float, int], ...], Result]:
        began = time.perf_counter()
        generation = self._engine.generate(prompt, settings, trace=trace)
        arrivals = [
            (time.perf_counter() - began, len(piece.token_ids))
            async for piece in generation
            if piece.token_ids
        ]
        return tuple(arrivals), generation.result

    async def _library(
        self, prompt: str, assistance: Assistance | None, most: int
    ) -> tuple[tuple[int, ...], tuple[tuple[float, int], ...]]:
        from actors.runners.reference import Asked

        assert self._reference is not None
        settings = self._plan.settings
        # It is given tokens and gives tokens; the time of ours includes from text and to text.
        written = await self._reference.generate(
            Asked(
                prompt=self._fitted.encode(prompt, settings),
                max_new_tokens=most,
                eos=self._fitted.eos,
                sampling=settings.sampling,
                seed=settings.seed,
                assistance=assistance,
            )
        )
        return written.tokens, written.arrivals
