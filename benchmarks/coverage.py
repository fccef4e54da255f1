"""How often the 95 % intervals of this project hold the truth: a simulation study.

    python benchmarks/coverage.py --json > benchmarks/coverage.json    # half an hour

Agreement is drawn under a known law, decoded by arithmetic (`pearl.simulator.twin`), and given to
the very functions that make a user's figures. A cell is a law, a rate, and how much was seen of it;
its coverage is the share of repetitions whose interval holds the truth.

    over requests    prompts drawn from a large population, whose own figures are the truth
    over runs        one text, its intervals over its runs; the truth is that of all texts drawn
    over tokens      Wilson's interval, summed over every count that there may be: exact

Claimed is 93 to 97 %, for each figure where `claimed` says so: from 150 expected rejections on.
With fewer, an interval over runs is too narrow by a few percent. So is one over 6 prompts at a
rate of 0.9 and over 12 at 0.95, if they differ much: most samples have no very hard prompt, and no
interval knows of what was not seen. The share of runs that begin well, and the share that keep
so many tokens, hang on hard prompts, which have most of the runs: where prompts differ their
intervals are too narrow, of 24 prompts still by up to nine percent.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import shlex
import sys
from collections.abc import Callable, Collection, Iterator
from importlib import metadata
from typing import Any, Final, TypeAlias

import click
import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from scipy import stats

from pearl.analysis.statistics import run_length, survival
from pearl.decoding.estimates import LEVEL, Estimate, of_share
from pearl.decoding.metrics import Metrics
from pearl.decoding.summaries import over_requests
from pearl.showing.tables import NONE, table
from pearl.simulator.twin import Decoded, PairTimes, Scheme, decode
from pearl.simulator.world import Pair

Agreed: TypeAlias = NDArray[np.uint8]  # shape (requests, tokens): 1 agreed, 0 did not
Figures: TypeAlias = dict[str, Estimate]

WIDTH: Final = 130
RATES: Final = (0.5, 0.7, 0.8, 0.9, 0.95)
REQUESTS: Final = (6, 12, 24, 48)
LENGTHS: Final = (256, 512, 1024, 2048)  # of a single text
ANSWER: Final = 128  # tokens of each of several
POPULATION: Final = 20_000
PLACE: Final = 5  # of the share of runs that keep so many tokens
SURVIVAL: Final = f"runs of {PLACE} or more"
OF_RUNS: Final = ("run first_kept", SURVIVAL)  # in which each run counts as much as another
ENOUGH: Final = (0.93, 0.97)
REJECTIONS: Final = 150  # expected in all that was seen
ALIKE: Final = 24  # requests, for figures of runs: of fewer their intervals are too wide
# Passes grow with what they judge and windows take longer than a pass of one token, so that both
# devices wait more in some rounds than in others.
TIMES: Final = PairTimes(Pair.of(5, growth=0.05))
SCHEMES: Final = {"PEARL": Scheme("pearl", 6), "SD": Scheme("sd", 4)}
SPEED: Final = ("tokens_per_s", "tokens_per_target_pass", "acceptance_rate")
IDLE: Final = ("draft_idle", "target_idle")
SHOWN: Final = {"PEARL": (*SPEED, *IDLE, "wasted"), "SD": (*SPEED, "wasted")}


class Law(msgspec.Struct, frozen=True):
    """Of agreement: how it comes in bursts in a text, and how prompts differ.

    Args:
        correlation: of neighbouring tokens.
        concentration: of the Beta law of the prompts' rates; None if all are alike.
    """

    correlation: float = 0.0
    concentration: float | None = None

    def draw(self, rng: np.random.Generator, rate: float, requests: int, tokens: int) -> Agreed:
        """Texts, each from a place that is like any other."""
        a: Any = rate
        if self.concentration is not None:
            a = rng.beta(rate * self.concentration, (1 - rate) * self.concentration, requests)
        luck = np.empty((tokens, requests), dtype=np.uint8)
        agreed = rng.random(requests) < a
        for row, chance in zip(luck, rng.random((tokens, requests)), strict=True):
            agreed = chance < a * (1 - self.correlation) + self.correlation * agreed
            row[:] = agreed
        return luck.T.copy()


LAWS: Final = {
    "independent": Law(),
    "bursts": Law(correlation=0.3),
    "prompts differ a little": Law(concentration=30),
    "prompts differ": Law(concentration=8),
    "both": Law(correlation=0.3, concentration=8),
}


# -- what was seen -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """Requests, or the runs of one, as the project's functions want them."""

    metrics: dict[str, list[Metrics]]
    lucks: list[str]

    def figures(self) -> Figures:
        """Every figure with its interval."""
        found = {
            f"{name} {figure}": getattr(over_requests(self.metrics[name]), figure)
            for name, figures in SHOWN.items()
            for figure in figures
        }
        lengths = run_length(self.lucks)
        found |= {f"run {name}": getattr(lengths, name) for name in lengths.__struct_fields__}
        shares = survival(self.lucks)
        found[SURVIVAL] = shares[PLACE] if len(shares) > PLACE else Estimate(None)
        return found

    def some(self, chosen: NDArray[np.int64]) -> Seen:
        """Some of the requests, each as often as it was chosen."""
        metrics = {name: [each[n] for n in chosen] for name, each in self.metrics.items()}
        return Seen(metrics, [self.lucks[n] for n in chosen])


