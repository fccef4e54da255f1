"""A grid of what-ifs from the command line: what it writes, what it refuses, how it goes on."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

import pearl.simulator.sweep
from pearl.__main__ import run
from pearl.asking.values import numbers
from pearl.simulator.acceptance import Independent
from pearl.simulator.sweep import COLUMNS, GridPoint, Job, Value, compute
from pearl.simulator.twin import PairTimes, Scheme, answer
from pearl.simulator.world import Pair
from tests.pearl.profiled import saved_profile

AXES = "--alpha 0.5:0.9:0.1 --speed-ratio 2:20:0.5 --gamma 3,5"
GRID = ["sweep", *AXES.split(), "--runs", "64", "--seed", "3"]
POINTS = 5 * 37 * 5
CHUNKS = 4


def test_a_range_includes_its_end_and_its_values_are_clean() -> None:
    rates = numbers("alpha", "0.5:0.98:0.02", "", lambda _: True)

    assert len(rates) == 25
    assert rates[:2] == (0.5, 0.52)
    assert rates[-1] == 0.98
    assert numbers("x", "0:1:0.333333333333", "", lambda _: True)[-1] == 0.999999999999
    assert numbers("x", "0:1:0.3333333333333", "", lambda _: True)[-1] == 0.9999999999999


def test_lists_ranges_and_single_values_mix_and_each_counts_once() -> None:
    assert numbers("x", "5,1:3:1,2,7", "", lambda _: True) == (5.0, 1.0, 2.0, 3.0, 7.0)
    assert numbers("x", None, "", lambda _: True, default="4") == (4.0,)


def test_a_table_says_what_the_twin_says(capsys: pytest.CaptureFixture[str]) -> None:
    asked = "--alpha 0.7 --speed-ratio 4 --gamma 6 --seed 9 --runs 500"

    assert run(["sweep", *asked.split()]) == 0

    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    times = PairTimes(Pair.of(speed_ratio=4))
    assert [row["schedule"] for row in rows] == ["ar", "sd", "pearl"]
    for row in rows:
        scheme = Scheme(row["schedule"], int(row["gamma"]), 0)
        alone = answer(Independent(0.7), scheme, times, seed=9, runs=500)
        assert float(row["tokens_per_s"]) == alone.tokens_per_s.value
        assert float(row["speedup_over_ar_low"]) == alone.speedup_over_ar.low


def test_auto_is_written_as_the_gamma_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    asked = "--alpha 0.8 --speed-ratio 5,10 --schedules pearl"

    assert run(["sweep", *asked.split()]) == 0

    rows = csv.DictReader(capsys.readouterr().out.splitlines())
    assert [(row["gamma"], row["gamma_auto"]) for row in rows] == [("5", "true"), ("10", "true")]


def test_a_profile_gives_what_is_not_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its times always, its luck and its links where no others are named."""
    profile = str(saved_profile(tmp_path / "profile.json"))

    assert run(["sweep", "--profile", profile, "--gamma", "4", "--told"]) == 0
    measured = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert run(["sweep", "--profile", profile, "--alpha", "0.5,0.6", "--link-ms", "0"]) == 0
    asked = list(csv.DictReader(capsys.readouterr().out.splitlines()))

    assert [(row["alpha"], row["speed_ratio"], row["link_ms"]) for row in measured] == (
        [("0.85", "5.0", "")] * 3
    )
    assert float(measured[0]["tokens_per_s"]) == pytest.approx(1 / 0.021)
    assert [row["alpha"] for row in asked] == ["0.5"] * 3 + ["0.6"] * 3
    assert float(asked[0]["tokens_per_s"]) == pytest.approx(1 / 0.02)


