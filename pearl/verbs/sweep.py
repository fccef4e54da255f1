"""`pearl sweep`: a grid of what-ifs as a table, and as a map of which schedule is the fastest."""

from __future__ import annotations

import contextlib
import importlib.util
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import click

from pearl.asking import values, what_if
from pearl.asking.options import check_writable, figure_path, takes
from pearl.decoding.errors import SettingError
from pearl.decoding.kinds import SCHEDULES
from pearl.progress import bar
from pearl.showing.sweeps import TABLES, as_text, csv_writer, draw

if TYPE_CHECKING:
    from pearl.simulator.profiles import Profile
    from pearl.simulator.sweep import GridPoint, Job, Journal, Sweep

    Solve: TypeAlias = Callable[[Sequence[Job]], Iterator[list[GridPoint]]]

MOST_WORKERS: Final = 1024
WORTH_SPREADING: Final = 20_000  # points: some seconds
RATIO: Final = f"{what_if.SPEED_RATIO:g}"

GRID = [
    click.option("--alpha", metavar="VALUES",
                 help=f"Acceptance rates. [default: {what_if.ALPHA}]"),
    click.option("--speed-ratio", metavar="VALUES",
                 help=f"A target pass over a draft step. [default: {RATIO}]"),
    click.option("--gamma", metavar="VALUES|auto", default="auto", show_default=True,
                 help="Tokens in a draft window; auto takes the best one of each point, from 1 to "
                 "32, and the table says which it was."),
    click.option("--schedules", metavar="NAMES", default=lambda: ",".join(SCHEDULES),
                 show_default="all",
                 help="Such as ar,pearl. AR has no gamma, and only PEARL has a head start."),
    click.option("--head-start", metavar="VALUES", default="0", show_default=True,
                 help="PEARL: tokens the draft writes before the first pass after a rejection."),
    click.option("--growth", metavar="VALUES",
                 help="Every further token of a pass takes this share of a pass more. [default: "
                 "0]"),
    click.option("--target-ms", type=float, metavar="MS",
                 help=f"A target pass over one token. [default: {what_if.TARGET_MS}]"),
    click.option("--link-ms", metavar="VALUES",
                 help="Latency of every message between scheduler and device. [default: 0]"),
    click.option("--control-ms", metavar="VALUES",
                 help="What the scheduler takes from an answer to each command. [default: 0]"),
    *what_if.TOLD,
    click.option("--acceptance", metavar="KIND",
                 help="In place of --alpha: independent:A · positions:A,A,… · "
                 "bursts:A,CORRELATION · mixture:A*WEIGHT,A*WEIGHT,… · replay:TRACE.json"),
    click.option("--profile", "profile_file", metavar="FILE",
                 help="Times, links and acceptance as `pearl profile` measured them."),
    click.option("--runs", type=int, metavar="N",
                 help="Runs of agreement drawn for each point; 0 takes their law itself, and "
                 "there are no intervals then. [default: 4096]"),
    click.option("--seed", type=int, default=0, show_default=True,
                 help="Of all randomness; the same seed gives the same table."),
]  # fmt: skip


@click.command(name="sweep")
@takes(GRID)
@click.option("--output", metavar="FILE",
              help="Where the table goes: .csv, .json or .parquet. An interrupted sweep goes on "
              "where it stopped. [default: CSV on standard output]")  # fmt: skip
@click.option("--figure", "figure_file", metavar="FILE",
              help="Draw the map of alpha and speed ratio: .png or .svg.")  # fmt: skip
@click.option("--workers", type=int, metavar="N", help="Processes. [default: as many as help]")
@click.option("--on-ray", is_flag=True, help="Spread the work over a Ray cluster.")
@click.option("--ray-address", metavar="ADDRESS", envvar="RAY_ADDRESS",
              help="A running one; default: a private one on this machine.")  # fmt: skip
