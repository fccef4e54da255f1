"""The best schedule from the command line: for one pair, and for many drafts of one target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pearl.__main__ import run
from tests.pearl.profiled import saved_profile


def answered(arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert run(["optimise", *arguments.split(), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_one_pair_gets_its_best_schedule_and_the_curves(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = answered("--alpha 0.8 --speed-ratio 5", capsys)

    sd, pearl = found["advice"]["sd"], found["advice"]["pearl"]
    best = found["best"]["choice"]
    assert (best["schedule"], best["gamma"], best["head_start"]) == ("pearl", 5, 1)
    assert sd["choice"]["gamma"] == 4
    assert sd["choice"]["speedup_over_ar"] == pytest.approx(1.868, abs=5e-4)
    assert sd["plateau"] == {"first": 3, "last": 6, "within": 0.05}
    assert [w["gamma"] for w in pearl["windows"]] == list(range(1, 33))
    assert pearl["windows"][4]["loss"] == 0


def test_messages_growth_and_other_kinds_of_luck_count(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = answered("--alpha 0.8", capsys)["best"]["choice"]["speedup_over_ar"]

    for cost in ("--link-ms 5", "--control-ms 5", "--growth 0.1", "--acceptance bursts:0.8,-0"):
        other = answered(f"{cost} {'' if 'bursts' in cost else '--alpha 0.8'}", capsys)
        assert (other["best"]["choice"]["speedup_over_ar"] < plain) == ("bursts" not in cost)


def test_a_measured_pair_is_advised_by_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = saved_profile(tmp_path / "profile.json")

    found = answered(f"--profile {profile}", capsys)["advice"]
    told = answered(f"--profile {profile} --told", capsys)["advice"]

    assert (found["alpha"], found["speed_ratio"]) == (pytest.approx(17 / 20), pytest.approx(5))
    assert found["ar"]["tokens_per_s"] == pytest.approx(1 / 0.020)
    assert told["ar"]["tokens_per_s"] == pytest.approx(1 / 0.021)


def test_speed_is_told_per_device_and_for_all_of_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = answered("--alpha 0.9 --devices 8 --target-devices 2 --target-price 3", capsys)

    ar, sd, *_, pearl = found["placements"]
    assert [ar["devices"], sd["devices"], pearl["devices"]] == [2, 2, 3]
    assert [ar["copies"], sd["copies"], pearl["copies"]] == [4, 4, 2]
    assert pearl["speedup_per_device"] == pearl["choice"]["speedup_over_ar"] / 3
    assert pearl["total_tokens_per_s"] == 2 * pearl["choice"]["tokens_per_s"]
    assert pearl["tokens_per_price"] == pytest.approx(pearl["choice"]["tokens_per_s"] * 3600 / 9)


def test_a_schedule_that_does_not_fit_is_not_advised(capsys: pytest.CaptureFixture[str]) -> None:
    found = answered("--alpha 0.8 --devices 1", capsys)

    assert found["best"]["choice"]["schedule"] == "sd"
    assert [placement["fits"] for placement in found["placements"]] == [True, True, False, False]


def test_people_read_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["optimise", "--alpha", "0.8", "--speed-ratio", "5", "--devices", "4"]) == 0

    printed = capsys.readouterr().out
    assert "fastest on 4 devices: PEARL 5, head start 1, 2.32 times AR" in printed
    assert "fastest per device: SD 4" in printed
    assert "most tokens from all devices: SD 4" in printed
    assert "3 to 6" in printed


CSV = """\
name,alpha,draft_ms,draft_devices
small, 0.6, 2,
middle, 0.8, 5, 1

large, 0.9, 12, 2
"""
JSON = """[
  {"name": "small", "alpha": 0.6, "draft_ms": 2},
  {"name": "middle", "alpha": 0.8, "speed_ratio": 8, "draft_devices": null},
  {"name": "large", "draft_devices": 2,
   "alpha": 0.9, "draft_ms": 12}
]
"""


@pytest.mark.parametrize(("name", "text"), [("drafts.csv", CSV), ("drafts.json", JSON)])
def test_the_best_draft_is_found_among_candidates(
    name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")

    found = answered(f"--candidates {file} --target-ms 40", capsys)

    assert found["winner"] == "middle"
    assert [one["name"] for one in found["candidates"]] == ["middle", "large", "small"]
    ratios = [one["advice"]["speed_ratio"] for one in found["candidates"]]
    assert ratios == pytest.approx([8, 40 / 12, 20])
    assert [one["best"]["devices"] for one in found["candidates"]] == [2, 3, 2]
    assert run(["optimise", "--candidates", str(file), "--target-ms", "40"]) == 0
    assert "middle is the best draft; fastest: PEARL 8" in capsys.readouterr().out


def test_a_draft_that_takes_too_many_devices_cannot_win_with_pearl(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "drafts.csv"
    file.write_text("name,alpha,speed_ratio,draft_devices\na,0.9,5,1\nb,0.92,5,3\n", "utf-8")

    wide, narrow = (answered(f"--candidates {file} --devices {n}", capsys) for n in (4, 3))

    assert (wide["winner"], narrow["winner"]) == ("b", "a")
    assert narrow["candidates"][1]["best"]["choice"]["schedule"] == "sd"


def test_every_draft_can_have_its_price(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "drafts.csv"
    file.write_text("name,alpha,speed_ratio,draft_price\na,0.9,5,1\nb,0.9,5,\n", "utf-8")

    found = answered(f"--candidates {file} --target-price 4", capsys)

    prices = {one["name"]: one["placements"][-1]["price_per_hour"] for one in found["candidates"]}
    assert prices == {"a": 5.0, "b": 8.0}


# -- what cannot be done -----------------------------------------------------------------------


def complaint_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command answers with."""
    code = run(arguments)

    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert printed.err.startswith("pearl: ")
    assert printed.err.count("\n") == 1
    return printed.err