@pytest.mark.parametrize("messages", [["--control-ms", "1", "--target-ms", "20"], ["--profile"]])
def test_a_target_that_is_told_waits_for_its_messages(
    messages: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """20 ms a pass and 1 ms of messages; by default the target alone goes on meanwhile."""
    if messages == ["--profile"]:
        messages = ["--profile", str(saved_profile(tmp_path / "profile.json"))]
    speeds = []
    for told in ([], ["--told"]):
        assert run(["sweep", "--schedules", "ar", *messages, *told]) == 0
        (row,) = csv.DictReader(capsys.readouterr().out.splitlines())
        speeds.append(float(row["tokens_per_s"]))

    assert speeds == pytest.approx([1 / 0.020, 1 / 0.021])


def read_csv(path: Path) -> list[list[Value]]:
    """As the other formats have it: numbers as numbers, nothing as None."""
    with path.open(encoding="utf-8", newline="") as file:
        head, *lines = csv.reader(file)
    assert tuple(head) == COLUMNS
    return [[_value(name, cell) for name, cell in zip(head, line, strict=True)] for line in lines]


def _value(name: str, cell: str) -> Any:
    if name == "schedule":
        return cell
    if name in {"gamma", "head_start"}:
        return int(cell)
    return json.loads(cell) if cell else None


@pytest.mark.slow
def test_all_formats_say_the_same(tmp_path: Path) -> None:
    files = [tmp_path / f"table.{suffix}" for suffix in ("csv", "json", "parquet")]
    for file in files:
        assert run([*GRID, "--output", str(file)]) == 0

    told = json.loads(files[1].read_text(encoding="utf-8"))
    table = parquet.read_table(files[2])
    rows = [list(row.values()) for row in told["rows"]]
    assert len(rows) == POINTS
    assert rows == read_csv(files[0])
    assert told["rows"] == table.to_pylist()
    assert json.loads(table.schema.metadata[b"about"]) == told["about"]
    assert told["about"]["alphas"] == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name for file in sorted(files)]


def test_without_a_file_the_table_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(GRID) == 0
    printed = capsys.readouterr().out
    assert run([*GRID, "--output", str(tmp_path / "table.csv")]) == 0

    assert printed == (tmp_path / "table.csv").read_text(encoding="utf-8")


# -- interrupted -------------------------------------------------------------------------------


class Counting:
    """Computes chunks, and is interrupted after so many."""

    def __init__(self, patience: int = 1000) -> None:
        self.patience = patience
        self.places: list[range] = []

    def __call__(self, job: Job) -> list[GridPoint]:
        if len(self.places) == self.patience:
            raise KeyboardInterrupt
        self.places.append(job.places)
        return compute(job)