def seen(luck: Agreed, *, by_run: bool) -> Seen:
    """What schedules make of these texts, request by request or run by run.

    The last token of a text is the target's own, so nobody compares it.
    """
    requests, tokens = luck.shape
    ended = luck == 0
    ended[:, -1] = True  # the text, not the run
    at = np.flatnonzero(ended)
    runs = np.diff(at, prepend=-1) - 1
    cut = at % tokens == tokens - 1
    starts = np.arange(len(runs)) if by_run else np.append(0, np.flatnonzero(cut)[:-1] + 1)
    metrics = {
        name: _metrics(decode(runs, scheme, TIMES), cut, starts) for name, scheme in SCHEMES.items()
    }
    compared = (luck[:, :-1] + np.uint8(ord("0"))).tobytes().decode()
    each = tokens - 1
    return Seen(metrics, [compared[n * each : (n + 1) * each] + "?" for n in range(requests)])


def _metrics(found: Decoded, cut: NDArray[np.bool_], starts: NDArray[np.int64]) -> list[Metrics]:
    """Sums of rounds from one start to the next; a run that was cut short met no rejection."""
    made = found.rounds
    each = {
        "tokens": made.tokens,
        "target_passes": made.passes,
        "draft_steps": made.steps,
        "kept": made.kept,
        "rejections": np.where(cut, 0.0, made.rejections),
        "seconds": found.seconds,
        "draft_idle": found.seconds - found.writing,
        "target_idle": found.seconds - found.working,
    }
    fields = {name: np.broadcast_to(values, cut.shape) for name, values in each.items()}
    sums = {name: np.add.reduceat(values, starts) for name, values in fields.items()}
    for idle in IDLE:
        sums[idle] /= sums["seconds"]
    rows = zip(*(values.tolist() for values in sums.values()), strict=True)
    return [replace(NOTHING, **dict(zip(sums, row, strict=True))) for row in rows]


NOTHING: Final = msgspec.convert(
    dict.fromkeys(Metrics.__struct_fields__, 0) | {"schedule": "", "verifier": ""}, Metrics
)
"""What no figure is made of is 0: the summaries use counts, seconds and shares."""


# -- cells -------------------------------------------------------------------------------------


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """The cells of one law, one rate and one amount of what was seen.

    Args:
        over: what intervals are over: requests, runs, tokens.
        claimed: coverage of the figures for which `ENOUGH` is claimed; `beyond` of all others.
    """

    over: str
    law: str
    rate: float
    requests: int
    tokens: int
    claimed: dict[str, float]
    beyond: dict[str, float]


def row(
    over: str, law: str, rate: float, requests: int, tokens: int, of: dict[str, float]
) -> Coverage:
    """One, its figures sorted into those for which something is claimed and all others."""
    sure = {name for name in of if claimed(name, over, law, rate, requests, tokens)}
    found = {name: round(value, 4) for name, value in of.items()}
    return Coverage(
        over=over,
        law=law,
        rate=rate,
        requests=requests,
        tokens=tokens,
        claimed={name: value for name, value in found.items() if name in sure},
        beyond={name: value for name, value in found.items() if name not in sure},
    )


def claimed(figure: str, over: str, law: str, rate: float, requests: int, tokens: int) -> bool:
    """Whether the project says that this interval holds the truth 93 to 97 times in a hundred.

    It does where there is enough to see, and no figure hangs on the runs of a few hard prompts.
    """
    if over == "tokens":
        return True
    enough = requests * tokens * (1 - rate) >= REJECTIONS
    if figure not in OF_RUNS:
        return enough
    return enough and LAWS[law].concentration is None and (over == "runs" or requests >= ALIKE)