def command(
    *,
    output: str | None,
    figure_file: str | None,
    workers: int | None,
    on_ray: bool,
    ray_address: str | None,
    **given: Any,
) -> None:
    """Answer a grid of what-ifs, every figure with its 95 % interval.

    VALUES are one number, a list A,B,C, or a range START:STOP:STEP that includes STOP.
    """
    sweep = question(given)
    path = None if output is None else _table_path(output)
    figure = None if figure_file is None else _figure_path(figure_file, sweep)
    solve = _on_ray(ray_address, workers) if on_ray else _on_cores(workers, sweep)
    if path is None:
        _print(sweep, solve, figure)
    else:
        _write(path, sweep, solve, figure)


# -- the question ------------------------------------------------------------------------------


def question(given: Mapping[str, Any]) -> Sweep:
    """What the options describe.

    Raises:
        SettingError: one of them is outside its range, or two contradict each other.
    """
    from pearl.simulator.sweep import Sweep
    from pearl.simulator.twin import RUNS

    profile = what_if.read_profile(given["profile_file"])
    values.check_seed(given["seed"])
    return Sweep(
        **_luck(given, profile),
        **_times(given, profile),
        **_messages(given, profile),
        schedules=values.schedules(given["schedules"]),
        gammas=values.gammas(given["gamma"]),
        head_starts=values.whole_numbers("head-start", given["head_start"], 0),
        runs=RUNS if given["runs"] is None else given["runs"],
        seed=given["seed"],
    )


def _luck(given: Mapping[str, Any], profile: Profile | None) -> dict[str, Any]:
    """Rates, or another kind of acceptance."""
    alpha, kind = given["alpha"], given["acceptance"]
    if alpha is not None and kind is not None:
        raise SettingError(f"alpha {alpha} and acceptance {kind} are both given; give one")
    if alpha is None and (kind is not None or profile is not None):
        return {"acceptance": what_if.acceptance(given, profile)}
    rates = values.numbers("alpha", alpha, "from 0 to 1", lambda a: 0 <= a <= 1, f"{what_if.ALPHA}")
    return {"alphas": rates}


def _times(given: Mapping[str, Any], profile: Profile | None) -> dict[str, Any]:
    """Ratios and growths, or the measured pair."""
    ratio, growth, target_ms = given["speed_ratio"], given["growth"], given["target_ms"]
    values.check_number(target_ms, "target-ms", "more than 0", lambda ms: ms > 0)
    if profile is not None:
        if any(value is not None for value in (ratio, growth, target_ms)):
            raise SettingError("speed-ratio, target-ms and growth contradict profile; give one")
        return {"pair": profile.pair, "context": what_if.halfway(profile)}
    return {
        "speed_ratios": values.numbers("speed-ratio", ratio, "more than 0", lambda c: c > 0, RATIO),
        "growths": values.numbers("growth", growth, "0 or more", lambda share: share >= 0),
        "target_ms": what_if.TARGET_MS if target_ms is None else target_ms,
    }


def _messages(given: Mapping[str, Any], profile: Profile | None) -> dict[str, Any]:
    """Links and control; what was measured, unless something is given."""
    link, control = given["link_ms"], given["control_ms"]
    if profile is not None and link is None and control is None:
        return {"network": what_if.measured_network(profile, told=given["told"])}
    return {
        "foresight": not given["told"],
        "links_ms": values.numbers("link-ms", link, "0 or more", lambda ms: ms >= 0),
        "controls_ms": values.numbers("control-ms", control, "0 or more", lambda ms: ms >= 0),
    }


# -- the work ----------------------------------------------------------------------------------


def _on_cores(workers: int | None, sweep: Sweep) -> Solve:
    """On processes of this machine; by default on one, or on all where that is sooner."""
    from pearl.simulator.parallel import cores, spread
    from pearl.simulator.sweep import compute

    allowed = f"1 or more, at most {MOST_WORKERS}"
    values.check_number(workers, "workers", allowed, lambda n: 1 <= n <= MOST_WORKERS)
    count = workers or (cores() if sweep.points > WORTH_SPREADING else 1)
    return lambda jobs: spread(compute, jobs, count)


