"""`pearl demo` and `pearl doctor`, with tiny models in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
import pytest
from rich.console import Console

from pearl.__main__ import run
from pearl.actors.engine import Engine, Result
from pearl.decoding import trace
from pearl.decoding.kinds import SCHEDULES
from pearl.decoding.messages import Drafted, Judged, Proposed
from pearl.decoding.settings import Settings
from pearl.showing.timeline import timeline
from pearl.verbs import demo
from tests.actors.pairs import SavedPair

LOCAL: Final = ["--devices", "local", "--gpus", "0"]


def test_the_demo_shows_three_schedules_that_agree_and_writes_the_trace(
    text_pair: SavedPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.json"

    code = run(
        ["demo", *text_pair.options(), *LOCAL, "--max-new-tokens", "12", "--trace", str(file)]
    )

    shown = capsys.readouterr().out
    assert code == 0
    assert "The three texts are identical, token for token, on every prompt." in shown
    assert all(kind.title in shown for kind in SCHEDULES.values())
    header, records, whole = trace.read(file)
    assert whole
    assert records
    assert trace.about(file, header).settings.schedule == "pearl"


def test_texts_that_differ_are_said_to_differ_and_where(
    text_pair: SavedPair,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A demo that could not fail would show nothing."""
    seeds = iter(range(100))
    generate = demo._generate

    async def with_another_seed(
        engine: Engine, prompt: str, settings: Settings, console: Console | None
    ) -> Result:
        changed = msgspec.structs.replace(settings, seed=next(seeds))
        return await generate(engine, prompt, changed, console)

    monkeypatch.setattr(demo, "_generate", with_another_seed)

    code = run(
        ["demo", *text_pair.options(), *LOCAL, "--max-new-tokens", "12", "--temperature", "1",
         "--trace", str(tmp_path / "run.json")]
    )  # fmt: skip

    assert code == 1
    assert "differs from ar on prompt 1 at token 0" in capsys.readouterr().out


def test_the_timeline_has_a_bar_for_each_device() -> None:
    """Two rounds are skipped: they read the prompt."""
    records: list[trace.Record] = []
    for at in range(4):
        wrote = Proposed(
            job=1, epoch=0, start=at, drafted=Drafted(tokens=(1,)), began=at, ended=at + 0.5
        )
        judged = Judged(job=1, epoch=0, base=at, judged=0, kept=0, token=1, began=at, ended=at + 1)
        records += [_received(wrote), _received(judged)]

    head, target, draft = timeline(records, 24).split("\n")

    assert head == "2 rounds of PEARL in 2000 ms; tokens: 1  1"
    assert target == "  target  ██████▓▓▓▓▓▓"
    assert draft == "   draft  ███···▓▓▓···"


def _received(event: Proposed | Judged) -> trace.Received:
    return trace.Received(
        at=event.ended,
        request=1,
        event=event,
        wanted=True,
        tokens=(),
        epoch=0,
        kept=0,
        rejections=0,
    )


def test_the_doctor_says_that_a_pair_fits(
    text_pair: SavedPair, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["doctor", *text_pair.options(), "--gpus", "0", "--json"])

    report = msgspec.json.decode(capsys.readouterr().out)
    assert code == 0
    assert report["pair"]["verdict"] == "draft and target fit together"
    assert report["packages"]["torch"] != "not installed"
    assert report["machine"]["cores"] >= 1


def test_the_doctor_says_why_a_pair_does_not_fit(
    text_pair: SavedPair, letter_pair: SavedPair, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = ["--target", str(text_pair.target), "--draft", str(letter_pair.draft)]

    code = run(["doctor", *mixed, "--gpus", "0"])

    assert code == 2
    assert "problem" in capsys.readouterr().out