def over_tokens() -> Iterator[Coverage]:
    """The independent rate: exact."""
    for rate in RATES:
        for tokens in (64, 128, *LENGTHS):
            counts = np.arange(tokens + 1)
            ends = [of_share(int(n), tokens - int(n)) for n in counts]
            held = [_holds(end, rate) for end in ends]
            covered = float(stats.binom.pmf(counts, tokens, rate)[held].sum())
            yield row("tokens", "independent", rate, 1, tokens, {"acceptance": covered})


def requests_of(
    law: str, rate: float, repetitions: int, rng: np.random.Generator
) -> Iterator[Coverage]:
    """Requests drawn from one population, few and many."""
    population = seen(LAWS[law].draw(rng, rate, POPULATION, ANSWER), by_run=False)
    truth = population.figures()
    for requests in REQUESTS:
        chosen = rng.integers(POPULATION, size=(repetitions, requests))
        found = (population.some(some).figures() for some in chosen)
        yield row("requests", law, rate, requests, ANSWER, _coverage(found, truth))


def runs_of(
    law: str, rate: float, repetitions: int, rng: np.random.Generator
) -> Iterator[Coverage]:
    """Single texts, short and long."""
    for tokens in LENGTHS:
        lucks = LAWS[law].draw(rng, rate, repetitions, tokens)
        truth = seen(lucks, by_run=False).figures()
        found = (seen(luck[np.newaxis], by_run=True).figures() for luck in lucks)
        yield row("runs", law, rate, 1, tokens, _coverage(found, truth))


def _coverage(found: Iterator[Figures], truth: Figures) -> dict[str, float]:
    """How often each figure's interval holds the truth, where it has an interval."""
    held: dict[str, list[bool]] = {name: [] for name in truth}
    for figures in found:
        for name, estimate in figures.items():
            if estimate.interval is not None:
                held[name].append(_holds(estimate, float(truth[name])))
    return {name: float(np.mean(each)) for name, each in held.items() if each}


def _holds(found: Estimate, truth: float) -> bool:
    return found.low is not None and found.high is not None and found.low <= truth <= found.high


def study(repetitions: int, seed: int) -> list[Coverage]:
    """All cells; each law and rate has its own stream."""
    work: list[tuple[Callable[..., Iterator[Coverage]], str, float]] = [
        *((requests_of, law, rate) for law in LAWS for rate in RATES),
        *((runs_of, law, rate) for law in ("independent", "bursts") for rate in RATES),
    ]
    found = list(over_tokens())
    for number, (cells, law, rate) in enumerate(track(work, "cells", console=Console(stderr=True))):
        found += cells(law, rate, repetitions, np.random.default_rng([seed, number]))
    return found


# -- the report --------------------------------------------------------------------------------


def report(repetitions: int, seed: int) -> dict[str, Any]:
    """All rows, and how they were made."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "repetitions": repetitions,
        "seed": seed,
        "level": LEVEL,
        "enough": ENOUGH,
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("pearl-decoding", "numpy", "scipy")},
        },
        "rows": [msgspec.to_builtins(row) for row in study(repetitions, seed)],
    }


def spelled(found: dict[str, Any]) -> str:
    """JSON with a row a line, so that two studies can be compared line by line."""
    head = {name: value for name, value in found.items() if name != "rows"}
    rows = ",\n".join(json.dumps(row) for row in found["rows"])
    return f'{json.dumps(head)[:-1]}, "rows": [\n{rows}\n]}}'


def show(found: dict[str, Any]) -> None:
    """The table for people: of each row the least and the most, and what is outside."""
    shown = table("over", "law", "rate", "seen", "claimed", "beyond", "lowest", words=7)
    for row in found["rows"]:
        every = row["claimed"] | row["beyond"]
        lowest = min(every, key=lambda name: every[name])
        count = f"{row['requests']} × {row['tokens']}"
        ranges = [_range(row[name].values()) for name in ("claimed", "beyond")]
        shown.add_row(row["over"], row["law"], f"{row['rate']}", count, *ranges, lowest)
    console = Console(width=WIDTH)
    console.print(shown)
    low, high = found["enough"]
    values = [value for row in found["rows"] for value in row["claimed"].values()]
    inside = sum(low <= value <= high for value in values)
    console.print(f"{inside} of {len(values)} cells claimed are within {low:.0%} and {high:.0%}.")


def _range(values: Collection[float]) -> str:
    return f"{min(values):.1%} to {max(values):.1%}" if values else NONE


@click.command()
@click.option("--repetitions", default=4000, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(repetitions: int, seed: int, *, as_json: bool) -> None:
    """Count how often the intervals hold the truth."""
    found = report(repetitions, seed)
    if as_json:
        click.echo(spelled(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
