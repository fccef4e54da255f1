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
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from decoding.sampling import Sampling
from decoding.settings import ScheduleName, Settings, parse_gamma
from pearl import prompts, signals
from pearl.options import ENGINE, check_writable, engine_settings, options, write_trace
from pearl.terminal import shows
from pearl.timeline import PLAIN, SHADES, timeline

if TYPE_CHECKING:
    from actors.engine import Engine, Result
    from actors.engine_settings import EngineSettings
    from decoding.messages import TokenId
    from decoding.metrics import Metrics

    Runs: TypeAlias = dict[ScheduleName, list[Result]]

# None ends in a line break: the pair's tokens join a break with the indentation behind it.
PROMPTS: Final = prompts.PROMPTS[:5]  # a minute is enough for a demonstration
TITLES: Final = {
    ScheduleName.AR: "AR      the target alone",
    ScheduleName.SD: "SD      the draft writes, then the target judges",
    ScheduleName.PEARL: "PEARL   both at once",
}


@click.command(name="demo")
@options(ENGINE)
@click.option("--max-new-tokens", type=int, default=128, show_default=True, metavar="N")
@click.option("--gamma", default="auto", show_default=True, metavar="N|auto",
              help="Tokens in a draft window of SD and PEARL.")  # fmt: skip
@click.option(
    "--temperature",
    type=float,
    default=0.7,
    show_default=True,
    metavar="T",
    help="0 takes the most likely token; above, the three still draw the same ones.",
)
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
    shown = runs[ScheduleName.PEARL][0]
    shades = SHADES if shows(console.file, SHADES) else PLAIN
    console.print(timeline(shown.trace, console.width, shades), markup=False)
    write_trace(path, shown, replace(settings, schedule=ScheduleName.PEARL), eos)
    console.print(f"\nThe PEARL run is in {path}; open it in https://ui.perfetto.dev")
    return 0 if same else 1


async def _run(
    engine_settings: EngineSettings, settings: Settings, console: Console
) -> tuple[Runs, tuple[TokenId, ...]]:
    """The results, and the tokens that end a text."""
    from actors.checking import CheckedPair
    from actors.engine import Engine

    console.print("[dim]starting the draft and the target …[/dim]")
    runs: Runs = {name: [] for name in ScheduleName}
    fitted = await asyncio.to_thread(CheckedPair, engine_settings)
    async with await Engine.start_pair(fitted) as engine:
        for name in ScheduleName:  # the first passes of a process are slow: not measured
            await _generate(engine, PROMPTS[-1], settings, name)
        for number, prompt in enumerate(PROMPTS):
            for name in _rotated(number):
                shown = console if number == 0 else None
                runs[name].append(await _generate(engine, prompt, settings, name, shown))
    return runs, fitted.eos


def _rotated(by: int) -> list[ScheduleName]:
    """AR, SD and PEARL in another order for each prompt."""
    names = list(ScheduleName)
    return names[by % 3 :] + names[: by % 3]


async def _generate(
    engine: Engine,
    prompt: str,
    settings: Settings,
    name: ScheduleName,
    console: Console | None = None,
) -> Result:
    generation = engine.generate(prompt, replace(settings, schedule=name), trace=True)
    if console is None:
        return await generation.wait()
    console.rule(f"[bold]{TITLES[name]}", align="left")
    console.print(Text(prompt, style="dim"), end="")
    async for piece in generation:
        click.echo(piece.text, nl=False)
    click.echo("\n")
    return generation.result


def _table(runs: dict[ScheduleName, list[Metrics]]) -> Table:
    alone = runs[ScheduleName.AR]
    table = Table(box=box.SIMPLE_HEAD, title=f"medians over {len(alone)} prompts", pad_edge=False)
    table.add_column("")
    table.add_column("tokens/s", justify="right")
    table.add_column("speed over AR", justify="right", no_wrap=True)
    for column in ("accepted", "tokens per pass", "draft idle", "target idle"):
        table.add_column(column, justify="right")
    for name, found in runs.items():
        ratios = [m.tokens_per_s / a.tokens_per_s for m, a in zip(found, alone, strict=True)]
        drafts = name is not ScheduleName.AR
        table.add_row(
            str(name).upper(),
            f"{_median([m.tokens_per_s for m in found]):.0f}",
            f"{_median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})" if drafts else "1",
            f"{_median([m.acceptance_rate or 0 for m in found]):.0%}" if drafts else "–",
            f"{_median([m.tokens_per_target_pass for m in found]):.2f}",
            f"{_median([m.draft_idle for m in found]):.0%}" if drafts else "–",
            f"{_median([m.target_idle for m in found]):.0%}",
        )
    return table


def _identical(runs: Runs, console: Console) -> bool:
    """Say whether the three texts are the same, for every prompt."""
    for number, alone in enumerate(runs[ScheduleName.AR]):
        for name in (ScheduleName.SD, ScheduleName.PEARL):
            other = runs[name][number].token_ids
            if other != alone.token_ids:
                where = _first_difference(alone.token_ids, other)
                console.print(
                    f"[red]{name} differs from ar on prompt {number + 1} at token {where}[/red]"
                )
                return False
    console.print("[green]The three texts are identical, token for token, on every prompt.[/green]")
    return True


def _first_difference(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Where two texts that differ part."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((index for index, (x, y) in pairs if x != y), min(len(a), len(b)))
