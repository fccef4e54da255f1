"""The file that `pearl generate --trace` writes is enough to run it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from pearl.__main__ import run
from pearl.decoding import trace
from pearl.decoding.errors import MalformedTraceError, SettingError
from pearl.simulator.recording import Replayed, replay_file
from tests.actors.pairs import SavedPair, with_end

PROMPT: Final = "def f(x):"


def _generate(
    pair: SavedPair, file: Path, capsys: pytest.CaptureFixture[str], *more: str
) -> dict[str, Any]:
    local = ["--devices", "local", "--gpus", "0", "--max-new-tokens", "40", "--json"]
    assert run(["generate", PROMPT, *pair.options(), *local, *more, "--trace", str(file)]) == 0
    printed: dict[str, Any] = msgspec.json.decode(capsys.readouterr().out)
    return printed


def _committed(found: Replayed) -> list[int]:
    return [token for record in found.records for token in getattr(record, "tokens", ())]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.json"


@pytest.mark.parametrize(
    "options",
    [
        "--gamma 3",
        "--gamma auto",
        "--schedule ar",
        "--gamma 4 --head-start 2 --strict --temperature 0.7",
        "--gamma 4 --temperature 1 --verifier rejection",
    ],
)
def test_what_the_command_wrote_can_be_replayed(
    options: str, text_pair: SavedPair, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = _generate(text_pair, file, capsys, *options.split())

    found = replay_file(file)

    assert found.same_commands
    assert found.same_commits
    assert found.same_epochs
    assert found.whole
    assert _committed(found) == printed["token_ids"]
    assert found.simulated_s == pytest.approx(found.recorded_s, rel=0.01)


def test_the_file_knows_what_ends_a_text(
    text_pair: SavedPair, tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    eos = _generate(text_pair, file, capsys)["token_ids"][9]
    pair = with_end(text_pair, tmp_path, eos)
    printed = _generate(pair, file, capsys, "--gamma", "3")

    found = replay_file(file)

    assert printed["finish_reason"] == "eos"
    assert found.same_commands
    assert _committed(found) == printed["token_ids"]


def test_a_run_that_a_stop_string_ended_is_refused(
    text_pair: SavedPair, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = _generate(text_pair, file, capsys)["text"]
    assert _generate(text_pair, file, capsys, "--stop", text[6:8])["finish_reason"] == "stop"

    with pytest.raises(SettingError, match="was ended by a stop string"):
        replay_file(file)


def test_a_stop_string_that_never_came_does_no_harm(
    text_pair: SavedPair, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _generate(text_pair, file, capsys, "--gamma", "3", "--stop", "not in there")

    assert replay_file(file).same_commands


def test_a_file_that_is_no_trace_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever names a file is told what is wrong with it, by every verb that reads one."""
    file = tmp_path / "not there.json"
    monkeypatch.setattr("pearl.verbs.generate._read_prompt", lambda *_: trace.read(file))

    code = run(["generate", PROMPT])

    assert code == 2
    assert capsys.readouterr().err == (f"pearl: {file} cannot be read: No such file or directory\n")
    with pytest.raises(MalformedTraceError):
        trace.read(file)
