"""Tau against tables of others: one fitted window a pair, and rows that it has not seen."""

from __future__ import annotations

import csv
import runpy
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from pearl.analysis.published import PublishedRun, best_gamma, fit, read, tau, without
from pearl.decoding.errors import SettingError
from pearl.decoding.settings import Settings
from pearl.simulator.acceptance import Independent
from pearl.simulator.answers import run
from pearl.simulator.workload import Fixed, Workload
from pearl.simulator.world import Scenario

COMMAND: Final = Path(__file__).parents[2] / "benchmarks" / "published.py"
TABLE: Final = Path(__file__).resolve().parents[3] / "shared/data/published/nano_pearl_h200.csv"
RATES: Final = (0.5, 0.7, 0.85, 0.96)
needs_table = pytest.mark.skipif(not TABLE.exists(), reason="the published table is not here")


def said(pair: str, gamma: int, rate: float, benchmark: str = "") -> PublishedRun:
    """A row as theory would have it."""
    return PublishedRun(
        pair=pair,
        benchmark=benchmark,
        mean_accepted_tokens=1 / (1 - rate),
        tokens_per_round=float(tau(rate, gamma)),
    )


# -- the published table -------------------------------------------------------------------------


@needs_table
def test_one_window_a_pair_describes_every_published_row_within_six_percent() -> None:
    found = fit(read(TABLE))

    assert len(found.rows) == 96
    assert len(found.gammas) == 6
    assert found.worst <= 0.06
    assert found.median <= 0.03


@needs_table
def test_a_window_describes_benchmarks_that_it_was_not_fitted_to() -> None:
    """Four benchmarks a pair; each predicted by a window that saw the other three."""
    found = without(read(TABLE))

    assert len(found.rows) == 96
    assert found.median <= 0.03
    assert found.worst <= 0.07


@needs_table
def test_another_window_describes_the_rows_worse() -> None:
    """The window is no free choice: one token more or less misses by more."""
    rows = read(TABLE)
    fitted = fit(rows)
    for pair, gamma in fitted.gammas.items():
        own = [row for row in rows if row.pair == pair]
        errors = {
            g: max(abs(np.log(tau(r.acceptance_rate, g) / r.tokens_per_round)) for r in own)
            for g in (gamma - 1, gamma, gamma + 1)
        }
        assert errors[gamma] == min(errors.values())


@needs_table
def test_the_independent_model_is_low_where_acceptance_is_low_and_high_where_it_is_high() -> None:
    """Acceptance comes in bursts: that bends the law in this direction."""
    rows = fit(read(TABLE)).rows
    low = [fitted.error for fitted in rows if fitted.row.acceptance_rate < 0.8]
    high = [fitted.error for fitted in rows if fitted.row.acceptance_rate > 0.9]

    assert np.mean(low) < 0 < np.mean(high)


# -- tables whose window is known ------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [1, 2, 5, 12, 32])
def test_a_table_that_theory_wrote_gives_its_window_back(gamma: int) -> None:
    found = fit([said("a / b", gamma, rate) for rate in RATES])

    assert found.gammas == {"a / b": gamma}
    assert found.worst < 1e-12


def test_each_pair_has_a_window_of_its_own() -> None:
    rows = [said(pair, gamma, rate) for rate in RATES for pair, gamma in (("x", 3), ("y", 8))]

    assert fit(rows).gammas == {"x": 3, "y": 8}


@pytest.mark.slow
def test_runs_of_the_real_schedule_give_their_window_back() -> None:
    rows = []
    for rate in RATES:
        scenario = Scenario(
            settings=Settings(gamma=6, strict=True),
            acceptance=Independent(rate),
            workload=Workload(output=Fixed(20_000)),
        )
        metrics = run(scenario, seed=3).served[0].metrics
        assert metrics.acceptance_rate is not None
        rows.append(
            PublishedRun(
                pair="simulated",
                mean_accepted_tokens=1 / (1 - metrics.acceptance_rate),
                tokens_per_round=metrics.tokens_per_target_pass,
            )
        )

    found = fit(rows)

    assert found.gammas == {"simulated": 6}
    assert found.worst < 0.02


