"""A grid of what-ifs, each point answered by the vectorised twin.

    grid = Sweep(alphas=(0.6, 0.8), speed_ratios=(5.0, 10.0), schedules=("ar", "pearl"))
    for row in run(grid):
        print(row.point.schedule, row.point.alpha, row.point.speedup_over_ar)

A *place* is a combination of everything but the schedule and its numbers. All schemes of a place
are answered together, on the same runs of agreement; places are answered in chunks, in a fixed
order, so that neither the number of processes nor an interruption changes a digit of the result.
"""

from __future__ import annotations

import itertools
import math
import operator
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias, final

import msgspec
import numpy as np

from pearl.decoding.errors import SettingError, StorageError
from pearl.decoding.estimates import Estimate
from pearl.decoding.files import reason
from pearl.decoding.kinds import SCHEDULES
from pearl.decoding.policies import POLICIES, Gamma
from pearl.decoding.sampling import refuse_unless
from pearl.simulator.acceptance import Acceptance, Independent
from pearl.simulator.links import DELAYS, Link, Network, is_delay
from pearl.simulator.optimise import best
from pearl.simulator.parallel import spread
from pearl.simulator.twin import RUNS, PairTimes, Point, Scheme, answer
from pearl.simulator.world import Pair

CHUNK: Final = 256  # points, about
MOST_POINTS: Final = 1_000_000
MOST_RUNS: Final = 10_000_000  # of a point: they are in memory together
MOST_DRAWN: Final = 10**11
LIMITS: Final = (
    ("alphas", 0.0, 1.0),
    ("speed_ratios", 1e-9, 1e9),
    ("growths", 0.0, 1e9),
)
"""Of the axes: within them every figure is a number."""
Value: TypeAlias = str | float | bool | None

