"""What is loaded for a comparison, and the meters beside it."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, final

from msgspec.structs import replace

from pearl.decoding.messages import Role
from pearl.decoding.settings import Settings
from pearl.harness.competitors import Competitor, Contest, Family
from pearl.harness.meters import Energy, PeakMemory
from pearl.harness.reference_process import ReferenceProcess

if TYPE_CHECKING:
    from pearl.actors.checking import CheckedPair, ModelPair
    from pearl.actors.engine import Engine
    from pearl.actors.runners.reference import Assistance, ReferenceSpec
    from pearl.analysis.benchmark import BenchmarkRun, System


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """What is loaded, and the meters beside it."""

    _contest: Contest
    _pair: ModelPair
    _engine: Engine
    _reference: ReferenceProcess | None
    _processes: dict[str, int]
    _energy: Energy = dataclasses.field(default_factory=Energy)

    @property
    def _places(self) -> dict[Role, str]:
        return getattr(self._pair, "places", {})  # stand-ins: on CPUs

    @property
    def _on_gpu(self) -> bool:
        return "cuda:0" in self._places.values()

    @classmethod
    async def open(
        cls,
        contest: Contest,
        pair: ModelPair,
        engine: Engine,
        reference: ReferenceProcess | None = None,
    ) -> Stage:
        """Find out which processes compute; those of a running cluster may be elsewhere."""
        elsewhere = pair.settings.ray_address is not None
        processes = {} if elsewhere else (await engine.statistics()).processes
        return cls(contest, pair, engine, reference, processes)

    def system(self, each: Competitor) -> System:
        """A competitor as the analysis knows it."""
        from pearl.analysis.benchmark import System

        ours = each.way if isinstance(each.way, Settings) else None
        if ours is None:
            same = self._contest.settings.sampling.temperature == 0
        else:
            same = each.family is Family.AR or ours.verifier_kind.same_text
        return System(name=each.name, settings=ours, devices=self._devices(each), same_text=same)

    def _devices(self, each: Competitor) -> int:
        """How many compute: on CPUs each model of ours has cores of its own."""
        if each.family in {Family.AR, Family.PLAIN}:
            return 1
        if self._on_gpu:
            return len(set(self._places.values()))
        return 1 if each.family is Family.ASSISTED else len(Role)

    async def run(self, each: Competitor, prompt: str, limit: int | None = None) -> BenchmarkRun:
        """One text; `limit` makes it shorter."""
        from pearl.analysis.benchmark import BenchmarkRun

        whole = self._contest.settings.max_new_tokens
        most = min(limit or whole, whole)
        memory = PeakMemory(self._computing(each))
        memory.reset()
        before = self._energy.read()
        if isinstance(each.way, Settings):
            written = await self._ours(prompt, replace(each.way, max_new_tokens=most))
        else:
            written = await self._library(prompt, each.way, most)
        return BenchmarkRun(
            system=each.name,
            prompt=0,
            round=0,
            **written,
            memory_bytes=memory.bytes(),
            joules=self._energy.joules(before),
        )

    def _computing(self, each: Competitor) -> list[int]:
        """The processes that hold its models; none where a GPU does, whose memory is not read."""
        if self._on_gpu:
            return []
        if not isinstance(each.way, Settings):
            assert self._reference is not None
            return [self._reference.process]
        roles = (Role.TARGET,) if each.family is Family.AR else tuple(Role)
        return [self._processes[role] for role in roles if role in self._processes]

    async def _ours(self, prompt: str, settings: Settings) -> dict[str, Any]:
        """Tokens, when they came, and what the scheduler measured."""
        began = time.perf_counter()
        generation = self._engine.generate(prompt, settings)
        arrivals = [
            (time.perf_counter() - began, len(piece.token_ids))
            async for piece in generation
            if piece.token_ids
        ]
        result = generation.result
        return {
            "tokens": result.token_ids,
            "arrivals": tuple(arrivals),
            "metrics": result.metrics,
        }

    async def _library(
        self, prompt: str, assistance: Assistance | None, most: int
    ) -> dict[str, Any]:
        """The same of the library, which says nothing of how it went."""
        from pearl.actors.runners.reference import ReferenceRequest

        assert self._reference is not None
        settings = self._contest.settings
        # It is given tokens and gives tokens; the time of ours includes from text and to text.
        written = await self._reference.generate(
            ReferenceRequest(
                prompt=self._pair.encode(prompt, settings),
                max_new_tokens=most,
                eos=self._pair.eos,
                sampling=settings.sampling,
                seed=settings.seed,
                assistance=assistance,
            )
        )
        return {"tokens": written.tokens, "arrivals": written.arrivals}


@contextlib.asynccontextmanager
async def library_beside(
    pair: ModelPair, *, wanted: bool
) -> AsyncIterator[ReferenceProcess | None]:
    """The library in a process of its own, with the same models; None where it does not compete.

    Raises:
        PeerError: its process failed.
    """
    from pearl.actors.checking import CheckedPair

    if not (wanted and isinstance(pair, CheckedPair)):
        yield None
        return
    async with await ReferenceProcess.start(reference_spec(pair)) as process:
        yield process


def reference_spec(fitted: CheckedPair) -> ReferenceSpec:
    """The same pair for the library: on the target's device, its cores and as many threads."""
    from pearl.actors.runners.reference import ReferenceSpec
    from pearl.actors.threads import available_cores, cores_for

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
