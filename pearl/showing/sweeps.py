"""What a sweep leaves behind: a table in a file, and the map of which schedule is the fastest."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
from typing import IO, TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from pearl.decoding import files
from pearl.decoding.kinds import SCHEDULES

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pearl.simulator.sweep import GridPoint, Sweep, Value

    Rows: TypeAlias = Iterable[GridPoint]

BATCH: Final = 50_000  # rows of a Parquet file that are written together
FIGURE_INCHES: Final = (8.0, 5.0)


def csv_writer(stream: IO[str]) -> Any:
    """A writer that has written the names of the columns."""
    from pearl.simulator.sweep import COLUMNS

    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    return writer


def as_text(row: GridPoint) -> list[Value]:
    """Truth in the small letters of JSON; the rest as csv has it."""
    return [str(value).lower() if isinstance(value, bool) else value for value in row.cells]


def write_csv(path: pathlib.Path, _: Sweep, rows: Rows) -> None:
    """A line a row; empty where there is no value."""
    with files.replacing(path) as raw, _text(raw) as file:
        csv_writer(file).writerows(map(as_text, rows))


def write_json(path: pathlib.Path, sweep: Sweep, rows: Rows) -> None:
    """One object: `about`, the question, and `rows`, an object each."""
    from pearl.simulator.sweep import COLUMNS

    with files.replacing(path) as raw, _text(raw) as file:
        file.write(f'{{"about": {_about(sweep)},\n"rows": [')
        for number, row in enumerate(rows):
            line = json.dumps(dict(zip(COLUMNS, row.cells, strict=True)))
            file.write(f"{',' if number else ''}\n{line}")
        file.write("\n]}\n")


def write_parquet(path: pathlib.Path, sweep: Sweep, rows: Rows) -> None:
    """The same columns, typed; the question is in the metadata of the schema."""
    import pyarrow as pa
    from pyarrow import parquet

    from pearl.simulator.sweep import COLUMNS

    kinds = {"schedule": pa.string(), "gamma_auto": pa.bool_()}
    kinds |= dict.fromkeys(("gamma", "head_start"), pa.int64())
    fields = [(name, kinds.get(name, pa.float64())) for name in COLUMNS]
    schema = pa.schema(fields, metadata={"about": _about(sweep)})
    remaining = (row.cells for row in rows)
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


def draw(path: pathlib.Path, sweep: Sweep, rows: Rows) -> None:
    import numpy as np

    from pearl.analysis import figures

    alphas, ratios = sorted(sweep.alphas), sorted(sweep.speed_ratios)
    several = len(sweep.head_starts) > 1
    ahead = [n for n in sweep.schedules if several and SCHEDULES[n].takes("head_start")]
    names = [*sweep.schedules, *([figures.HEAD_START] if ahead else [])]
    speeds = {name: np.full((len(ratios), len(alphas)), np.nan) for name in names}
    for row in rows:
        point = row.point
        place = ratios.index(row.speed_ratio), alphas.index(point.alpha)
        schedule, speed = point.schedule, float(point.speedup_over_ar)
        # Of several head starts the first one is drawn as PEARL, and the best one beside it.
        if not several or point.head_start in {0, sweep.head_starts[0]}:
            speeds[schedule][place] = speed
        if schedule in ahead:
            speeds[figures.HEAD_START][place] = np.fmax(speeds[figures.HEAD_START][place], speed)
    figures.save(
        path,
        lambda axes: figures.speedup_map(axes, alphas, ratios, speeds, title=_title(sweep)),
        size=FIGURE_INCHES,
    )


def _title(sweep: Sweep) -> str:
    """What the axes do not say."""
    (gamma,), ahead = sweep.gammas, sweep.head_starts
    words = [f"gamma {gamma}" if isinstance(gamma, int) else "the best gamma of each point"]
    words += [f"head start {', '.join(map(str, ahead))}"] if any(ahead) else []
    named = ("growth", sweep.growths, ""), ("link", sweep.links_ms, " ms")
    for name, (value,), unit in (*named, ("control", sweep.controls_ms, " ms")):
        words += [f"{name} {value:g}{unit}"] if value else []
    return ", ".join(words)
