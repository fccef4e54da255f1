"""`pearl sweep`: a grid of what-ifs as a table, and as a map of which schedule is the fastest.

Wherever one value is meant, there can be several: `0.5`, `0.5,0.6,0.7` or `0.5:0.7:0.1`.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import itertools
import json
import math
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any, Final, TypeAlias

import click
import msgspec

from decoding import files
from decoding.errors import SettingError
from decoding.settings import WIDEST_GAMMA, ScheduleName
from pearl.asking import what_if
from pearl.asking.options import bar, check_writable, options

if TYPE_CHECKING:
    from simulator.profiles import Profile
    from simulator.sweep import Job, Journal, Row, Sweep, Value

    Rows: TypeAlias = Iterable[Row]
    Solve: TypeAlias = Callable[[Sequence[Job]], Iterator[list[Row]]]

ROUNDING: Final = Decimal("1e-9")  # of a step, by which a range may fall short of its end
MOST_WORKERS: Final = 1024
WORTH_SPREADING: Final = 20_000  # points: some seconds
BATCH: Final = 50_000  # rows of a Parquet file that are written together
FIGURE_INCHES: Final = (8.0, 5.0)
RATIO: Final = f"{what_if.SPEED_RATIO:g}"
AXES: Final = "one value, A,B,C or START:STOP:STEP"

GRID = [
    click.option("--alpha", metavar="VALUES",
                 help=f"Acceptance rates. [default: {what_if.ALPHA}]"),
    click.option("--speed-ratio", metavar="VALUES",
                 help=f"A target pass over a draft step. [default: {RATIO}]"),
    click.option("--gamma", metavar="VALUES|auto", default="auto", show_default=True,
                 help="Tokens in a draft window; auto takes the best one of each point, from 1 to "
                 "32, and the table says which it was."),
    click.option("--schedules", metavar="NAMES", default="ar,sd,pearl", show_default=True,
                 help="Some of these. AR has no gamma, and only PEARL has a head start."),
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
                 help="Of all luck; the same seed gives the same table."),
]  # fmt: skip


@click.command(name="sweep")
@options(GRID)
@click.option(
    "--output",
    metavar="FILE",
    help="Where the table goes: .csv, .json or .parquet. An "
    "interrupted sweep goes on where it stopped. [default: CSV on standard output]",
)
@click.option(
    "--figure",
    "figure_file",
    metavar="FILE",
    help="Draw the map of alpha and speed ratio: .png or .svg.",
)
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
    from simulator.sweep import Sweep
    from simulator.twin import RUNS

    profile = what_if.read_profile(given["profile_file"])
    what_if.check_seed(given["seed"])
    return Sweep(
        **_luck(given, profile),
        **_times(given, profile),
        **_messages(given, profile),
        schedules=_schedules(given["schedules"]),
        gammas=_gammas(given["gamma"]),
        head_starts=_whole_numbers("head-start", given["head_start"], 0),
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
    rates = values("alpha", alpha, "from 0 to 1", lambda a: 0 <= a <= 1, f"{what_if.ALPHA}")
    return {"alphas": rates}


def _times(given: Mapping[str, Any], profile: Profile | None) -> dict[str, Any]:
    """Ratios and growths, or the measured pair."""
    ratio, growth, target_ms = given["speed_ratio"], given["growth"], given["target_ms"]
    what_if.check_number(target_ms, "target-ms", "more than 0", lambda ms: ms > 0)
    if profile is not None:
        if any(value is not None for value in (ratio, growth, target_ms)):
            raise SettingError("speed-ratio, target-ms and growth contradict profile; give one")
        return {"pair": profile.pair, "context": halfway(profile)}
    return {
        "speed_ratios": values("speed-ratio", ratio, "more than 0", lambda c: c > 0, RATIO),
        "growths": values("growth", growth, "0 or more", lambda share: share >= 0),
        "target_ms": what_if.TARGET_MS if target_ms is None else target_ms,
    }


def halfway(profile: Profile) -> int:
    """Tokens behind a pass halfway through a request of the profile."""
    count = max(1, len(profile.prompts))
    return round((sum(profile.prompts) + sum(profile.outputs) / 2) / count)


def _messages(given: Mapping[str, Any], profile: Profile | None) -> dict[str, Any]:
    """Links and control; what was measured, unless something is given."""
    link, control = given["link_ms"], given["control_ms"]
    if profile is not None and link is None and control is None:
        return {"network": what_if.measured_network(profile, told=given["told"])}
    return {
        "foresight": not given["told"],
        "links_ms": values("link-ms", link, "0 or more", lambda ms: ms >= 0),
        "controls_ms": values("control-ms", control, "0 or more", lambda ms: ms >= 0),
    }


def _schedules(text: str) -> tuple[ScheduleName, ...]:
    try:
        return tuple(dict.fromkeys(ScheduleName(name.strip()) for name in text.split(",")))
    except ValueError:
        raise what_if.refuse("schedules", text, f"some of {','.join(ScheduleName)}") from None


def _gammas(text: str) -> tuple[Any, ...]:
    """Whole numbers, and `auto` where it was named."""
    parts = text.split(",")
    fixed = [part for part in parts if part != "auto"]
    numbers = _whole_numbers("gamma", ",".join(fixed), 1, ", or auto") if fixed else ()
    return (*(("auto",) if "auto" in parts else ()), *numbers)


def _whole_numbers(option: str, text: str, least: int, also: str = "") -> tuple[int, ...]:
    allowed = f"whole, from {least} to {WIDEST_GAMMA}{also}"
    fine: Callable[[float], bool] = lambda n: n.is_integer() and least <= n <= WIDEST_GAMMA  # noqa: E731
    return tuple(map(int, values(option, text, allowed, fine)))


def values(
    option: str,
    text: str | None,
    allowed: str,
    fine: Callable[[float], bool],
    default: str = "0",
) -> tuple[float, ...]:
    """The numbers that a text stands for, each once, as clean as they were typed.

    Raises:
        SettingError: it stands for none, for too many, or for one that is not fine.
    """
    given = default if text is None else text
    try:
        found = [value for part in given.split(",") for value in _part(option, part)]
    except (ValueError, ArithmeticError):
        raise what_if.refuse(option, given, f"{AXES}, each {allowed}") from None
    for value in found:
        if not (math.isfinite(value) and fine(value)):
            raise what_if.refuse(option, f"{value:g}", f"{AXES}, each {allowed}")
    return tuple(dict.fromkeys(found))


def _part(option: str, text: str) -> list[float]:
    """A number, or a range; in decimals, where 0.5 and a step of 0.02 make 0.52."""
    if ":" not in text:
        return [float(text)]
    from simulator.sweep import MOST_POINTS

    start, stop, step = map(Decimal, text.split(":"))
    finite = start.is_finite() and stop.is_finite() and step.is_finite()
    if not finite or step <= 0 or stop < start:
        message = "a range goes up, in steps above 0"
        raise ValueError(message)
    steps = (stop - start) / step + ROUNDING
    if steps >= MOST_POINTS:  # of a step that is small enough there are more than a number can say
        raise what_if.refuse(option, text, f"a range of at most {MOST_POINTS} values")
    return [float(min(start + i * step, stop)) for i in range(int(steps) + 1)]


# -- the work ----------------------------------------------------------------------------------


def _on_cores(workers: int | None, sweep: Sweep) -> Solve:
    """On processes of this machine; by default on one, or on all where that is sooner."""
    from simulator.parallel import cores, spread
    from simulator.sweep import compute

    allowed = f"1 or more, at most {MOST_WORKERS}"
    what_if.check_number(workers, "workers", allowed, lambda n: 1 <= n <= MOST_WORKERS)
    count = workers or (cores() if sweep.points > WORTH_SPREADING else 1)
    return lambda jobs: spread(compute, jobs, count)


def _on_ray(address: str | None, workers: int | None) -> Solve:
    from actors import cluster
    from simulator.sweep import compute

    if workers is not None:
        raise what_if.refuse("workers", workers, "left out with --on-ray: Ray counts its own")
    return lambda jobs: cluster.spread(compute, jobs, address)


def _print(sweep: Sweep, solve: Solve, figure: pathlib.Path | None) -> None:
    """The table on standard output, row by row."""
    from simulator.sweep import jobs

    stream = sys.stdout  # the bar puts something else in its place
    writer = _csv_writer(stream)
    seen: list[Row] = []
    with _progress(sweep, 0, shown=not stream.isatty()) as advance:
        for rows in solve(jobs(sweep)):
            writer.writerows(map(_as_text, rows))
            seen += rows if figure else ()
            advance(len(rows))
    if figure is not None:
        _draw(figure, sweep, seen)


def _write(path: pathlib.Path, sweep: Sweep, solve: Solve, figure: pathlib.Path | None) -> None:
    """The table in a file; what is done is remembered beside it until all is."""
    from simulator.sweep import Journal, jobs

    journal = Journal(_beside(path, "partial"), sweep)
    with contextlib.closing(journal):
        _say_what_was_found(journal, path)
        with _progress(sweep, journal.points, shown=True) as advance:
            for rows in solve(jobs(sweep)[journal.chunks :]):
                journal.append(rows)
                advance(len(rows))
        if figure is not None:
            _draw(figure, sweep, journal.rows())
        TABLES[path.suffix.lower()](path, sweep, journal.rows())
        journal.remove()


def _beside(path: pathlib.Path, what: str) -> pathlib.Path:
    return path.with_name(f"{path.name}.{what}")


def _say_what_was_found(journal: Journal, path: pathlib.Path) -> None:
    if journal.replaced:
        click.echo(f"pearl: {path}.partial was another question's; it begins anew", err=True)
    elif journal.points:
        click.echo(f"pearl: {journal.points} points found in {path}.partial", err=True)


@contextlib.contextmanager
def _progress(sweep: Sweep, done: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """A bar of points; told how many more there are."""
    if not shown:
        yield lambda _: None
        return
    with bar(sweep.points, "points") as advance:

        def ahead(points: int) -> None:
            for _ in range(points):
                advance()

        ahead(done)
        yield ahead


# -- tables ------------------------------------------------------------------------------------


def _table_path(file: str) -> pathlib.Path:
    """Where the table goes, once it is sure that it can.

    Raises:
        SettingError: another kind of file, one that cannot be written, or a library is missing.
    """
    suffix = pathlib.Path(file).suffix.lower()
    if suffix not in TABLES:
        raise what_if.refuse("output", file, f"a name that ends in {', '.join(TABLES)}")
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise SettingError("pyarrow is missing; pip install 'pearl-decoding[parquet]'")
    path, partial = check_writable(file), _beside(pathlib.Path(file), "partial")
    if partial.exists() and not partial.is_file():
        raise SettingError(f"{partial} is no file; what is done would be remembered there")
    check_writable(str(partial))
    return path


def _csv_writer(stream: IO[str]) -> Any:
    """A writer that has written the names of the columns."""
    from simulator.sweep import COLUMNS

    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    return writer


def _as_text(row: Row) -> list[Value]:
    """Truth in the small letters of JSON; the rest as csv has it."""
    return [str(value).lower() if isinstance(value, bool) else value for value in row]


def write_csv(path: pathlib.Path, _: Sweep, rows: Rows) -> None:
    """A line a row; empty where there is no value."""
    with files.replacing(path) as raw, _text(raw) as file:
        _csv_writer(file).writerows(map(_as_text, rows))


def write_json(path: pathlib.Path, sweep: Sweep, rows: Rows) -> None:
    """One object: `about`, the question, and `rows`, an object each."""
    from simulator.sweep import COLUMNS

    with files.replacing(path) as raw, _text(raw) as file:
        file.write(f'{{"about": {_about(sweep)},\n"rows": [')
        for number, row in enumerate(rows):
            line = json.dumps(dict(zip(COLUMNS, row, strict=True)))
            file.write(f"{',' if number else ''}\n{line}")
        file.write("\n]}\n")


def write_parquet(path: pathlib.Path, sweep: Sweep, rows: Rows) -> None:
    """The same columns, typed; the question is in the metadata of the schema."""
    import pyarrow as pa
    from pyarrow import parquet

    from simulator.sweep import COLUMNS

    kinds = {"schedule": pa.string(), "gamma_auto": pa.bool_()}
    kinds |= dict.fromkeys(("gamma", "head_start"), pa.int64())
    fields = [(name, kinds.get(name, pa.float64())) for name in COLUMNS]
    schema = pa.schema(fields, metadata={"about": _about(sweep)})
    remaining = iter(rows)
    with files.replacing(path) as file, parquet.ParquetWriter(file, schema) as writer:
        while batch := list(itertools.islice(remaining, BATCH)):
            columns = [
                pa.array(c, f.type) for c, f in zip(zip(*batch, strict=True), schema, strict=True)
            ]
            writer.write_table(pa.table(columns, schema=schema))


@contextlib.contextmanager
def _text(file: IO[bytes]) -> Iterator[IO[str]]:
    """Text of a file that its owner closes."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    try:
        yield text
        text.flush()
    finally:
        text.detach()