FIGURES: Final = tuple(f.name for f in msgspec.structs.fields(Point) if f.type is Estimate)
_CELLS: Final[dict[str, str]] = {
    "schedule": "point.schedule",
    "alpha": "point.alpha",
    "speed_ratio": "speed_ratio",
    "gamma": "point.gamma",
    "gamma_auto": "gamma_auto",
    "head_start": "point.head_start",
    "growth": "place.growth",
    "link_ms": "place.link_ms",
    "control_ms": "place.control_ms",
} | {
    f"{name}{column}": f"point.{name}.{part}"
    for name in FIGURES
    for column, part in (("", "value"), ("_low", "low"), ("_high", "high"))
}
"""What stands in the columns of a table; what was not varied but measured (`pair`, `network`) is
None."""
COLUMNS: Final = tuple(_CELLS)
_read_cells: Final = operator.attrgetter(*_CELLS.values())


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """A question with many values of everything; a point for each combination that differs.

    Args:
        alphas: acceptance rates, independent from token to token.
        acceptance: in place of them.
        speed_ratios, growths: of a target whose pass takes `target_ms` and, for every further
            token, the share `growth` of it more.
        links_ms, controls_ms: latency of every message, and what the scheduler takes.
        foresight: whether the target may begin a job without waiting for the command.
        pair, network: measured ones, in place of the lines above; with the `context` behind the
            tokens.
        schedules: all there are, by default. AR has no gamma, and only PEARL has a head start.
        gammas: a policy that ends up with the best one (`auto`) stands for the best one of the
            point (`pearl.simulator.optimise`).
        runs: drawn for each point; 0 takes their law itself, in which there is no chance.
    """

    alphas: tuple[float, ...] = ()
    acceptance: Acceptance | None = None
    speed_ratios: tuple[float, ...] = ()
    growths: tuple[float, ...] = (0.0,)
    target_ms: float = 31.25
    pair: Pair | None = None
    links_ms: tuple[float, ...] = (0.0,)
    controls_ms: tuple[float, ...] = (0.0,)
    foresight: bool = True
    network: Network | None = None
    context: int = 1
    schedules: tuple[str, ...] = msgspec.field(default_factory=lambda: tuple(SCHEDULES))
    gammas: tuple[Gamma, ...] = ("auto",)
    head_starts: tuple[int, ...] = (0,)
    runs: int = RUNS
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a grid without points."""
        fine = set(self.schedules) <= set(SCHEDULES)
        refuse_unless(self, "schedules", f"some of {', '.join(SCHEDULES)}", fine=fine)
        best = [name for name, policy in POLICIES.items() if policy.best]
        fine = all(isinstance(gamma, int) or gamma in best for gamma in self.gammas)
        refuse_unless(self, "gammas", f"whole numbers, or {', '.join(best)}", fine=fine)
        either = bool(self.alphas) != (self.acceptance is not None)
        refuse_unless(self, "alphas", "given, or else acceptance", fine=either)
        either = bool(self.speed_ratios) != (self.pair is not None)
        refuse_unless(self, "speed_ratios", "given, or else pair", fine=either)
        for name in ("schedules", "gammas", "head_starts", "growths", "links_ms", "controls_ms"):
            refuse_unless(self, name, "one value or more", fine=len(getattr(self, name)) > 0)
        fine = 0 <= self.runs <= MOST_RUNS and self.runs != 1
        refuse_unless(self, "runs", f"0, or 2 or more, at most {MOST_RUNS}", fine=fine)
        for name, least, most in LIMITS:
            fine = all(least <= value <= most for value in getattr(self, name))
            allowed = f"values from {least:g} to {most:g}"
            refuse_unless(self, name, allowed, fine=fine)
        for name in ("links_ms", "controls_ms"):
            fine = all(is_delay(value / 1e3) for value in getattr(self, name))
            refuse_unless(self, name, f"thousandths of {DELAYS}", fine=fine)
        self._check_work()

    def _check_work(self) -> None:
        """Refuse what would be computed for days, before it begins."""
        if self.points > MOST_POINTS:
            message = f"the number of points is {self.points}; it must be at most {MOST_POINTS}"
            raise SettingError(message)
        if (drawn := self.points * self.runs) > MOST_DRAWN:
            message = f"{drawn} runs of agreement in all; there must be {MOST_DRAWN} at most"
            raise SettingError(message)

    @property
    def places(self) -> int:
        """How many there are."""
        return math.prod(map(len, _axes(self)))

    @property
    def points(self) -> int:
        """How many rows the table has."""
        return self.places * len(_numbers(self))


class Place(msgspec.Struct, frozen=True, array_like=True):
    """One combination of everything but the schedule; None is what was measured."""

    alpha: float | None
    speed_ratio: float | None
    growth: float | None
    link_ms: float | None
    control_ms: float | None


class GridPoint(msgspec.Struct, frozen=True, array_like=True):
    """A point of the grid with its answer; `gamma_auto` if gamma was left to be chosen."""

    place: Place
    point: Point
    gamma_auto: bool

    @property
    def speed_ratio(self) -> float:
        """As it was asked for: the ratio of two rounded times may differ in the last digit."""
        asked = self.place.speed_ratio
        return self.point.speed_ratio if asked is None else asked

    @property
    def cells(self) -> tuple[Value, ...]:
        """A line of the table, under `COLUMNS`."""
        found: tuple[Value, ...] = _read_cells(self)
        return found


class Job(msgspec.Struct, frozen=True):
    """The places of a chunk, by number."""

    sweep: Sweep
    places: range


def run(sweep: Sweep, workers: int = 1) -> Iterator[GridPoint]:
    """The rows, on so many processes."""
    return itertools.chain.from_iterable(spread(compute, jobs(sweep), workers))


def jobs(sweep: Sweep) -> list[Job]:
    """The chunks, in the order of the rows."""
    size = max(1, CHUNK // len(_numbers(sweep)))
    starts = range(0, sweep.places, size)
    return [Job(sweep, range(start, min(start + size, sweep.places))) for start in starts]


def compute(job: Job) -> list[GridPoint]:
    """The rows of a chunk."""
    return [row for number in job.places for row in _rows(job.sweep, _place(job.sweep, number))]


def _axes(sweep: Sweep) -> list[Sequence[float | None]]:
    """In the order of the fields of a place, the first varying most slowly."""
    timed: list[Sequence[float]] = [sweep.speed_ratios, sweep.growths]
    linked: list[Sequence[float]] = [sweep.links_ms, sweep.controls_ms]
    return [
        sweep.alphas or (None,),
        *(timed if sweep.pair is None else [(None,), (None,)]),
        *(linked if sweep.network is None else [(None,), (None,)]),
    ]


def _place(sweep: Sweep, number: int) -> Place:
    axes = _axes(sweep)
    indices = np.unravel_index(number, [len(axis) for axis in axes])
    return Place(*(axis[int(index)] for axis, index in zip(axes, indices, strict=True)))


def _numbers(sweep: Sweep) -> list[tuple[str, Gamma, int]]:
    """The schemes of every place, the best gamma not yet chosen."""
    found: list[tuple[str, Gamma, int]] = []
    for schedule in sweep.schedules:
        kind = SCHEDULES[schedule]
        gammas = sweep.gammas if kind.drafts else (0,)
        ahead = sweep.head_starts if kind.takes("head_start") else (0,)
        found += [(schedule, gamma, k) for gamma in gammas for k in ahead]
    return found


def _rows(sweep: Sweep, place: Place) -> Iterator[GridPoint]:
    acceptance = sweep.acceptance if place.alpha is None else Independent(place.alpha)
    assert acceptance is not None, "checked when the sweep was made"
    times = PairTimes(_pair(sweep, place), _network(sweep, place), sweep.context)
    for schedule, asked, k in _numbers(sweep):
        gamma = asked
        if isinstance(gamma, str):
            gamma = best(acceptance, schedule, times, head_starts=(k,)).gamma
        scheme = Scheme(schedule, gamma, k)
        point = answer(acceptance, scheme, times, seed=sweep.seed, runs=sweep.runs)
        yield GridPoint(place, point, isinstance(asked, str))


def _pair(sweep: Sweep, place: Place) -> Pair:
    if place.speed_ratio is None or place.growth is None:
        assert sweep.pair is not None, "checked when the sweep was made"
        return sweep.pair
    return Pair.of(place.speed_ratio, sweep.target_ms / 1e3, place.growth)


def _network(sweep: Sweep, place: Place) -> Network:
    if place.link_ms is None or place.control_ms is None:
        assert sweep.network is not None, "the axes of a place say so"
        return sweep.network
    link = Link(latency_s=place.link_ms / 1e3)
    control_s = place.control_ms / 1e3
    return Network(draft=link, target=link, control_s=control_s, foresight=sweep.foresight)


# -- a sweep that can be interrupted -----------------------------------------------------------


_ROWS: Final = msgspec.json.Decoder(list[GridPoint])


@final
class Journal:
    """The chunks that are done, in a file: the question in its first line, then a line a chunk.

    What was written before an interruption is found again, but for a last line that was cut off.

    Args:
        path: of the file.
        sweep: the question.

    Attributes:
        chunks, points: found when the journal was opened.
        replaced: whether the file held something else, which is gone.
    """

    def __init__(self, path: pathlib.Path, sweep: Sweep) -> None:
        self._path = path
        question = msgspec.json.encode({"about": sweep, "columns": COLUMNS}) + b"\n"
        self.chunks = self.points = 0
        self.replaced = False
        end = len(question)
        if not self._holds(question):
            self.replaced = path.exists() and path.stat().st_size > 0
            path.write_bytes(question)
        for line, rows in self._chunks():
            end += len(line)
            self.chunks += 1
            self.points += len(rows)
        self._empty = self.chunks == 0
        self._file = path.open("r+b")
        self._file.truncate(end)
        self._file.seek(end)

    def _holds(self, question: bytes) -> bool:
        if not self._path.exists():
            return False
        with self._path.open("rb") as file:
            return file.readline() == question

    def _chunks(self) -> Iterator[tuple[bytes, list[GridPoint]]]:
        """Line by line, up to one that a disk or a hand has damaged."""
        with self._path.open("rb") as file:
            file.readline()
            for line in itertools.takewhile(lambda line: line.endswith(b"\n"), file):
                try:
                    yield line, _ROWS.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    return

    def append(self, rows: Iterable[GridPoint]) -> None:
        """Remember a chunk.

        Raises:
            StorageError: the disk is full; what was remembered before is still there.
        """
        try:
            self._file.write(msgspec.json.encode(rows) + b"\n")
            self._file.flush()
        except OSError as error:
            raise StorageError(f"{self._path} cannot be written: {reason(error)}") from None
        self._empty = False

    def rows(self) -> Iterator[GridPoint]:
        """All that is remembered."""
        for _, rows in self._chunks():
            yield from rows

    def close(self) -> None:
        """Let go of the file; one that remembers nothing is removed."""
        self._file.close()
        if self._empty:
            self._path.unlink(missing_ok=True)

    def remove(self) -> None:
        """The sweep is done."""
        self._empty = True
        self.close()
