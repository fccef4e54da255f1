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
from rich.console import Console

from pearl.actors.engine_settings import Devices, EngineSettings
from pearl.analysis import traces
from pearl.analysis.traces import Request
from pearl.asking import values
from pearl.asking.options import PROMPTS, takes
from pearl.decoding.kinds import SCHEDULES
from pearl.decoding.settings import Settings
from pearl.harness.engines import fit, warmed
from pearl.harness.meters import Others
from pearl.harness.prompts import read_prompts
from pearl.harness.records import recorded_in_turns, recording
from pearl.harness.systems import combinations, name_of
from pearl.showing.tables import table
from pearl.simulator import profiles
from pearl.simulator.forecast import Gap, explain, forecast
from pearl.simulator.profiles import Profile

PARTS = ("acceptance", "times", "ways", "rest")


async def measure(
    devices: str, compared: dict[str, Settings], prompts: list[str]
) -> tuple[dict[str, list[Request]], float]:
    """Requests by system, and what other processes took meanwhile."""
    pair = await asyncio.to_thread(fit, EngineSettings(devices=Devices(devices)), "a forecast")
    async with warmed(pair, compared.values(), prompts[0]) as engine:
        with Others() as others:
            found = await recorded_in_turns(engine, compared, prompts, pair.eos)
    return found, others.share


def compare(profile: Profile, settings: Settings, found: list[Request]) -> dict[str, Any]:
    """One system's forecast beside its run."""
    predicted, real = forecast(profile, settings), traces.figures(found)
    gap: Gap = explain(profile, settings, list(map(recording, found)), float(real.tokens_per_s))
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
    heads = ("system", "forecast", "measured", "error", *PARTS, "draft idle", "target idle")
    shown = table(*heads)
    for name, row in rows.items():
        pairs = zip(row["predicted"], row["measured"], strict=True)
        idle = [f"{p:.0%} / {m:.0%}" for p, m in pairs]
        shown.add_row(
            name,
            f"{row['predicted_tokens_per_s']:.0f}",
            f"{row['measured_tokens_per_s']:.0f}",
            f"{row['error']:+.1%}",
            *(f"{row[part]:+.1%}" for part in PARTS),
            *idle,
        )
    Console(width=120).print(shown)


@click.command()
@click.option("--profile", "file", required=True)
@click.option("--devices", type=click.Choice(["ray", "local"]), default="ray")
@click.option("--gammas", default="2,3,4,6,8,10", show_default=True)
@click.option("--head-starts", default="0", show_default=True)
@click.option("--json", "as_json", is_flag=True)
@takes(PROMPTS)
def main(
    *, file: str, devices: str, gammas: str, head_starts: str, as_json: bool, **given: Any
) -> None:
    """Compare a profile's forecasts with runs of the same pair and prompts."""
    profile = profiles.read(pathlib.Path(file))
    ahead = values.whole_numbers("head-starts", head_starts, 0)
    every = combinations(profile.settings, tuple(SCHEDULES), values.gammas(gammas), ahead)
    compared = {name_of(settings): settings for settings in every}
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
