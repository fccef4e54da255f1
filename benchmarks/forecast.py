"""How good the forecasts are: a profile's predictions beside runs that it has not seen.

    pearl profile --output pair.json --prompts prompts.jsonl --gamma 4 --temperature 0.7
    python benchmarks/forecast.py --profile pair.json --prompts prompts.jsonl --runs runs

The prompts must be those of the profile, for the question is what settings change, not prompts; all
else that was set for the profile, its temperature too, is set here. In each round every system
decodes every prompt, in an order that rotates. Rounds are kept in the folder `--runs`, each request
as a trace: the same command again adds more, at another hour perhaps, and shows all of them. A
round in which other programs took more than a few hundredths of the machine is measured again.

The error of tokens per second is split into what the runs' own acceptance, job times and message
times would have changed. `held` says whether the measured speed lies in the forecast's interval.
"""

from __future__ import annotations

import asyncio
import functools
import json
import pathlib
import statistics
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import click
from rich.console import Console

from pearl.actors.engine import Result
from pearl.actors.engine_settings import Devices, EngineSettings
from pearl.analysis import traces
from pearl.analysis.traces import Request
from pearl.asking import values
from pearl.asking.options import PROMPTS, takes
from pearl.decoding.kinds import SCHEDULES
from pearl.decoding.messages import TokenId
from pearl.decoding.settings import Settings
from pearl.harness.engines import fit, warmed
from pearl.harness.meters import BUSY, Others
from pearl.harness.prompts import read_prompts
from pearl.harness.records import recorded_in_turns, recording, write_trace
from pearl.harness.systems import combinations, name_of
from pearl.harness.turns import Turn, rotated
from pearl.showing.tables import table
from pearl.simulator import profiles
from pearl.simulator.forecast import Forecast, explain, forecast
from pearl.simulator.profiles import Profile

PARTS: Final = ("acceptance", "times", "ways", "rest")
ALONE: Final = Settings(schedule="ar")
TRIES: Final = 2  # for each round


class Row(NamedTuple):
    """One system's forecast beside its runs."""

    predicted: Forecast
    speed: float
    ratio: float
    predicted_ratio: float
    parts: dict[str, float]

    @property
    def error(self) -> float:
        """Of tokens per second."""
        return float(self.predicted.tokens_per_s) / self.speed - 1

    @property
    def ratio_error(self) -> float:
        """Of the ratio to AR."""
        return self.predicted_ratio / self.ratio - 1

    @property
    def margin(self) -> float:
        """Half of the interval's width, as a share."""
        low, high = self.predicted.tokens_per_s.interval or (0.0, 0.0)
        return (high - low) / 2 / float(self.predicted.tokens_per_s)

    @property
    def held(self) -> bool:
        """Whether the interval holds what was measured."""
        return abs(1 / (1 + self.error) - 1) <= self.margin


async def measure(
    devices: str, compared: dict[str, Settings], prompts: list[str], runs: pathlib.Path, rounds: int
) -> int:
    """So many rounds more; how many were thrown away."""
    pair = await asyncio.to_thread(fit, EngineSettings(devices=Devices(devices)), "a forecast")
    there, done, thrown = rounds_in(runs), 0, 0
    async with warmed(pair, compared.values(), prompts[0]) as engine:
        while done < rounds and thrown < TRIES * rounds:
            number = there + done
            systems = {name: compared[name] for name in rotated(list(compared), number)}
            results: list[tuple[Turn[str], Result]] = []
            with Others() as others:
                await recorded_in_turns(
                    engine, systems, prompts, pair.eos, functools.partial(_note, results)
                )
            if others.share > BUSY:
                thrown += 1
                continue
            _keep(runs / str(number), results, compared, pair.eos)
            done += 1
    return thrown


def _note(results: list[tuple[Turn[str], Result]], turn: Turn[str], result: Result) -> None:
    results.append((turn, result))


def rounds_in(runs: pathlib.Path) -> int:
    """How many are there."""
    return len(list(runs.glob("*/")))


def _keep(
    folder: pathlib.Path,
    results: list[tuple[Turn[str], Result]],
    compared: dict[str, Settings],
    eos: tuple[TokenId, ...],
) -> None:
    folder.mkdir(parents=True)
    for turn, result in results:
        path = folder / f"{turn.system} {turn.number}.json"
        write_trace(path, result, compared[turn.system], eos)