def test_a_name_may_have_what_other_programs_take_for_the_end_of_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "drafts.csv"
    file.write_text("\ufeffname,alpha,speed_ratio,\r\na\u2028b,0.5,5,\r\n", encoding="utf-8")

    assert run(["optimise", "--candidates", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["winner"] == "a\u2028b"


OPTIONS = {
    "--alpha 2": "alpha is 2.0; it must be from 0 to 1",
    "--speed-ratio 0": "speed-ratio is 0.0; it must be more than 0",
    "--target-ms nan": "target-ms is nan; it must be more than 0",
    "--growth -1": "growth is -1.0; it must be 0 or more",
    "--link-ms -1": "link-ms is -1.0; it must be 0 or more",
    "--devices 1 --target-devices 2": "devices is 1; it must be at least target-devices, 2",
    "--target-devices 0": "target-devices is 0; it must be 1 or more",
    "--draft-devices 0": "draft-devices is 0; it must be 1 or more",
    "--target-price 0": "target-price is 0.0; it must be more than 0",
    "--draft-price 1": "draft-price is 1.0; it must be given with target-price",
    "--profile /no/such/file": "the profile cannot be read from /no/such/file",
    "--candidates /no/such/file.csv": "the candidates cannot be read from /no/such/file.csv",
    "--candidates drafts.xlsx": "candidates is drafts.xlsx; it must be a name that ends in .csv",
    "--candidates drafts.csv --alpha 0.5": "alpha is 0.5; it must be left out with candidates",
}


@pytest.mark.parametrize("options", list(OPTIONS))
def test_what_makes_no_sense_is_named_with_what_is_allowed(
    options: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert OPTIONS[options] in complaint_of(["optimise", *options.split()], capsys)


HEAD = "name,alpha,speed_ratio\na,0.5,5\n"
LINES = {
    "line 3, column alpha: 5 is not a number from 0 to 1": HEAD + "b,5,5",
    "line 3, column alpha: high is not a number from 0 to 1": HEAD + "b,high,5",
    "line 3, column alpha: is missing": HEAD + "b,,5",
    "line 3, column name: is missing": HEAD + ",0.5,5",
    "line 3, column name: a is there twice": HEAD + "a,0.6,5",
    "line 3, column speed_ratio: 0 is not a number above 0": HEAD + "b,0.5,0",
    "line 3, column speed_ratio: is missing, and so is draft_ms": HEAD + "b,0.5",
    "line 3: 4 cells in 3 columns": HEAD + "b,0.5,5,6",
    "line 2, column colour: is not known; known are name, alpha": "name,colour\na,red",
    "line 2, column draft_devices: 1.5 is not a whole":
        "name,alpha,speed_ratio,draft_devices\na,0.5,5,1.5",
    "line 2, column speed_ratio: is given, and so is draft_ms":
        "name,alpha,speed_ratio,draft_ms\na,0.5,1,1",
    "line 1: the column alpha is there twice": "name,alpha,alpha,,\na,0.5,0.6,,",
    "has no candidates; it takes columns name, alpha": "name,alpha",
}  # fmt: skip


@pytest.mark.parametrize("complaint", list(LINES))
def test_a_candidate_that_cannot_be_is_named_with_its_line_and_column(
    complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "drafts.csv"
    file.write_text(LINES[complaint], encoding="utf-8")

    told = complaint_of(["optimise", "--candidates", str(file)], capsys)

    assert f"{file}" in told
    assert complaint in told


OBJECTS = {
    "line 3, column alpha: x is not a number":
        '[\n{"name": "a", "alpha": 0.5, "speed_ratio": 5},\n{"name": "b", "alpha": "x"}]',
    "line 2: 7 is no object": "[\n7]",
    "line 1: a list of objects is wanted": '{"name": "a"}',
    "line 2, column 1: Expecting value": "[\n}",
    "has no candidates": "[]",
}  # fmt: skip


@pytest.mark.parametrize("complaint", list(OBJECTS))
def test_the_same_holds_for_json(
    complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "drafts.json"
    file.write_text(OBJECTS[complaint], encoding="utf-8")

    assert complaint in complaint_of(["optimise", "--candidates", str(file)], capsys)