def _about(sweep: Sweep) -> str:
    return msgspec.json.encode(sweep).decode()


TABLES: Final[Mapping[str, Callable[[pathlib.Path, Sweep, Rows], None]]] = {
    ".csv": write_csv,
    ".json": write_json,
    ".parquet": write_parquet,
}


# -- the map -----------------------------------------------------------------------------------


def _figure_path(file: str, sweep: Sweep) -> pathlib.Path:
    """Where the map goes, once it is sure that there is one.

    Raises:
        SettingError: the points do not lie in a plane, or the file cannot be written.
    """
    from analysis.figures import check_figure_path

    path = check_figure_path(file)
    check_writable(file)
    others = {
        "gamma": sweep.gammas,
        "growth": sweep.growths,
        "link-ms": sweep.links_ms,
        "control-ms": sweep.controls_ms,
    }
    for option, given in others.items():
        if len(given) > 1:
            allowed = "one value for a figure, which has alpha and speed-ratio for its axes"
            raise what_if.refuse(option, ",".join(map(str, given)), allowed)
    if not sweep.alphas or not sweep.speed_ratios or len(sweep.alphas + sweep.speed_ratios) <= 2:  # noqa: PLR2004 - one value each
        raise SettingError("a figure needs several values of alpha or speed-ratio")
    return path