def kept(runs: pathlib.Path) -> dict[str, list[Request]]:
    """All requests of all rounds, by system."""
    found: defaultdict[str, list[Request]] = defaultdict(list)
    for path in sorted(runs.glob("*/*.json")):
        for request in traces.read(path):
            found[name_of(request.settings)].append(request)
    return dict(found)


def compare(profile: Profile, found: Mapping[str, list[Request]]) -> dict[str, Row]:
    """Every system's forecast beside its runs."""
    alone = forecast(profile, ALONE)
    speeds = {name: float(traces.figures(runs).tokens_per_s) for name, runs in found.items()}
    return {
        name: _row(profile, runs, alone, speeds[name], speeds[name] / speeds[name_of(ALONE)])
        for name, runs in found.items()
    }


def _row(profile: Profile, runs: list[Request], alone: Forecast, speed: float, ratio: float) -> Row:
    settings = runs[0].settings
    predicted = forecast(profile, settings)
    gap = explain(profile, settings, list(map(recording, runs)), speed)
    return Row(
        predicted=predicted,
        speed=speed,
        ratio=ratio,
        predicted_ratio=float(predicted.over(alone)),
        parts={part: getattr(gap, part) for part in PARTS},
    )


def summary(rows: Mapping[str, Row]) -> dict[str, float]:
    """What the table comes to."""
    errors = [abs(row.error) for row in rows.values()]
    ratios = [abs(row.ratio_error) for row in rows.values()]
    margins = [row.margin for row in rows.values()]
    return {
        "mean": statistics.mean(errors),
        "worst": max(errors),
        "ratio_mean": statistics.mean(ratios),
        "ratio_worst": max(ratios),
        "held": statistics.mean(row.held for row in rows.values()),
        "widest_margin": max(margins),
    }


def show(rows: Mapping[str, Row]) -> None:
    """The table for people."""
    heads = ("forecast", "measured", "error", "held", "over AR", "measured", "error", *PARTS)
    shown = table("system", *heads)
    for name, row in rows.items():
        shown.add_row(
            name,
            f"{float(row.predicted.tokens_per_s):.0f} ± {row.margin:.1%}",
            f"{row.speed:.0f}",
            f"{row.error:+.1%}",
            "yes" if row.held else "no",
            f"{row.predicted_ratio:.2f}",
            f"{row.ratio:.2f}",
            f"{row.ratio_error:+.1%}",
            *(f"{part:+.1%}" for part in row.parts.values()),
        )
    Console(width=140).print(shown)


def _as_json(row: Row) -> dict[str, Any]:
    names = ("speed", "error", "ratio", "ratio_error", "margin", "held")
    return {name: getattr(row, name) for name in names} | row.parts


@click.command()
@click.option("--profile", "file", required=True)
@click.option("--runs", required=True, help="The folder where rounds are kept.")
@click.option("--rounds", default=1, show_default=True, help="To measure now; 0 only shows.")
@click.option("--devices", type=click.Choice(["ray", "local"]), default="ray")
@click.option("--gammas", default="3,5,6,7,9,12,auto", show_default=True)
@click.option("--head-starts", default="0,2", show_default=True)
@click.option("--json", "as_json", is_flag=True)
@takes(PROMPTS)
def main(
    *,
    file: str,
    runs: str,
    rounds: int,
    devices: str,
    gammas: str,
    head_starts: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Compare a profile's forecasts with runs of the same pair and prompts."""
    profile, folder = profiles.read(pathlib.Path(file)), pathlib.Path(runs)
    ahead = values.whole_numbers("head-starts", head_starts, 0)
    every = combinations(profile.settings, tuple(SCHEDULES), values.gammas(gammas), ahead)
    compared = {name_of(settings): settings for settings in every}
    thrown = 0
    if rounds:
        thrown = asyncio.run(measure(devices, compared, read_prompts(given), folder, rounds))
    rows = compare(profile, kept(folder))
    found = summary(rows)
    if as_json:
        click.echo(json.dumps({"rows": {n: _as_json(row) for n, row in rows.items()}, **found}))
        return
    show(rows)
    click.echo(
        f"error: mean {found['mean']:.1%}, worst {found['worst']:.1%} of {len(rows)}; ratios to "
        f"AR: mean {found['ratio_mean']:.1%}, worst {found['ratio_worst']:.1%}; intervals of at "
        f"most ± {found['widest_margin']:.1%} hold {found['held']:.0%}; {thrown} rounds thrown away"
    )


if __name__ == "__main__":
    main()
