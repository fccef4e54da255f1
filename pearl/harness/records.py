"""What runs leave behind: requests with their records, to analyse, to replay and to keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pearl.decoding import trace
from pearl.decoding.stopping import StopRules
from pearl.harness.turns import Turn, turns
from pearl.progress import bar

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Mapping, Sequence

    from pearl.actors.engine import Engine, Result
    from pearl.analysis.traces import Request
    from pearl.decoding.messages import TokenId
    from pearl.decoding.settings import Settings
    from pearl.simulator.profiling import Recording


async def recorded_in_turns(
    engine: Engine,
    systems: Mapping[str, Settings],
    prompts: Sequence[str],
    eos: tuple[TokenId, ...],
    keep: Callable[[Turn[str], Result], object] = lambda *_: None,
) -> dict[str, list[Request]]:
    """Every prompt by every system, as requests by system in the order of the prompts.

    Args:
        eos: the tokens that end a text.
        keep: is given each result as it comes.
    """
    found: dict[str, list[Request]] = {name: [] for name in systems}
    every = turns(list(systems), prompts)
    with bar(len(every), "runs") as advance:
        for turn in every:
            settings = systems[turn.system]
            result = await engine.generate(turn.prompt, settings, trace=True).wait()
            keep(turn, result)
            name = f"{turn.system}, prompt {turn.number}"
            found[turn.system].append(request_of(name, settings, result, eos))
            advance()
    return found


def request_of(name: str, settings: Settings, result: Result, eos: tuple[TokenId, ...]) -> Request:
    """What an engine did, as the analysis reads it."""
    from pearl.analysis.traces import Request

    return Request(
        name=name, settings=settings, prompt=result.prompt_tokens, records=result.trace, eos=eos
    )


def recording(request: Request) -> Recording:
    """A request as the simulator replays and measures it.

    A real one had to end where its settings say; a simulated one where it did.
    """
    from pearl.simulator.profiling import Recording

    rules = StopRules(limit=request.settings.max_new_tokens, eos=frozenset(request.eos))
    return Recording(
        prompt=request.prompt or 1,
        records=request.records,
        stop=None if request.simulated else rules,
    )


def write_trace(
    path: pathlib.Path, result: Result, settings: Settings, eos: tuple[TokenId, ...]
) -> None:
    """Write a request with all that is needed to replay or measure it."""
    about = trace.About(
        settings=settings,
        eos=eos,
        finish_reason=result.finish_reason,
        prompts=(result.prompt_tokens,),
        reach=result.reach,
    )
    trace.write(path, result.trace, **msgspec.to_builtins(about))