def test_a_row_is_predicted_without_its_benchmark() -> None:
    """One benchmark of three lies: the others do not follow it."""
    rows = [said("p", 6, rate, name) for rate, name in ((0.7, "x"), (0.8, "y"), (0.9, "z"))]
    lie = PublishedRun(pair="p", benchmark="w", mean_accepted_tokens=10.0, tokens_per_round=1.5)

    found = without([*rows, lie])

    assert found.rows[-1].gamma == 6
    assert best_gamma([lie]) != 6


def test_a_pair_with_one_benchmark_has_nothing_to_be_predicted_from() -> None:
    assert without([said("p", 5, 0.8, "x")]).rows == ()


def test_a_table_that_theory_wrote_has_no_errors_fitted_or_held_out() -> None:
    """As `benchmarks/published.py` prints them; a pair with one benchmark is not held out."""
    rows = [said("p", 6, rate, name) for rate, name in ((0.7, "x"), (0.8, "y"), (0.9, "z"))]

    report = runpy.run_path(str(COMMAND))["report"]
    found, lone = report([*rows, said("q", 3, 0.8, "x")]), report(rows[:1])

    assert found["gammas"] == {"p": 6, "q": 3}
    assert found["fitted"]["worst"] < 1e-12
    assert found["held_out"]["worst"] < 1e-12
    assert found["pairs"]["q"]["held_out"] is None
    assert "held_out" not in lone


# -- files -----------------------------------------------------------------------------------------

HEAD: Final = ("mode", "note", "benchmark", "target", "draft", "tokens", "batch_size",
               "mean_accepted_tokens")  # fmt: skip


def table(path: Path, *lines: tuple[str, ...], head: tuple[str, ...] = HEAD) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *lines])
    return path


ALONE: Final = ("AR", "", "maths", "big", "small", "4000", "2", "1.0")
PARALLEL: Final = ("PEARL", "", "maths", "big", "small", "4400", "2", "5.0")


def test_columns_may_stand_in_any_order_among_others(tmp_path: Path) -> None:
    """4,000 tokens alone are 20 prompts of 200; 4,400 in 100 rounds each are 2.2 a round."""
    (row,) = read(table(tmp_path / "t.csv", PARALLEL, ALONE))

    assert row == PublishedRun(
        pair="small / big",
        benchmark="maths",
        batch_size=2,
        mean_accepted_tokens=5.0,
        tokens_per_round=2.2,
    )
    assert row.acceptance_rate == pytest.approx(0.8)


def test_another_report_may_have_had_other_rounds_and_lengths(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", ALONE, PARALLEL)

    (row,) = read(path, rounds_per_prompt=50, ar_tokens_per_prompt=100)

    assert row.tokens_per_round == pytest.approx(2.2)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([PARALLEL], "line 2: no tokens in an autoregressive row of the same run"),
        ([ALONE, (*PARALLEL[:5], "many", *PARALLEL[6:])], "line 3: tokens is 'many'"),
        ([ALONE, PARALLEL[:4]], "no tokens in an autoregressive row"),
        ([ALONE, (*PARALLEL[:7], "0.5")], "mean_accepted_tokens of small / big is 0.5"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused_in_one_line(
    tmp_path: Path, lines: list[tuple[str, ...]], words: str
) -> None:
    with pytest.raises(SettingError, match=words) as refused:
        read(table(tmp_path / "t.csv", *lines))

    assert "\n" not in str(refused.value)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", ALONE[:-1], head=HEAD[:-1])

    with pytest.raises(SettingError, match="no column mean_accepted_tokens; it must have draft"):
        read(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"cannot be read from .*none\.csv: "):
        read(tmp_path / "none.csv")


def test_no_rows_cannot_be_fitted() -> None:
    with pytest.raises(SettingError, match="no rows of PEARL"):
        fit([])
