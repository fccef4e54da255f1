from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pearl.decoding.errors import SettingError
from pearl.decoding.kinds import SCHEDULES
from pearl.decoding.policies import Gamma
from pearl.simulator import twin
from pearl.simulator.acceptance import Acceptance, Bursts, Independent, Mixture, Positions
from pearl.simulator.costs import Affine
from pearl.simulator.links import Link, Network
from pearl.simulator.optimise import best
from pearl.simulator.sweep import (
    COLUMNS,
    FIGURES,
    GridPoint,
    Journal,
    Sweep,
    compute,
    jobs,
    run,
)
from pearl.simulator.twin import PairTimes, Point, Scheme, WeightedRuns, answer
from pearl.simulator.world import Pair
from tests.simulator.watched import Watched, watched

AR, SD, PEARL = "ar", "sd", "pearl"

GRID = Sweep(
    alphas=(0.5, 0.9),
    speed_ratios=(3.0, 8.0),
    growths=(0.0, 0.1),
    links_ms=(0.0, 2.0),
    controls_ms=(0.5,),
    gammas=(4, "auto"),
    head_starts=(0, 2),
    runs=256,
    seed=7,
)


def named(row: GridPoint) -> dict[str, Any]:
    return dict(zip(COLUMNS, row.cells, strict=True))


def figures_of(point: Point) -> dict[str, Any]:
    """As the columns of a table have them."""
    found: dict[str, Any] = {}
    for name in FIGURES:
        estimate = getattr(point, name)
        found |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return found


def times_at(row: dict[str, Any]) -> PairTimes:
    pair = Pair.of(row["speed_ratio"], GRID.target_ms / 1e3, row["growth"])
    link = Link(latency_s=row["link_ms"] / 1e3)
    return PairTimes(pair, Network(draft=link, target=link, control_s=row["control_ms"] / 1e3))


def test_every_row_is_the_twins_own_answer() -> None:
    """Whatever is shared between points for speed changes no digit of any."""
    for row in map(named, run(GRID)):
        scheme = Scheme(row["schedule"], row["gamma"], row["head_start"])
        alone = answer(Independent(row["alpha"]), scheme, times_at(row), seed=7, runs=256)

        assert {name: row[name] for name in figures_of(alone)} == figures_of(alone)


def test_auto_is_the_best_gamma_of_the_point() -> None:
    rows = [row for row in map(named, run(GRID)) if row["gamma_auto"]]

    assert {row["gamma"] for row in rows} != {4}
    for row in rows:
        found = best(
            Independent(row["alpha"]),
            row["schedule"],
            times_at(row),
            head_starts=(row["head_start"],),
        )
        assert row["gamma"] == found.gamma


def test_a_schedule_has_points_only_for_what_makes_it_differ() -> None:
    """AR has no gamma, and only PEARL a head start."""
    rows = [named(row) for row in run(GRID)]
    counts = {name: sum(row["schedule"] == name for row in rows) for name in SCHEDULES}

    assert GRID.places == 16
    assert counts == {AR: 16, SD: 16 * 2, PEARL: 16 * 2 * 2}
    assert len(rows) == GRID.points
    assert len({tuple(row.items())[:9] for row in rows}) == len(rows)


KINDS: list[Acceptance] = [
    Bursts(0.8, 0.3),
    Positions((0.9, 0.7, 0.5)),
    Mixture((0.6, 0.9), (1.0, 1.0)),
]


@pytest.mark.parametrize("acceptance", KINDS, ids=lambda kind: type(kind).__name__)
@pytest.mark.parametrize("gamma", [3, "auto"])
def test_other_kinds_of_luck_can_be_swept(acceptance: Acceptance, gamma: Gamma) -> None:
    """Rates by position mean other runs for every window."""
    sweep = Sweep(acceptance=acceptance, speed_ratios=(5.0,), gammas=(2, gamma), runs=128)

    for row in map(named, run(sweep)):
        scheme = Scheme(row["schedule"], row["gamma"], row["head_start"])
        alone = answer(acceptance, scheme, PairTimes(Pair.of(5.0)), runs=128)
        assert {name: row[name] for name in figures_of(alone)} == figures_of(alone)


def test_a_measured_pair_stands_in_place_of_the_ratios() -> None:
    pair = Pair(draft=Affine(base=0.004), target=Affine(base=0.02, per_position=1e-6))
    network = Network(control_s=0.001)
    sweep = Sweep(alphas=(0.8,), pair=pair, network=network, context=500, gammas=(5,), runs=64)

    rows = [named(row) for row in run(sweep)]

    times = PairTimes(pair, network, 500)
    assert len(rows) == 3
    assert (rows[2]["growth"], rows[2]["link_ms"], rows[2]["control_ms"]) == (None, None, None)
    assert rows[2]["speed_ratio"] == times.speed_ratio
    assert (
        rows[2]["tokens_per_s"]
        == answer(Independent(0.8), Scheme(PEARL, 5), times, runs=64).tokens_per_s.value
    )


