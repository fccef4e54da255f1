"""Have one of eight requests fail in every way, again and again, on one engine: does anything stay?

    python benchmarks/isolation.py --rounds 20      # 1,200 faults, some minutes

Every round puts each class of error at each step of a device's turn, for one of eight requests that
share it. The seven others must write what they write alone, to the token, and the eighth must say
what happened. Memory and the time of a round are compared between the first and the last rounds.
The exit code is 1 if a token was changed, or an error was not reported.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import click
import psutil

from pearl.actors.engine import Engine
from pearl.actors.engine_settings import Devices, EngineSettings
from pearl.actors.transcripts import Transcript
from pearl.decoding.errors import PeerError
from pearl.decoding.settings import Settings
from pearl.harness.prompts import PROMPTS

ERRORS: Final = (
    RuntimeError, ValueError, MemoryError, KeyError, RecursionError, OSError, AssertionError,
    StopIteration, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError,
)  # fmt: skip
STEPS: Final = ("feed", "note", "learn", "may_go_on", "verifier")
GUILTY: Final = "raise SystemExit"
TOKENS: Final = 24
EDGE: Final = 3
"""Rounds at each end that are compared."""


@contextmanager
def _struck(step: str, error: type[BaseException], guilty: list[int]) -> Iterator[None]:
    """The guilty request fails at this step."""
    original = Transcript.__dict__.get(step)
    name = "feed" if original is None else step
    kept: Callable[..., Any] = getattr(Transcript, name)

    def wrapped(self: Any, *given: Any) -> Any:
        if self._text[: len(guilty)] == guilty:
            if original is not None:
                raise error("struck")
            self.verifier = _Broken(error)  # an attribute: break it before it is used
        return kept(self, *given)

    setattr(Transcript, name, wrapped)
    try:
        yield
    finally:
        setattr(Transcript, name, kept)


class _Broken:
    """A verifier that says nothing."""

    def __init__(self, error: type[BaseException]) -> None:
        self._error = error

    def draft(self, *_: Any) -> Any:
        raise self._error("struck")

    def judge(self, *_: Any, **__: Any) -> Any:
        raise self._error("struck")


async def _round(engine: Engine, known: dict[str, tuple[int, ...]], guilty: list[int]) -> str:
    """All errors at all steps; what went wrong, if anything did."""
    settings = Settings(gamma=4, max_new_tokens=TOKENS)
    for step in STEPS:
        for error in ERRORS:
            with _struck(step, error, guilty):
                asked = [engine.generate(p, settings).wait() for p in (GUILTY, *known)]
                struck, *others = await asyncio.gather(*asked, return_exceptions=True)
            if not isinstance(struck, PeerError) or error.__name__ not in str(struck):
                return f"{error.__name__} at {step}: the guilty request ended with {struck!r}"
            for other, whole in zip(others, known.values(), strict=True):
                if isinstance(other, BaseException) or other.token_ids != whole:
                    return f"{error.__name__} at {step}: a neighbour ended with {other!r}"
    return ""


async def _campaign(rounds: int) -> int:
    settings = EngineSettings(devices=Devices.LOCAL)
    alone = Settings(schedule="ar", max_new_tokens=TOKENS)
    process, seconds, memory = psutil.Process(), [], []
    async with await Engine.start(settings) as engine:
        known = {p: (await engine.generate(p, alone).wait()).token_ids for p in PROMPTS[:7]}
        guilty = list(engine._pair.encode(GUILTY, alone))  # noqa: SLF001 - to tell it from others
        for number in range(rounds):
            began = time.perf_counter()
            if wrong := await _round(engine, known, guilty):
                click.echo(f"round {number}: {wrong}")
                return 1
            seconds.append(time.perf_counter() - began)
            memory.append(process.memory_info().rss / 1e6)
            if number % EDGE == EDGE - 1:
                click.echo(f"{number + 1} rounds, {memory[-1]:.0f} MB", err=True)
        found = await engine.statistics()
    first, last = statistics.median(seconds[:EDGE]), statistics.median(seconds[-EDGE:])
    click.echo(f"{rounds} rounds of {len(STEPS) * len(ERRORS)} faults: no token changed")
    click.echo(f"failed {found.failed}, finished {found.finished}, losses {found.losses}")
    click.echo(f"seconds of a round: {first:.2f} at first, {last:.2f} at last")
    click.echo(f"memory: {memory[min(EDGE, rounds) - 1]:.0f} MB at first, {memory[-1]:.0f} at last")
    return 0


@click.command()
@click.option("--rounds", type=int, default=20, show_default=True)
def main(*, rounds: int) -> None:
    """Run the campaign, and say what came of it."""
    sys.exit(asyncio.run(_campaign(rounds)))


if __name__ == "__main__":
    main()
