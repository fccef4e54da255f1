"""Is `gamma="auto"` ever slower than the target alone, and how far from the best fixed window?

    python benchmarks/rest.py --gammas 4,6,8                        # the embedded pair
    python benchmarks/rest.py --target DIR --draft OTHER --temperature 1
    python benchmarks/rest.py --timed 20,2 --max-new-tokens 512     # a draft ten times slower

The target alone, automatic windows and each fixed window write the same prompts in turns, on one
new engine: what `auto` must learn first is part of what it takes. The exit code is 1 where a text
that must be AR's is another one.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Final

import click
from msgspec.structs import replace

from pearl.actors.engine import Engine
from pearl.actors.scripts import Script
from pearl.actors.stand_ins import StandInPair, Timed
from pearl.asking import options
from pearl.asking.values import whole_numbers
from pearl.decoding.errors import SettingError, UsageError
from pearl.decoding.estimates import of_median, of_ratio
from pearl.decoding.messages import Role
from pearl.decoding.settings import Settings
from pearl.harness.engines import fit
from pearl.harness.prompts import read_prompts
from pearl.harness.turns import turns
from pearl.progress import bar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pearl.actors.checking import ModelPair
    from pearl.actors.engine import Result

AR: Final = "AR"


async def _written(
    pair: ModelPair, systems: Mapping[str, Settings], prompts: Sequence[str], rounds: int
) -> dict[str, list[Result]]:
    """What every system wrote, by prompt and round."""
    found: dict[str, list[Result]] = {name: [] for name in systems}
    plan = turns(list(systems), prompts, rounds)
    async with await Engine.start_pair(pair) as engine:
        await engine.generate(prompts[0], systems[AR]).wait()
        with bar(len(plan), "texts") as advance:
            for turn in plan:
                result = await engine.generate(turn.prompt, systems[turn.system]).wait()
                found[turn.system].append(result)
                advance()
    return found


def _pair(timed: str | None, acceptance: float, given: Mapping[str, Any]) -> ModelPair:
    settings = options.engine_settings(dict(given))
    if timed is None:
        return fit(settings, "a comparison with automatic windows")
    try:
        draft, target = map(Timed.parse, timed.split(","))
    except ValueError:
        raise SettingError(f"timed is {timed!r}; it must be two numbers of ms: 20,2") from None
    devices = {Role.DRAFT: draft, Role.TARGET: target}
    script = Script(acceptance=acceptance, seed=given["seed"])
    return StandInPair(settings=settings, devices=devices, script=script)


def _speeds(results: Sequence[Result], alone: Sequence[Result]) -> str:
    """Over AR on the same prompts, with intervals over them; and of all tokens in all seconds."""
    pairs = [(a.metrics, b.metrics) for a, b in zip(results, alone, strict=True)]
    ratios = of_median([one.tokens_per_s / other.tokens_per_s for one, other in pairs])
    totals = of_ratio([other.seconds for _, other in pairs], [one.seconds for one, _ in pairs])
    return f"{ratios!s:32}{totals!s}"


@click.command(context_settings={"show_default": True})
@options.takes(options.ENGINE, options.DECODING, options.PROMPTS)
@click.option("--gammas", default="4,6,8", metavar="N,…", help="The fixed windows.")
@click.option("--rounds", default=1, type=click.IntRange(1, 100), help="Of all prompts.")
@click.option("--timed", metavar="DRAFT,TARGET", help="No models: ms of a pass of each.")
@click.option("--acceptance", default=0.8, help="Of devices that only take time.")
def main(*, gammas: str, rounds: int, timed: str | None, acceptance: float, **given: Any) -> None:
    """Compare automatic windows with the target alone and with fixed windows."""
    pair = _pair(timed, acceptance, given)
    asked = options.decoding_settings({**given, "gamma": "auto"})
    windows = whole_numbers("gammas", gammas, 1)
    fixed = {f"gamma {gamma}": replace(asked, gamma=gamma) for gamma in windows}
    systems = {
        AR: replace(asked, schedule="ar", gamma=1, head_start=0, strict=False),
        "auto": asked,
        **fixed,
    }
    found = asyncio.run(_written(pair, systems, read_prompts(given), rounds))
    click.echo(f"{'':10}{'over AR, median of texts':32}of totals")
    for name, results in found.items():
        click.echo(f"{name:10}{_speeds(results, found[AR])}")
    other = [
        name
        for name, results in found.items()
        if [r.token_ids for r in results] != [r.token_ids for r in found[AR]]
    ]
    if other and asked.verifier_kind.same_text:
        click.echo(f"another text than AR's: {', '.join(other)}")
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        sys.exit(f"rest: {error}")
