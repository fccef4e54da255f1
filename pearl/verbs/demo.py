"""`pearl demo`: the same prompts by AR, SD and PEARL, interleaved in one run.

The first prompt is shown as it streams; all of them are measured, in an order that rotates, and
the table gives medians of ratios over prompts, because times alone mean little on a machine that
does other things too.
"""

from __future__ import annotations

import asyncio
from statistics import median as _median
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import click
from msgspec.structs import replace
from rich.console import Console
from rich.text import Text

from pearl import signals
from pearl.asking.options import ENGINE, check_writable, engine_settings, takes
from pearl.decoding.kinds import SCHEDULES
from pearl.decoding.sampling import Sampling
from pearl.decoding.settings import Settings, parse_gamma
from pearl.harness import prompts
from pearl.harness.engines import checked, warmed
from pearl.harness.records import write_trace
from pearl.harness.turns import turns
from pearl.showing.tables import NONE, table
from pearl.showing.terminal import shows
from pearl.showing.timeline import PLAIN, SHADES, timeline

if TYPE_CHECKING:
    from rich.table import Table

    from pearl.actors.engine import Engine, Result
    from pearl.actors.engine_settings import EngineSettings
    from pearl.decoding.messages import TokenId
    from pearl.decoding.metrics import Metrics

    Runs: TypeAlias = dict[str, list[Result]]

# None ends in a line break: the pair's tokens join a break with the indentation behind it.
PROMPTS: Final = prompts.PROMPTS[:5]  # a minute is enough for a demonstration


@click.command(name="demo")
@takes(ENGINE)
@click.option("--max-new-tokens", type=int, default=128, show_default=True, metavar="N")
@click.option("--gamma", default="auto", show_default=True, metavar="N|auto",
              help="Tokens in a draft window of SD and PEARL.")  # fmt: skip
@click.option("--temperature", type=float, default=0.7, show_default=True, metavar="T",
              help="0 takes the most likely token; above, the three still draw the same "
              "ones.")  # fmt: skip
@click.option("--trace", "trace_file", metavar="FILE",
              default="pearl-trace.json", show_default=True,
              help="Where the PEARL run of the first prompt is written.")  # fmt: skip
def command(
    max_new_tokens: int, gamma: str, temperature: float, trace_file: str, **given: Any
) -> int:
    """Decode with AR, SD and PEARL side by side."""
    path = check_writable(trace_file)
    settings = Settings(
        gamma=parse_gamma(gamma),
        sampling=Sampling(temperature=temperature),
        max_new_tokens=max_new_tokens,
    )
    console = Console(highlight=False)
    runs, eos = signals.run(_run(engine_settings(given), settings, console))
    console.print(_table({name: [run.metrics for run in found] for name, found in runs.items()}))
    same = _identical(runs, console)
    shown = runs["pearl"][0]
    shades = SHADES if shows(console.file, SHADES) else PLAIN
    console.print(timeline(shown.trace, console.width, shades), markup=False)
    write_trace(path, shown, replace(settings, schedule="pearl"), eos)
    console.print(f"\nThe PEARL run is in {path}; open it in https://ui.perfetto.dev")
    return 0 if same else 1


async def _run(
    engine_settings: EngineSettings, settings: Settings, console: Console
) -> tuple[Runs, tuple[TokenId, ...]]:
    """The results, and the tokens that end a text."""
    runs: Runs = {name: [] for name in SCHEDULES}
    pair = await asyncio.to_thread(checked, engine_settings)
    ways = [replace(settings, schedule=name) for name in SCHEDULES]
    async with warmed(pair, ways, PROMPTS[-1]) as engine:
        for turn in turns(ways, PROMPTS):
            shown = console if turn.number == 0 else None
            found = await _generate(engine, turn.prompt, turn.system, shown)
            runs[turn.system.schedule].append(found)
    return runs, pair.eos


async def _generate(
    engine: Engine, prompt: str, settings: Settings, console: Console | None
) -> Result:
    generation = engine.generate(prompt, settings, trace=True)
    if console is None:
        return await generation.wait()
    kind = settings.kind
    console.rule(f"[bold]{kind.title:<8}{kind.summary}", align="left")
    console.print(Text(prompt, style="dim"), end="")
    async for piece in generation:
        click.echo(piece.text, nl=False)
    click.echo("\n")
    return generation.result


def _table(runs: dict[str, list[Metrics]]) -> Table:
    alone = runs["ar"]
    shown = table(
        "", "tokens/s", "speed over AR", "accepted", "tokens per pass", "draft idle", "target idle",
        title=f"medians over {len(alone)} prompts",
    )  # fmt: skip
    shown.columns[2].no_wrap = True  # where a terminal is narrow, heads break, and not this figure
    for name, found in runs.items():
        ratios = [m.tokens_per_s / a.tokens_per_s for m, a in zip(found, alone, strict=True)]
        drafts = SCHEDULES[name].drafts
        shown.add_row(
            SCHEDULES[name].title,
            f"{_median([m.tokens_per_s for m in found]):.0f}",
            f"{_median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})" if drafts else "1",
            f"{_median([m.acceptance_rate or 0 for m in found]):.0%}" if drafts else NONE,
            f"{_median([m.tokens_per_target_pass for m in found]):.2f}",
            f"{_median([m.draft_idle for m in found]):.0%}" if drafts else NONE,
            f"{_median([m.target_idle for m in found]):.0%}",
        )
    return shown


def _identical(runs: Runs, console: Console) -> bool:
    """Say whether the three texts are the same, for every prompt."""
    from pearl.analysis.benchmark import first_difference

    for number, alone in enumerate(runs["ar"]):
        for name in runs:
            other = runs[name][number].token_ids
            if other != alone.token_ids:
                where = first_difference(alone.token_ids, other)
                console.print(
                    f"[red]{name} differs from ar on prompt {number + 1} at token {where}[/red]"
                )
                return False
    console.print("[green]The three texts are identical, token for token, on every prompt.[/green]")
    return True
