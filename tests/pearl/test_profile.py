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
from pearl.decoding.measured import WIDEST
from pearl.decoding.messages import Role
from pearl.decoding.settings import Settings
from pearl.harness import profiling
from pearl.simulator import profiles
from tests.actors.pairs import SavedPair

TOKENS = 24


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "TIMED_TOKENS", TOKENS)


@pytest.mark.slow
def test_a_pair_is_measured_and_then_forecast(
    text_pair: SavedPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pair.json"
    measure = ["profile", "--output", str(file), *text_pair.options(), "--devices", "local"]

    measure += ["--seconds", "1", "--max-new-tokens", str(TOKENS)]
    assert run([*measure, "--gamma", "3", "--count", "3"]) == 0

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

    settings = Settings(gamma=3, max_new_tokens=TOKENS)
    found, _ = await profiling.measure(pair.settings, settings, ["a"], seconds=0.1)

    assert 0.99 * step <= found.pair.draft.seconds(1) < 2 * step
    assert 0.99 * judge <= found.pair.target.seconds(1) < 2 * judge
    assert found.luck.rate == 1
    assert found.outputs == (TOKENS,)


def test_the_blocks_of_a_profile_have_something_of_every_kind() -> None:
    """Acceptance at one gamma only, of each prompt; AR; every window; several at once."""
    asked = [profiling.block(n, Settings(gamma=5), ["a", "b"]) for n in range(profiling.TURNS)]

    lucky = [each for block in asked[: profiling.BLOCKS] for each in block if each.luck is not None]
    assert [each.settings.gamma for each in lucky] == [5, 5]
    assert {(each.luck, each.prompts) for each in lucky} == {(0, ("a",)), (1, ("b",))}
    for block in asked:
        assert {each.settings.schedule for each in block} == set(SCHEDULES)
        small = {each.settings.gamma for each in block if len(each.prompts) == 1}
        assert small >= set(range(1, profiling.OFTEN + 1))
    every = [each for block in asked for each in block]
    for name in ("sd", "pearl"):
        windows = {each.settings.gamma for each in every if each.settings.schedule == name}
        assert windows == set(range(1, WIDEST + 1))
    assert {len(each.prompts) for each in every} == {1, *profiling.CROWDS}
    assert any(each.settings.head_start for each in every)


@pytest.mark.parametrize(
    ("quiet", "busy", "passed", "expected"),
    [
        (0, 0, 0.0, True),
        (2, 0, 500.0, True),
        (3, 0, 99.0, True),
        (3, 0, 100.0, False),
        (2, 9, 150.0, True),
        (2, 9, 200.0, False),
        (9, 9, 101.0, False),
    ],
)
def test_blocks_are_measured_until_the_time_is_over_and_enough_were_quiet(
    quiet: int, busy: int, passed: float, *, expected: bool
) -> None:
    """For a machine that others disturb there is as much time again, and no more."""
    assert profiling._goes_on(quiet, busy, passed, 100.0) is expected


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