def interrupted(file: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> Counting:
    """A sweep that came only so far."""
    counting = Counting(after)
    monkeypatch.setattr(pearl.simulator.sweep, "compute", counting)
    assert run([*GRID, "--output", str(file)]) == 130
    return counting


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_an_interrupted_sweep_goes_on_where_it_stopped(
    suffix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """To the same bytes, and without doing twice what was done."""
    whole, halved = tmp_path / f"whole.{suffix}", tmp_path / f"halved.{suffix}"
    assert run([*GRID, "--output", str(whole)]) == 0
    first = interrupted(halved, monkeypatch, after=2)
    assert not halved.exists()
    second = Counting()
    monkeypatch.setattr(pearl.simulator.sweep, "compute", second)
    capsys.readouterr()

    assert run([*GRID, "--output", str(halved)]) == 0

    assert halved.read_bytes() == whole.read_bytes()
    assert (len(first.places), len(second.places)) == (2, CHUNKS - 2)
    assert not set(first.places) & set(second.places)
    found = sum(map(len, first.places)) * 5
    assert f"{found} points found in {halved}.partial" in capsys.readouterr().err
    assert not Path(f"{halved}.partial").exists()


def test_a_chunk_that_was_cut_off_is_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that is killed may be in the middle of a line."""
    whole, halved = tmp_path / "whole.csv", tmp_path / "halved.csv"
    assert run([*GRID, "--output", str(whole)]) == 0
    interrupted(halved, monkeypatch, after=2)
    partial = Path(f"{halved}.partial")
    partial.write_bytes(partial.read_bytes()[:-100])
    second = Counting()
    monkeypatch.setattr(pearl.simulator.sweep, "compute", second)

    assert run([*GRID, "--output", str(halved)]) == 0

    assert len(second.places) == CHUNKS - 1
    assert halved.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("other", ["--seed 4", "--runs 65", "--gamma 3,6", "--growth 0.1"])
def test_what_was_found_for_another_question_is_not_taken(
    other: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "table.csv"
    interrupted(file, monkeypatch, after=2)
    counting = Counting()
    monkeypatch.setattr(pearl.simulator.sweep, "compute", counting)
    capsys.readouterr()

    assert run([*GRID, *other.split(), "--output", str(file)]) == 0

    assert len(counting.places) == CHUNKS
    assert f"{file}.partial was another question's; it begins anew" in capsys.readouterr().err


# -- figures and clusters ----------------------------------------------------------------------


def test_a_map_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = tmp_path / "map.svg"

    asked = "--alpha 0.5,0.9 --speed-ratio 3,9 --runs 0"

    assert run(["sweep", *asked.split(), "--figure", str(figure)]) == 0

    assert "the best gamma of each point" in figure.read_text(encoding="utf-8")
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 * 2 * 3


def test_a_small_sweep_loads_nothing_heavy() -> None:
    """It is done before any of these would have been imported."""
    script = """
import sys
from pearl.__main__ import run
code = run(["sweep", "--alpha", "0.5,0.6"])
heavy = {"matplotlib", "multiprocessing.pool", "pyarrow", "ray", "torch"} & sys.modules.keys()
print(heavy, file=sys.stderr)
sys.exit(code or len(heavy))
"""
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)

    assert finished.returncode == 0, finished.stderr


@pytest.mark.ray
def test_a_cluster_gives_the_same_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """And on standard output there is nothing of Ray's own."""
    here, there = tmp_path / "here.csv", tmp_path / "there.csv"
    assert run([*GRID, "--output", str(here)]) == 0

    assert run([*GRID, "--output", str(there), "--on-ray"]) == 0

    assert there.read_bytes() == here.read_bytes()
    assert capfd.readouterr().out == ""


@pytest.mark.ray
def test_a_cluster_that_is_not_there_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path / "table.csv")]

    assert run([*GRID, *output, "--on-ray", "--ray-address", "127.0.0.1:1"]) == 2

    assert "no Ray cluster can be reached at 127.0.0.1:1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# -- what cannot be done -----------------------------------------------------------------------


@pytest.fixture
def _nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: Job) -> list[GridPoint]:
        pytest.fail("work began before the input was checked")

    monkeypatch.setattr(pearl.simulator.sweep, "compute", never)