def _draw(path: pathlib.Path, sweep: Sweep, rows: Rows) -> None:
    import numpy as np

    from analysis import figures
    from simulator.sweep import COLUMNS

    alphas, ratios = sorted(sweep.alphas), sorted(sweep.speed_ratios)
    names = [str(name) for name in sweep.schedules]
    several = len(sweep.head_starts) > 1
    names += [figures.HEAD_START] if several and ScheduleName.PEARL in sweep.schedules else []
    speeds = {name: np.full((len(ratios), len(alphas)), np.nan) for name in names}
    for row in rows:
        named: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
        place = ratios.index(named["speed_ratio"]), alphas.index(named["alpha"])
        schedule, speed = named["schedule"], named["speedup_over_ar"]
        # Of several head starts the first one is drawn as PEARL, and the best one beside it.
        if not several or named["head_start"] in {0, sweep.head_starts[0]}:
            speeds[schedule][place] = speed
        if several and schedule == ScheduleName.PEARL:
            speeds[figures.HEAD_START][place] = np.fmax(speeds[figures.HEAD_START][place], speed)
    figures.save(
        path,
        lambda axes: figures.speedup_map(axes, alphas, ratios, speeds, title=_title(sweep)),
        size=FIGURE_INCHES,
    )


def _title(sweep: Sweep) -> str:
    """What the axes do not say."""
    (gamma,), ahead = sweep.gammas, sweep.head_starts
    words = ["the best gamma of each point" if gamma == "auto" else f"gamma {gamma}"]
    words += [f"head start {', '.join(map(str, ahead))}"] if any(ahead) else []
    named = ("growth", sweep.growths, ""), ("link", sweep.links_ms, " ms")
    for name, (value,), unit in (*named, ("control", sweep.controls_ms, " ms")):
        words += [f"{name} {value:g}{unit}"] if value else []
    return ", ".join(words)