def _on_ray(address: str | None, workers: int | None) -> Solve:
    from pearl.actors import cluster
    from pearl.simulator.sweep import compute

    if workers is not None:
        raise values.refuse("workers", workers, "left out with --on-ray: Ray counts its own")
    return lambda jobs: cluster.spread(compute, jobs, address)


def _print(sweep: Sweep, solve: Solve, figure: pathlib.Path | None) -> None:
    """The table on standard output, row by row."""
    from pearl.simulator.sweep import jobs

    stream = sys.stdout  # the bar puts something else in its place
    writer = csv_writer(stream)
    seen: list[GridPoint] = []
    with bar(sweep.points, "points", shown=not stream.isatty()) as advance:
        for rows in solve(jobs(sweep)):
            writer.writerows(map(as_text, rows))
            seen += rows if figure else ()
            advance(len(rows))
    if figure is not None:
        draw(figure, sweep, seen)


def _write(path: pathlib.Path, sweep: Sweep, solve: Solve, figure: pathlib.Path | None) -> None:
    """The table in a file; what is done is remembered beside it until all is."""
    from pearl.simulator.sweep import Journal, jobs

    journal = Journal(_beside(path, "partial"), sweep)
    with contextlib.closing(journal):
        _say_what_was_found(journal, path)
        with bar(sweep.points, "points") as advance:
            advance(journal.points)
            for rows in solve(jobs(sweep)[journal.chunks :]):
                journal.append(rows)
                advance(len(rows))
        if figure is not None:
            draw(figure, sweep, journal.rows())
        TABLES[path.suffix.lower()](path, sweep, journal.rows())
        journal.remove()


def _beside(path: pathlib.Path, what: str) -> pathlib.Path:
    return path.with_name(f"{path.name}.{what}")


def _say_what_was_found(journal: Journal, path: pathlib.Path) -> None:
    if journal.replaced:
        click.echo(f"pearl: {path}.partial was another question's; it begins anew", err=True)
    elif journal.points:
        click.echo(f"pearl: {journal.points} points found in {path}.partial", err=True)


# -- tables ------------------------------------------------------------------------------------


def _table_path(file: str) -> pathlib.Path:
    """Where the table goes, once it is sure that it can.

    Raises:
        SettingError: another kind of file, one that cannot be written, or a library is missing.
    """
    suffix = pathlib.Path(file).suffix.lower()
    if suffix not in TABLES:
        raise values.refuse("output", file, f"a name that ends in {', '.join(TABLES)}")
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise SettingError("pyarrow is missing; pip install 'pearl-decoding[parquet]'")
    path, partial = check_writable(file), _beside(pathlib.Path(file), "partial")
    if partial.exists() and not partial.is_file():
        raise SettingError(f"{partial} is no file; what is done would be remembered there")
    check_writable(str(partial))
    return path


# -- the map -----------------------------------------------------------------------------------


def _figure_path(file: str, sweep: Sweep) -> pathlib.Path:
    """Where the map goes, once it is sure that there is one.

    Raises:
        SettingError: the points do not lie in a plane, or the file cannot be written.
    """
    path = figure_path(file)
    others = {
        "gamma": sweep.gammas,
        "growth": sweep.growths,
        "link-ms": sweep.links_ms,
        "control-ms": sweep.controls_ms,
    }
    for option, given in others.items():
        if len(given) > 1:
            allowed = "one value for a figure, which has alpha and speed-ratio for its axes"
            raise values.refuse(option, ",".join(map(str, given)), allowed)
    if not sweep.alphas or not sweep.speed_ratios or len(sweep.alphas + sweep.speed_ratios) <= 2:  # noqa: PLR2004 - one value each
        raise SettingError("a figure needs several values of alpha or speed-ratio")
    return path
