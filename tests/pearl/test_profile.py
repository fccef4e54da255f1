"""`pearl profile` on a real, tiny pair: from models to a file that forecasts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pearl.__main__ import run
from pearl.actors.engine_settings import Devices, EngineSettings
from pearl.actors.scripts import Script
from pearl.actors.stand_ins import StandInPair, Timed
from pearl.decoding.kinds import SCHEDULES
from pearl.decoding.messages import Role
from pearl.decoding.settings import Settings
from pearl.harness import profiling
from pearl.simulator import profiles
from tests.actors.pairs import SavedPair

TOKENS = 24


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "TIMED_TOKENS", TOKENS)
    monkeypatch.setattr(profiling, "TIMED_PROMPTS", 2)


@pytest.mark.slow
def test_a_pair_is_measured_and_then_forecast(
    text_pair: SavedPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pair.json"
    measure = ["profile", "--output", str(file), *text_pair.options(), "--devices", "local"]

    assert run([*measure, "--gamma", "3", "--count", "3", "--max-new-tokens", str(TOKENS)]) == 0

    found = profiles.read(file)
    assert found.settings.gamma == 3
    assert found.models == {"draft": text_pair.options()[3], "target": text_pair.options()[1]}
    assert len(found.prompts) == 3
    assert all(1 <= tokens <= TOKENS for tokens in found.outputs)
    assert "accepted over 3 prompts" in capsys.readouterr().out
    assert run(["predict", "--profile", str(file), "--gamma", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["schedule"] for row in rows] == ["ar", "sd", "pearl"]
    assert 0 < rows[0]["tokens_per_s"] < 1 / found.pair.target.seconds(1), "a token a pass"


@pytest.mark.slow
async def test_devices_whose_times_are_known_are_found_to_have_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They wait as long as was asked for; a busy machine lets them wait for longer, never shorter.

    A forecast rests on the ratio of the two, and on how often the draft was right.
    """
    step, judge = 0.002, 0.008
    pair = StandInPair(
        settings=EngineSettings(devices=Devices.LOCAL, gpus=0),
        devices={Role.DRAFT: Timed(step), Role.TARGET: Timed(judge)},
        script=Script(acceptance=1.0),
    )
    monkeypatch.setattr(profiling, "fit", lambda *_: pair)

    found = await profiling.measure(pair.settings, Settings(gamma=3, max_new_tokens=TOKENS), ["a"])

    assert 0.99 * step <= found.pair.draft.seconds(1) < 2 * step
    assert 0.99 * judge <= found.pair.target.seconds(1) < 2 * judge
    assert found.luck.rate == 1
    assert found.outputs == (TOKENS,)


def test_the_runs_of_a_profile_are_of_every_kind() -> None:
    """Acceptance at one gamma only; times of every size; several requests at once."""
    asked = profiling.plan(Settings(gamma=5), ["a", "b"])

    lucky = [each for each in asked if each.luck]
    assert [each.settings.gamma for each in lucky] == [5, 5]
    assert {each.prompts for each in lucky} == {("a",), ("b",)}
    assert {each.settings.schedule for each in asked} == set(SCHEDULES)
    assert {each.settings.gamma for each in asked if not each.luck} == {5, *profiling.SIZES}
    assert {len(each.prompts) for each in asked} == {1, *profiling.CROWDS}


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["--gamma", "0"], "gamma is 0; it must be a whole number from 1 to 256"),
        (["--count", "0"], "count is 0; it must be 1 or more"),
        (["--prompts", "none.jsonl"], "the prompts cannot be read from none.jsonl"),
        (["--output", "none/pair.json"], "none/pair.json cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_measurement_that_cannot_be_is_refused_before_anything_starts(
    given: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["profile", "--output", str(tmp_path / "pair.json"), *given])

    printed = capsys.readouterr()
    assert code == 2
    assert complaint in printed.err
    assert printed.err.count("\n") == 1


def test_a_profile_needs_a_draft(
    text_pair: SavedPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path / "pair.json")]

    assert run(["profile", *output, "--target", text_pair.options()[1]]) == 2

    assert "a profile needs a draft beside the target" in capsys.readouterr().err
