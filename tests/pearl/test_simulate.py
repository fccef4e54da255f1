"""`pearl simulate`, `profile` and `predict` from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pearl.__main__ import run
from pearl.decoding import trace
from pearl.simulator import profiles
from tests.simulator.profiled import measured_profile

QUICK = ["--tokens", "500", "--replications", "3"]
KEYS = {
    "schedule", "alpha", "speed_ratio", "gamma", "head_start", "tokens", "target_passes",
    "draft_steps", "seconds", "speedup_over_ar", "tokens_per_target_pass", "acceptance_rate",
    "draft_idle", "target_idle", "wasted", "run_length", "events", "wall_s", "interval",
}  # fmt: skip


def answered(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The JSON that a command prints, apart from the time it took."""
    assert run([*arguments, "--json"]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    printed.pop("wall_s", None)
    return printed


def test_the_answer_has_every_figure_with_its_interval(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--gamma", "5", *QUICK, "--json"]) == 0

    printed = json.loads(capsys.readouterr().out)
    assert printed.keys() >= KEYS
    low, high = printed["interval"]["tokens_per_target_pass"]
    assert low < printed["tokens_per_target_pass"] < high
    assert printed["run_length"].keys() >= {"accepted", "emitted", "emitted_given_preverify"}
    assert printed["interval"]["run_length"].keys() == printed["run_length"].keys()


def test_the_same_seed_prints_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    question = ["simulate", "--jitter", "0.2", "--seed", "3", *QUICK]

    assert answered(question, capsys) == answered(question, capsys)
    assert run(question) == 0
    first = capsys.readouterr().out
    assert run(question) == 0
    assert capsys.readouterr().out == first


def test_another_seed_prints_something_else(capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (answered(["simulate", "--seed", s, *QUICK], capsys) for s in ("1", "2"))

    assert one["target_passes"] != other["target_passes"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "question",
    [
        ["--schedule", "ar"],
        ["--schedule", "sd", "--gamma", "3"],
        ["--gamma", "3", "--head-start", "2", "--cancel"],
        ["--acceptance", "bursts:0.8,0.3"],
        ["--acceptance", "positions:0.9,0.8,0.7"],
        ["--acceptance", "mixture:0.5*1,0.9*3", "--requests", "4"],
        ["--link-ms", "2", "--link-jitter-ms", "1", "--control-ms", "0.5", "--growth", "0.05"],
        ["--draft-time", "constant:2", "--target-time", "affine:10,0.5,1"],
        ["--draft-time", "roofline:1,30,1,9e2,2e2", "--target-time", "roofline:16,9,16,9e2,2e2"],
        ["--requests", "6", "--arrivals", "poisson:0.2", "--slots", "2", "--prompt-tokens", "9"],
        ["--requests", "6", "--arrivals", "closed:3", "--tokens", "lognormal:200,0.5"],
        ["--fault", "draft:crash:1:2", "--fault", "target:slow:2:3:4"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_every_kind_of_question_is_answered(
    question: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Both ways to print it; the parts of a device's time sum to the run's length."""
    arguments = ["simulate", *QUICK, *question]

    found = answered(arguments, capsys)

    for device in ("draft", "target"):
        assert sum(found[device].values()) == pytest.approx(found["seconds"])
    assert run(arguments) == 0
    assert "speed over AR" in capsys.readouterr().out


def test_arrivals_come_from_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "seconds.txt").write_text("0\n100\n1000.5\n")
    arrivals = f"file:{tmp_path / 'seconds.txt'}"

    found = answered(["simulate", *QUICK, "--requests", "3", "--arrivals", arrivals], capsys)

    assert found["requests"]["served"] == 3
    assert found["seconds"] > 1000.5


def test_a_trace_of_a_simulation_is_a_trace(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """And the luck in it can be asked what-if questions again."""
    file = tmp_path / "run.json"

    assert run(["simulate", "--gamma", "4", *QUICK, "--trace", str(file)]) == 0
    capsys.readouterr()

    header, records, whole = trace.read(file)
    assert whole
    assert header.about["settings"]["gamma"] == 4
    assert sum(len(getattr(record, "tokens", ())) for record in records) == 500
    again = answered(["simulate", *QUICK, "--acceptance", f"replay:{file}"], capsys)
    assert 0.7 < again["alpha"] < 0.9


def test_a_trace_that_was_cut_off_is_read_as_far_as_it_goes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "run.json"
    assert run(["simulate", "--gamma", "4", *QUICK, "--trace", str(file)]) == 0
    text = file.read_bytes()
    file.write_bytes(text[: len(text) // 2])
    capsys.readouterr()

    assert run(["simulate", *QUICK, "--acceptance", f"replay:{file}"]) == 0

    printed = capsys.readouterr()
    assert "is cut off" in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_first_rounds_are_drawn(
    suffix: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / f"rounds{suffix}"

    assert run(["simulate", "--gamma", "4", *QUICK, "--figure", str(file)]) == 0

    capsys.readouterr()
    assert file.stat().st_size > 1000


COMPLAINTS = {
    "--alpha 1.2": "alpha is 1.2; it must be from 0 to 1",
    "--alpha -0.1": "alpha is -0.1; it must be from 0 to 1",
    "--alpha nan": "alpha is nan; it must be from 0 to 1",
    "--alpha high": "'--alpha': 'high' is not a valid float",
    "--speed-ratio 0": "speed-ratio is 0.0; it must be more than 0",
    "--speed-ratio -2": "speed-ratio is -2.0; it must be more than 0",
    "--speed-ratio inf": "speed-ratio is inf; it must be more than 0",
    "--gamma 0": "gamma is 0; it must be a whole number from 1 to 256, or auto",
    "--gamma -3": "gamma is -3; it must be",
    "--gamma two": "gamma is 'two'; it must be",
    "--head-start -1": "head-start is -1; it must be a whole number from 0 to 256",
    "--schedule fast": "'fast' is not one of 'ar', 'sd', 'pearl'",
    "--schedule sd --cancel": "cancel is set; it must be left out with schedule sd",
    "--acceptance lucky:1": "acceptance is lucky:1; it must be one of",
    "--acceptance bursts:0.5": "acceptance is bursts:0.5; it must be bursts with another count",
    "--acceptance bursts:0.5,2": "correlation is 2.0; it must be from 0 to below 1",
    "--acceptance independent:x": "acceptance is independent:x; it must be independent: and numb",
    "--acceptance mixture:0.5": "it must be mixture:RATE*WEIGHT,RATE*WEIGHT",
    "--acceptance replay:none.json": "none.json",
    "--alpha 0.5 --acceptance bursts:0.5,0.1": "are both given; give one",
    "--tokens 0": "tokens is 0; it must be 1 or more",
    "--tokens many": "tokens is many; it must be one of N, uniform, geometric, lognormal",
    "--tokens uniform:9,3": "low is 9; it must be from 1 to high, 3",
    "--requests 0": "requests is 0; it must be 1 or more",
    "--arrivals crowd": "arrivals is crowd; it must be one of file, closed, poisson",
    "--arrivals poisson:0": "rate is 0.0; it must be requests a second, more than 0",
    "--arrivals file:none.txt": "arrivals cannot be read from none.txt",
    "--slots 0": "slots is 0; it must be 1 or more",
    "--link-ms -1": "link-ms is -1.0; it must be 0 or more",
    "--control-ms nan": "control-ms is nan; it must be 0 or more",
    "--growth -1": "growth is -1.0; it must be 0 or more",
    "--jitter -1": "jitter is -1.0; it must be 0 or more",
    "--target-ms 0": "target-ms is 0.0; it must be more than 0",
    "--draft-time constant:1": "draft-time and target-time go together; give both",
    "--draft-time constant:0 --target-time constant:1": "it must be seconds, more than 0",
    "--draft-time warp:9 --target-time constant:1": "must be one of constant, affine, roofline",
    "--speed-ratio 3 --draft-time constant:1 --target-time constant:2": "contradict draft-time",
    "--fault draft:bang:1:2": "fault is draft:bang:1:2; it must be DEVICE:KIND:AT:SECONDS",
    "--fault draft:crash:1:0": "seconds is 0.0; it must be more than 0",
    "--fault draft:stall:1:9 --fault draft:crash:5:2": "keep them apart",
    "--replications 0": "replications is 0; it must be 1 or more",
    "--seed -1": "seed is -1; it must be 0 or more",
    "--figure rounds.gif": "rounds.gif",
    "--figure none/rounds.png": "none/rounds.png cannot be written",
    "--trace none/run.json": "none/run.json cannot be written",
    "--profile none.json": "the profile cannot be read from none.json",
}


@pytest.mark.parametrize("given", COMPLAINTS)
def test_a_question_that_makes_no_sense_is_refused_in_one_line(
    given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["simulate", *given.split()])

    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert COMPLAINTS[given] in printed.err


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """A profile's file."""
    path = tmp_path / "pair.json"
    profiles.write(path, measured_profile())
    return path


def test_a_profile_is_simulated_as_it_was_measured(
    profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answered(["simulate", "--gamma", "4", "--profile", str(profile)], capsys)

    assert found["requests"]["served"] == len(measured_profile().prompts)
    assert found["alpha"] == pytest.approx(measured_profile().luck.rate)


@pytest.mark.parametrize("given", ["--link-ms 1 --target-ms 10", "--control-ms 2 --target-ms 10"])
def test_a_target_that_is_told_waits_for_its_messages(
    given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """10 ms a pass, 2 ms of messages; by default the target alone goes on meanwhile."""
    question = ["simulate", "--schedule", "ar", "--tokens", "100", *given.split()]

    ahead, waiting = (answered([*question, *more], capsys) for more in ([], ["--told"]))

    assert ahead["seconds"] == pytest.approx(100 * 0.010 + 0.002)
    assert waiting["seconds"] == pytest.approx(100 * 0.012)


def test_a_forecast_of_a_target_that_is_told_is_of_a_slower_one(
    profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """AR and PEARL; speculative decoding waits for its window in any case."""
    question = ["predict", "--profile", str(profile), "--gamma", "2"]
    ahead, told = (answered([*question, *more], capsys)["rows"] for more in ([], ["--told"]))

    faster = [
        one["tokens_per_s"] > other["tokens_per_s"] for one, other in zip(ahead, told, strict=True)
    ]
    assert [row["schedule"] for row in ahead] == ["ar", "sd", "pearl"]
    assert faster == [True, False, True]


def test_predict_says_every_setting_with_its_interval(
    profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = ["predict", "--profile", str(profile), "--gamma", "2,auto", "--head-start", "0,2"]

    rows = answered(question, capsys)["rows"]

    named = [(row["schedule"], row["gamma"], row["head_start"]) for row in rows]
    assert named == [
        ("ar", 0, 0), ("sd", 2, 0), ("sd", "auto", 0),
        ("pearl", 2, 0), ("pearl", 2, 2), ("pearl", "auto", 0), ("pearl", "auto", 2),
    ]  # fmt: skip
    for row in rows:
        for name in ("tokens_per_s", "speedup_over_ar"):
            low, high = row["interval"][name]
            assert low <= row[name] <= high
    assert run(question) == 0
    assert len(capsys.readouterr().out.split("pearl")) == 1 + 4


def test_a_profile_of_another_version_is_refused_in_one_line(
    profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = msgspec.json.decode(profile.read_bytes()) | {"version": 2}
    profile.write_bytes(msgspec.json.encode(old))

    assert run(["predict", "--profile", str(profile)]) == 2

    complaint = capsys.readouterr().err
    assert "has version 2, this program reads version 3" in complaint
    assert "made by an earlier version of pearl; measure again with pearl profile" in complaint
    assert complaint.count("\n") == 1


@pytest.mark.parametrize("field", ["pair", "luck", "network", "levels", "machine", "prompts"])
def test_a_profile_with_something_missing_is_refused_in_one_line(
    field: str, profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holed = msgspec.json.decode(profile.read_bytes())
    del holed[field]
    profile.write_bytes(msgspec.json.encode(holed))

    assert run(["simulate", "--profile", str(profile)]) == 2

    complaint = capsys.readouterr().err
    assert f"missing required field `{field}`" in complaint
    assert complaint.count("\n") == 1


def test_the_times_of_a_profile_vary_as_they_were_measured_and_not_otherwise(
    profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["simulate", "--profile", str(profile), "--jitter", "0.1"]) == 2

    assert "jitter contradicts profile" in capsys.readouterr().err


SHAPES = "it must be one value, A,B,C or START:STOP:STEP, each"
PREDICTIONS = {
    "--schedules fast": "schedules is fast; it must be some of ar,sd,pearl",
    "--gamma 0": f"gamma is 0; {SHAPES} whole, from 1 to 256, or auto",
    "--head-start x": f"head-start is x; {SHAPES} whole",
    "--users 0": "users is 0; it must be 1 or more",
}


@pytest.mark.parametrize("given", PREDICTIONS)
def test_a_forecast_that_makes_no_sense_is_refused_in_one_line(
    given: str, profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["predict", "--profile", str(profile), *given.split()])

    printed = capsys.readouterr()
    assert code == 2
    assert PREDICTIONS[given] in printed.err
    assert printed.err.count("\n") == 1


def test_what_if_questions_need_neither_torch_nor_ray() -> None:
    """Nor matplotlib, as long as nothing is drawn; in a fresh interpreter."""
    script = """
import sys
for name in ("torch", "ray", "transformers", "matplotlib", "pyarrow"):
    sys.modules[name] = None
from pearl.__main__ import run
sys.exit(run(["simulate", "--tokens", "50", "--replications", "2"]))
"""
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)

    assert finished.returncode == 0, finished.stderr.decode()


def test_a_recorded_run_comes_out_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "run.json"
    assert run(["simulate", "--gamma", "4", "--jitter", "0.1", *QUICK, "--trace", str(file)]) == 0
    capsys.readouterr()

    found = answered(["replay", str(file)], capsys)

    assert found["same_commands"]
    assert found["same_commits"]
    assert found["same_epochs"]
    assert found["simulated_s"] == pytest.approx(found["recorded_s"], rel=0.01)


def test_a_run_with_another_verdict_does_not(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """So the comparison can fail: one verdict of the file is changed."""
    file = tmp_path / "run.json"
    assert run(["simulate", "--gamma", "4", *QUICK, "--trace", str(file)]) == 0
    file.write_text(file.read_text().replace('"kept":3', '"kept":2', 1))
    capsys.readouterr()

    assert run(["replay", str(file)]) == 1

    assert "differ" in capsys.readouterr().out