def test_without_runs_the_law_itself_answers_and_has_no_interval() -> None:
    """Speed over AR of PEARL at a = 0.8, g = c = 5, from the closed form."""
    sweep = Sweep(alphas=(0.8,), speed_ratios=(5.0,), gammas=(5,), runs=0)

    pearl = named(list(run(sweep))[2])

    assert pearl["speedup_over_ar"] == pytest.approx(2.2832, abs=5e-5)
    assert pearl["speedup_over_ar_low"] is None


def test_the_number_of_processes_changes_nothing() -> None:
    sweep = Sweep(alphas=(0.5, 0.7, 0.9), speed_ratios=tuple(range(1, 60)), gammas=(5,), runs=32)

    assert len(jobs(sweep)) > 1
    assert list(run(sweep, workers=2)) == list(run(sweep, workers=1))


CONTRADICTIONS: dict[str, dict[str, Any]] = {
    "alphas is (); it must be given, or else acceptance": {"speed_ratios": (5.0,)},
    "speed-ratios is (); it must be given, or else pair": {"alphas": (0.5,)},
    "gammas is (); it must be one value or more": {
        "alphas": (0.5,), "speed_ratios": (5.0,), "gammas": (),
    },
    "runs is 1; it must be 0, or 2 or more, at most 10000000": {
        "alphas": (0.5,), "speed_ratios": (5.0,), "runs": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("complaint", list(CONTRADICTIONS))
def test_a_grid_that_means_nothing_is_refused(complaint: str) -> None:
    with pytest.raises(SettingError) as refused:
        Sweep(**CONTRADICTIONS[complaint])

    assert str(refused.value) == complaint


# -- the journal -------------------------------------------------------------------------------


def test_a_journal_gives_back_what_it_was_told(tmp_path: Path) -> None:
    """To the last digit, and None where there is no value."""
    chunks = [compute(job) for job in jobs(GRID)]
    journal = Journal(tmp_path / "journal", GRID)
    for chunk in chunks:
        journal.append(chunk)
    journal.close()

    again = Journal(tmp_path / "journal", GRID)

    assert (again.chunks, again.points, again.replaced) == (len(chunks), GRID.points, False)
    assert list(again.rows()) == [row for chunk in chunks for row in chunk]
    again.remove()
    assert not (tmp_path / "journal").exists()


def test_a_line_that_was_cut_off_was_never_written(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    rows = list(run(GRID))[:2]
    journal = Journal(path, GRID)
    journal.append(rows[:1])
    journal.append(rows[1:])
    journal.close()
    path.write_bytes(path.read_bytes()[:-3])

    again = Journal(path, GRID)
    again.append(rows[1:])

    assert again.chunks == 1
    assert list(again.rows()) == rows
    again.close()


@pytest.mark.parametrize("damage", [b"{}", b"[[", b"\xff\xfe", b"[" * 10**5, bytes(10), b"[1]"])
def test_a_journal_is_read_up_to_where_it_is_damaged(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "journal"
    rows = list(run(GRID))[:2]
    journal = Journal(path, GRID)
    journal.append(rows[:1])
    journal.close()
    path.write_bytes(path.read_bytes() + damage + b"\n")

    again = Journal(path, GRID)
    again.append(rows[1:])

    assert again.chunks == 1
    assert list(again.rows()) == rows
    again.close()


def test_a_journal_that_remembers_nothing_leaves_nothing(tmp_path: Path) -> None:
    """As when a cluster could not be reached."""
    Journal(tmp_path / "journal", GRID).close()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("before", ["another question", "no journal at all", "half a first line"])
def test_what_is_no_answer_to_the_question_is_replaced(tmp_path: Path, before: str) -> None:
    path = tmp_path / "journal"
    if before == "another question":
        journal = Journal(path, Sweep(alphas=(0.5,), speed_ratios=(5.0,)))
        journal.append(list(run(GRID))[:1])
        journal.close()
    elif before == "half a first line":
        path.write_bytes(b'{"about":{"alphas":[0.5,')
    else:
        path.write_text("dear diary\n", encoding="utf-8")

    journal = Journal(path, GRID)

    assert journal.replaced
    assert (journal.chunks, list(journal.rows())) == (0, [])
    journal.close()


# -- what it costs ---------------------------------------------------------------------------------


def test_no_power_is_taken_of_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A power calls the mathematics library for each run: it took nine tenths of a sweep.

    Also where the best gamma is looked for in the law of the runs. What is counted is shown to be
    seen by what does go over all runs.
    """

    def seen(luck: WeightedRuns) -> WeightedRuns:
        return dataclasses.replace(luck, runs=watched(luck.runs), weights=watched(luck.weights))

    law, drawn = twin.exact.__wrapped__, twin.drawn
    monkeypatch.setattr(np, "asarray", np.asanyarray)  # which goes on watching
    monkeypatch.setattr(twin, "drawn", lambda *given: seen(drawn(*given)))
    monkeypatch.setattr(twin, "exact", lambda *given: seen(law(*given)))
    grid = Sweep(alphas=(0.97,), speed_ratios=(5.0,), gammas=(4, "auto"), seed=20_261_128)
    Watched.calls.clear()

    points = list(run(grid))

    assert all(row.point.tokens_per_s.interval for row in points if row.point.gamma)
    assert Watched.calls["multiply"] > len(points) * len(FIGURES)
    assert not Watched.calls.keys() & {"power", "float_power"}
