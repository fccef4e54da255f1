"""The closed forms from the command line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pearl.__main__ import run


def answered(arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert run(["theory", *arguments.split(), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_json_has_all_that_theory_says_of_pearl(capsys: pytest.CaptureFixture[str]) -> None:
    found = answered("--alpha 0.9 --speed-ratio 5 --gamma 5", capsys)

    near = {name: pytest.approx(value, abs=5e-4) for name, value in NUMBERS.items()}
    assert found == {**near, "run_length": {k: pytest.approx(v) for k, v in LENGTHS.items()}}


NUMBERS = {
    "alpha": 0.9,
    "speed_ratio": 5,
    "gamma": 5,
    "head_start": 0,
    "overhead": 0,
    "growth": 0,
    "link": 0,
    "tokens_per_target_pass": 3.127,
    "speedup_over_ar": 3.127,
    "speedup_over_sd": 1.318,
    "best_gamma": 5,
    "best_head_start": 1,
    "break_even_overhead": 2.127,
    "draft_idle": 0,
    "target_idle": 0,
    "wasted": 0.437,
}
LENGTHS = {"accepted": 9, "emitted": 10, "emitted_given_preverify": 11}


def test_gamma_auto_is_the_best_one(capsys: pytest.CaptureFixture[str]) -> None:
    found = answered("--alpha 0.98 --speed-ratio 5 --overhead 1", capsys)

    assert found["gamma"] == found["best_gamma"] == 13


def test_where_no_window_pays_the_best_gamma_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    """A draft that is as slow as the target: PEARL at its best is AR, and so is SD."""
    found = answered("--alpha 0.2 --speed-ratio 1", capsys)

    assert found["gamma"] == found["best_gamma"] == 0
    assert found["speedup_over_ar"] == found["speedup_over_sd"] == 1
    assert found["wasted"] is None


def test_people_read_that_ar_is_as_fast(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["theory", "--alpha", "0.2", "--speed-ratio", "1"]) == 0

    printed = capsys.readouterr().out
    assert "PEARL, no draft" in printed
    assert "PEARL is at its best without a draft" in printed
    assert "nan" not in printed


def test_growing_passes_and_a_slow_link_move_the_best_window(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """g/c = 1 + growth (g - 1) is 9; g/c + link = 1 is 3."""
    grown = answered("--alpha 0.99 --speed-ratio 5 --growth 0.1", capsys)
    linked = answered("--alpha 0.9 --speed-ratio 5 --link 0.4", capsys)

    assert (grown["best_gamma"], linked["best_gamma"]) == (9, 3)
    assert grown["draft_idle"] == pytest.approx(0, abs=0.01)
    assert linked["draft_idle"] == pytest.approx(0.4)


def test_a_head_start_and_an_overhead_count(capsys: pytest.CaptureFixture[str]) -> None:
    plain = answered("--alpha 0.8 --gamma 5", capsys)
    ahead = answered(f"--alpha 0.8 --gamma 5 --head-start {plain['best_head_start']}", capsys)
    slowed = answered("--alpha 0.8 --gamma 5 --overhead 0.5", capsys)

    assert ahead["speedup_over_ar"] == pytest.approx(2.32, abs=5e-3)
    assert slowed["speedup_over_ar"] == pytest.approx(plain["speedup_over_ar"] / 1.5)
    assert slowed["break_even_overhead"] == plain["break_even_overhead"]
    assert slowed["draft_idle"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("alpha", [0, 1])
def test_the_limits_have_answers_too(alpha: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that never ends has no length, which JSON says with null."""
    found = answered(f"--alpha {alpha} --gamma 5", capsys)

    assert found["speedup_over_ar"] == (5 if alpha else 1)
    assert found["run_length"]["emitted"] == (None if alpha else 1)


def test_people_read_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["theory", "--alpha", "0.9", "--speed-ratio", "5"]) == 0

    printed = capsys.readouterr().out
    for row in ("SD, gamma 7 ", "PEARL, gamma 5 ", "PEARL, gamma 5, head start 1 "):
        assert f" {row}" in printed
    assert "100.0%" in printed
    assert "3.147" in printed
    assert "9 tokens accepted, 10 emitted, 11 emitted where the first was accepted" in printed
    assert "as fast as AR at an overhead of 2.127" in printed
    assert "…" not in printed


def test_people_are_told_where_pearl_cannot_win(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["theory", "--alpha", "0.1", "--speed-ratio", "2", "--gamma", "9"]) == 0

    assert "slower than AR whatever the overhead" in capsys.readouterr().out


OPTIONS = {
    "--alpha 2": "alpha is 2.0; it must be from 0 to 1",
    "--alpha nan": "alpha is nan; it must be from 0 to 1",
    "--speed-ratio 0": "speed-ratio is 0.0; it must be more than 0",
    "--speed-ratio inf": "speed-ratio is inf; it must be more than 0",
    "--gamma 0": "gamma is 0; it must be a whole number from 1 to 256, or auto",
    "--gamma few": "gamma is 'few'; it must be a whole number from 1 to 256, or auto",
    "--head-start -1": "head-start is -1; it must be a whole number from 0 to 256",
    "--overhead -1": "overhead is -1.0; it must be 0 or more",
    "--growth -0.1": "growth is -0.1; it must be 0 or more",
    "--link nan": "link is nan; it must be 0 or more",
}


@pytest.mark.parametrize("options", list(OPTIONS))
def test_what_makes_no_sense_is_named_with_what_is_allowed(
    options: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["theory", *options.split()])

    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert printed.err == f"pearl: {OPTIONS[options]}\n"
