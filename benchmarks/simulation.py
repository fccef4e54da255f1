"""How fast what-ifs are answered on one core: the event simulation, the twin, and a whole sweep.

    python benchmarks/simulation.py --repetitions 7 --json

Seconds are those of the processor, so that other programs on the machine count less; a figure is
the median of several repetitions with the least and the most. Events are moments at which
something happened in the event simulation; rounds are passes of the target.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import click
from rich.console import Console

from pearl.decoding.kinds import SCHEDULES
from pearl.decoding.policies import Gamma
from pearl.decoding.settings import Settings
from pearl.showing.tables import table
from pearl.simulator import answers, sweep
from pearl.simulator.acceptance import Independent
from pearl.simulator.streams import StreamPurpose, stream
from pearl.simulator.twin import PairTimes, Scheme, decode, drawn
from pearl.simulator.workload import ClosedLoop, Fixed, Workload
from pearl.simulator.world import Pair, Scenario

WIDTH: Final = 96
ALPHA, SPEED_RATIO, GAMMA = 0.8, 5.0, 5
ALPHAS: Final = tuple(round(0.5 + 0.02 * i, 2) for i in range(25))
SPEED_RATIOS: Final = tuple(2 + 18 * i / 133 for i in range(134))  # 10,050 points in all


def events(schedule: str, requests: int, tokens: int, seed: int) -> int:
    """Requests that run at once, so many tokens in all; how many events that was."""
    strict = SCHEDULES[schedule].takes("strict")
    settings = Settings(schedule=schedule, gamma=GAMMA, strict=strict)
    each = Fixed(tokens // requests)
    load = Workload(requests=requests, arrivals=ClosedLoop(requests), output=each)
    scenario = Scenario(
        settings=settings,
        pair=Pair.of(SPEED_RATIO),
        acceptance=Independent(ALPHA),
        workload=load,
    )
    return answers.run(scenario, seed=seed).events


def rounds(schedule: str, runs: int, seed: int) -> float:
    """So many runs of agreement, drawn and decoded; how many rounds that was."""
    scheme = Scheme(schedule, GAMMA)
    luck = drawn(Independent(ALPHA), scheme, stream(seed, 0, StreamPurpose.ACCEPTANCE), runs)
    return float(decode(luck.runs, scheme, PairTimes(Pair.of(SPEED_RATIO))).rounds.passes.sum())


def points(gamma: Gamma, seed: int) -> int:
    """A grid of rates and ratios by AR, SD and PEARL, with intervals; how many points it has."""
    grid = sweep.Sweep(alphas=ALPHAS, speed_ratios=SPEED_RATIOS, gammas=(gamma,), seed=seed)
    return sum(1 for _ in sweep.run(grid))


def measured(work: Callable[[int], float], repetitions: int) -> dict[str, float]:
    """What was done in a second and what it took, each with its extremes; a first one warms up."""
    work(0)
    done, seconds = [], []
    for seed in range(1, repetitions + 1):
        began = time.process_time()
        done.append(work(seed))
        seconds.append(time.process_time() - began)
    rates = [count / taken for count, taken in zip(done, seconds, strict=True)]
    return {
        "per_second": statistics.median(rates),
        "per_second_least": min(rates),
        "per_second_most": max(rates),
        "seconds": statistics.median(seconds),
        "seconds_least": min(seconds),
        "seconds_most": max(seconds),
        "done": statistics.median(done),
    }


def report(tokens: int, runs: int, repetitions: int) -> dict[str, dict[str, float]]:
    """Every figure, by name."""
    work: dict[str, Callable[[int], float]] = {
        **{f"events, {n}": partial(events, n, 1, tokens) for n in SCHEDULES},
        **{f"events, {n}, eight at once": partial(events, n, 8, tokens) for n in SCHEDULES},
        **{f"rounds, {n}": partial(rounds, n, runs) for n in SCHEDULES},
        f"points, gamma {GAMMA}": partial(points, GAMMA),
        "points, gamma auto": partial(points, "auto"),
    }
    return {name: measured(each, repetitions) for name, each in work.items()}


def show(found: dict[str, dict[str, float]]) -> None:
    """The table for people."""
    shown = table("", "a second", "least", "most", "seconds")
    for name, figures in found.items():
        rates = [figures[f"per_second{end}"] for end in ("", "_least", "_most")]
        cells = [f"{rate:,.0f}" for rate in rates]
        shown.add_row(name, *cells, f"{figures['seconds']:.3f}")
    Console(width=WIDTH).print(shown)


@click.command()
@click.option("--tokens", default=40_000, show_default=True, help="Of all answers together.")
@click.option("--runs", default=1_000_000, show_default=True, help="Drawn for the twin.")
@click.option("--repetitions", default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(tokens: int, runs: int, repetitions: int, *, as_json: bool) -> None:
    """Measure the event simulation, the twin and a sweep on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    found = report(tokens, runs, repetitions)
    if as_json:
        click.echo(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
