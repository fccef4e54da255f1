"""How good the forecasts are: a profile's predictions beside runs that it has not seen.

    pearl profile --output pair.json --prompts prompts.jsonl --gamma 5
    python benchmarks/forecast.py --profile pair.json --prompts prompts.jsonl

The prompts must be those of the profile, for the question is what settings change, not prompts.
Every system decodes every prompt, in an order that rotates; the error of tokens per second is
split into what the run's own acceptance, job times and message times would have changed.
"""

from __future__ import annotations

import asyncio
import json
import pathlib
import statistics
from typing import Any

import click
from msgspec.structs import replace
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from actors.engine import Engine
from actors.engine_settings import Devices, EngineSettings
from decoding.metrics import Metrics
from decoding.settings import ScheduleName, Settings, parse_gamma
from decoding.summaries import over_requests
from pearl.contest import rotated
from pearl.meters import Others
from pearl.options import PROMPTS, options
from pearl.prompts import read_prompts
from simulator import profiles
from simulator.forecast import Gap, explain, forecast
from simulator.profiles import Profile
from simulator.profiling import Recording

PARTS = ("acceptance", "times", "ways", "rest")


def systems(gammas: list[str], head_starts: list[int], settings: Settings) -> dict[str, Settings]:
    """What is forecast and run, by name."""
    found = {"ar": replace(settings, schedule=ScheduleName.AR)}
    for text in gammas:
        gamma = parse_gamma(text)
        found[f"sd {text}"] = replace(settings, schedule=ScheduleName.SD, gamma=gamma)
        for k in head_starts:
            name = f"pearl {text}" + (f" head start {k}" if k else "")
            found[name] = replace(settings, gamma=gamma, head_start=k)
    return found


async def measure(
    devices: str, compared: dict[str, Settings], prompts: list[str]
) -> tuple[dict[str, list[tuple[Metrics, Recording]]], float]:
    """Metrics and trace by system and prompt, and what other processes took meanwhile."""
    names = list(compared)
    found: dict[str, list[tuple[Metrics, Recording]]] = {name: [] for name in names}
    async with await Engine.start(EngineSettings(devices=Devices(devices))) as engine:
        for name in names:  # the first passes of a process are slow
            await engine.generate(prompts[0], replace(compared[name], max_new_tokens=32)).wait()
        with Others() as others:
            for number, prompt in enumerate(track(prompts, "prompts")):
                for name in rotated(names, number):
                    done = await engine.generate(prompt, compared[name], trace=True).wait()
                    recording = Recording(prompt=done.prompt_tokens, records=done.trace)
                    found[name].append((done.metrics, recording))
    return found, others.share


def compare(
    profile: Profile, settings: Settings, found: list[tuple[Metrics, Recording]]
) -> dict[str, Any]:
    """One system's forecast beside its run."""
    predicted, real = forecast(profile, settings), over_requests([metrics for metrics, _ in found])
    recordings = [recording for _, recording in found]
    gap: Gap = explain(profile, settings, recordings, float(real.tokens_per_s))
    return {
        "predicted_tokens_per_s": predicted.tokens_per_s.value,
        "measured_tokens_per_s": real.tokens_per_s.value,
        "error": gap.error,
        **{part: getattr(gap, part) for part in PARTS},
        "predicted": [float(predicted.draft_idle), float(predicted.target_idle)],
        "measured": [float(real.draft_idle), float(real.target_idle)],
    }


def show(rows: dict[str, dict[str, Any]]) -> None:
    """The table for people."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("system", "forecast", "measured", "error", *PARTS, "draft idle", "target idle"):
        table.add_column(column)
    for name, row in rows.items():
        pairs = zip(row["predicted"], row["measured"], strict=True)
        idle = [f"{p:.0%} / {m:.0%}" for p, m in pairs]
        table.add_row(
            name,
            f"{row['predicted_tokens_per_s']:.0f}",
            f"{row['measured_tokens_per_s']:.0f}",
            f"{row['error']:+.1%}",
            *(f"{row[part]:+.1%}" for part in PARTS),
            *idle,
        )
    Console(width=120).print(table)


@click.command()
@click.option("--profile", "file", required=True)
@click.option("--devices", type=click.Choice(["ray", "local"]), default="ray")
@click.option("--gammas", default="2,3,4,6,8,10", show_default=True)
@click.option("--head-starts", default="0", show_default=True)
@click.option("--json", "as_json", is_flag=True)
@options(PROMPTS)
def main(
    *, file: str, devices: str, gammas: str, head_starts: str, as_json: bool, **given: Any
) -> None:
    """Compare a profile's forecasts with runs of the same pair and prompts."""
    profile = profiles.read(pathlib.Path(file))
    ahead = [int(k) for k in head_starts.split(",")]
    compared = systems(gammas.split(","), ahead, profile.settings)
    found, others = asyncio.run(measure(devices, compared, read_prompts(given)))
    rows = {name: compare(profile, compared[name], runs) for name, runs in found.items()}
    errors = [abs(row["error"]) for row in rows.values()]
    summary = {"mean": statistics.mean(errors), "worst": max(errors), "others": others}
    if as_json:
        click.echo(json.dumps({"rows": rows, **summary}))
        return
    show(rows)
    click.echo(
        f"error: mean {summary['mean']:.1%}, worst {summary['worst']:.1%} of {len(rows)}; "
        f"other processes took {others:.0%} of the machine"
    )


if __name__ == "__main__":
    main()