def complaint_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command answers with."""
    code = run(arguments)

    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert printed.err.startswith("pearl: ")
    assert printed.err.count("\n") == 1
    return printed.err


SHAPES = "it must be one value, A,B,C or START:STOP:STEP, each"
OPTIONS = {
    "--alpha 1.5": f"alpha is 1.5; {SHAPES} from 0 to 1",
    "--alpha 0.5:1.5:0.1": f"alpha is 1.1; {SHAPES} from 0 to 1",
    "--alpha 0.5:0.9:0": f"alpha is 0.5:0.9:0; {SHAPES} from 0 to 1",
    "--alpha 0.9:0.5:0.1": f"alpha is 0.9:0.5:0.1; {SHAPES}",
    "--alpha 0.9:0.5:-0.1": f"alpha is 0.9:0.5:-0.1; {SHAPES}",
    "--alpha 0.5:0.9": f"alpha is 0.5:0.9; {SHAPES}",
    "--alpha 0.5:0.9:x": f"alpha is 0.5:0.9:x; {SHAPES}",
    "--alpha 0:nan:1": f"alpha is 0:nan:1; {SHAPES}",
    "--alpha 0:inf:1": f"alpha is 0:inf:1; {SHAPES}",
    "--alpha nan": f"alpha is nan; {SHAPES}",
    "--alpha high": f"alpha is high; {SHAPES}",
    "--alpha 0:1:1e-9": "alpha is 0:1:1e-9; it must be a range of at most 1000000 values",
    "--alpha 0.1:0.9:1e-4 --speed-ratio 1:100:0.1":
        "the number of points is 23786973; it must be at most 1000000",
    "--speed-ratio 0": f"speed-ratio is 0; {SHAPES} more than 0",
    "--speed-ratio 0:5:1": f"speed-ratio is 0; {SHAPES} more than 0",
    "--speed-ratio inf": f"speed-ratio is inf; {SHAPES} more than 0",
    "--gamma 0": f"gamma is 0; {SHAPES} whole, from 1 to 256, or auto",
    "--gamma 2.5": f"gamma is 2.5; {SHAPES} whole",
    "--gamma 300,auto": f"gamma is 300; {SHAPES} whole",
    "--gamma best": f"gamma is best; {SHAPES} whole",
    "--head-start -1": f"head-start is -1; {SHAPES} whole, from 0 to 256",
    "--growth -0.1": f"growth is -0.1; {SHAPES} 0 or more",
    "--link-ms -1": f"link-ms is -1; {SHAPES} 0 or more",
    "--control-ms x": f"control-ms is x; {SHAPES} 0 or more",
    "--target-ms 0": "target-ms is 0.0; it must be more than 0",
    "--schedules ar,fast": "schedules is ar,fast; it must be some of ar,sd,pearl",
    "--runs 1": "runs is 1; it must be 0, or 2 or more",
    "--seed -1": "seed is -1; it must be 0 or more",
    "--workers 0": "workers is 0; it must be 1 or more",
    "--alpha 0.5 --acceptance bursts:0.8,0.3": "are both given; give one",
    "--acceptance luck:1": "acceptance is luck:1; it must be one of",
    "--profile /no/such/file.json": "the profile cannot be read from /no/such/file.json",
    "--output table.xlsx": "output is table.xlsx; it must be a name that ends in .csv, .json",
    "--output /no/such/folder/table.csv": "/no/such/folder/table.csv cannot be written",
    "--figure map.pdf": "map.pdf cannot hold a figure",
    "--figure map.png": "a figure needs several values of alpha or speed-ratio",
    "--figure map.png --alpha 0.5,0.6 --link-ms 0,1": "link-ms is 0.0,1.0; it must be one value",
    "--figure map.png --alpha 0.5,0.6 --gamma 4,5": "gamma is 4,5; it must be one value",
    "--figure map.png --acceptance bursts:0.8,0.3": "a figure needs several values of alpha",
}  # fmt: skip


@pytest.mark.usefixtures("_nothing_is_computed")
@pytest.mark.parametrize("options", list(OPTIONS))
def test_what_makes_no_sense_is_named_with_what_is_allowed(
    options: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    assert OPTIONS[options] in complaint_of(["sweep", *options.split()], capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_nothing_is_computed")
def test_a_profile_contradicts_other_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = str(saved_profile(tmp_path / "profile.json"))

    for other in ("--speed-ratio", "--growth", "--target-ms"):
        complaint = complaint_of(["sweep", "--profile", profile, other, "1"], capsys)
        assert "speed-ratio, target-ms and growth contradict profile" in complaint


@pytest.mark.usefixtures("_nothing_is_computed")
def test_a_table_that_needs_a_missing_library_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    complaint = complaint_of([*GRID, "--output", str(tmp_path / "table.parquet")], capsys)

    assert "pyarrow is missing; pip install 'pearl-decoding[parquet]'" in complaint
