"""What cannot be done is told in one line, before anything is started."""

from __future__ import annotations

import io
import shutil
import threading
from pathlib import Path

import psutil
import pytest
import torch

from pearl.__main__ import run
from pearl.actors.engine import Engine
from pearl.actors.runners import loading
from tests.actors.pairs import SavedPair


@pytest.fixture(autouse=True)
def _nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that was started would make the test fail, and slow."""

    async def start(*_: object) -> Engine:
        pytest.fail("devices were started before the input was checked")

    monkeypatch.setattr(Engine, "start_pair", start)


def _complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command answers with; it has left nothing behind."""
    before = threading.active_count(), len(psutil.Process().children())

    code = run(arguments)

    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert printed.err.startswith("pearl: ")
    assert printed.err.count("\n") == 1
    assert (threading.active_count(), len(psutil.Process().children())) == before
    return printed.err


OPTIONS = {
    "--gamma 0": "gamma is 0; it must be a whole number from 1 to 256, or auto",
    "--gamma -1": "gamma is -1; it must be",
    "--gamma x": "gamma is 'x'; it must be",
    "--gamma 2.5": "gamma is '2.5'; it must be",
    "--gamma 5000": "gamma is 5000; it must be",
    "--head-start -1": "head-start is -1; it must be a whole number from 0 to 256",
    "--head-start 2 --schedule sd": "head-start is 2; it must be left out with schedule sd",
    "--strict --schedule ar": "strict is True; it must be left out with schedule ar",
    "--temperature -1": "temperature is -1.0; it must be 0 or more",
    "--temperature nan": "temperature is nan; it must be 0 or more",
    "--temperature inf": "temperature is inf; it must be 0 or more",
    "--temperature warm": "'--temperature': 'warm' is not a valid float",
    "--temperature 1 --verifier greedy": "temperature is 1.0; it must be 0 with the greedy",
    "--top-p 0": "top-p is 0.0; it must be above 0 and at most 1",
    "--top-p 1.5": "top-p is 1.5; it must be",
    "--top-k -1": "top-k is -1; it must be 0 (keep all) or a positive whole number",
    "--top-k 99999999999999999999": "top-k is 99999999999999999999; it must be",
    "--min-p 2": "min-p is 2.0; it must be from 0 to 1",
    "--seed 99999999999999999999": "seed is 99999999999999999999; it must be",
    "--max-new-tokens 0": "max-new-tokens is 0; it must be a whole number, 1 or more",
    "--max-new-tokens many": "'--max-new-tokens': 'many' is not a valid integer",
    "--schedule fast": "'fast' is not one of 'ar', 'sd', 'pearl'",
    "--verifier none": "'none' is not one of 'greedy', 'coupled', 'rejection'",
    "--devices tpu": "'tpu' is not one of 'ray', 'local'",
    "--dtype int8": "'int8' is not one of",
    "--no-such-option": "No such option '--no-such-option'",
    "a second prompt": "unexpected extra argument",
    "--trace /no/such/folder/run.json": "/no/such/folder/run.json cannot be written",
    "--prompt-file also.txt": "a prompt and --prompt-file also.txt are both given; give one",
}


@pytest.mark.parametrize("options", list(OPTIONS))
def test_a_setting_that_makes_no_sense_is_named_with_what_is_allowed(
    options: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert OPTIONS[options] in _complaint(["generate", "hello", *options.split()], capsys)


def test_an_empty_stop_string_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """It would end every text before it begins."""
    complaint = _complaint(["generate", "hello", "--stop", ""], capsys)

    assert "it must be several texts of at least one character" in complaint


@pytest.mark.parametrize("prompt", ["", "\udcff"], ids=["empty", "not UTF-8"])
def test_a_prompt_that_is_no_text_is_refused(
    prompt: str, text_pair: SavedPair, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "the prompt is" in _complaint(["generate", prompt, *text_pair.options()], capsys)


def test_an_empty_standard_input_is_an_empty_prompt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))

    assert "the prompt is empty; give at least one" in _complaint(["generate"], capsys)


def test_a_terminal_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever forgot the prompt would sit before a command that seems to hang."""
    terminal = io.StringIO("")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)

    assert "no prompt; give it as an argument" in _complaint(["generate"], capsys)


def test_a_prompt_file_that_cannot_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing, binary = tmp_path / "missing.txt", tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")

    for path in (missing, binary):
        complaint = _complaint(["generate", "--prompt-file", str(path)], capsys)
        assert f"the prompt cannot be read from {path}" in complaint


def test_a_prompt_that_leaves_no_room_is_told_how_much_there_is(
    text_pair: SavedPair, capsys: pytest.CaptureFixture[str]
) -> None:
    complaint = _complaint(["generate", "x, y; " * 2000, *text_pair.options()], capsys)

    assert "tokens, the target leaves room for" in complaint
    assert "shorten it or ask for fewer new tokens" in complaint


def test_more_tokens_than_the_models_hold_are_refused(
    text_pair: SavedPair, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", "hello", *text_pair.options(), "--max-new-tokens", "9999"]

    assert "is 9999, the target holds 4096 positions" in _complaint(arguments, capsys)


def test_a_model_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    complaint = _complaint(["generate", "hello", "--target", "/no/such/model"], capsys)

    assert "there is no folder /no/such/model; give a folder with a model" in complaint


def test_a_folder_without_weights_is_named(
    text_pair: SavedPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = _bare(text_pair, tmp_path)

    complaint = _complaint(["generate", "hello", "--target", str(bare)], capsys)

    assert f"{bare} has no weights; it needs model.safetensors" in complaint


def test_pickled_weights_are_refused_unread(
    text_pair: SavedPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Opening them would run whatever code they hold."""
    pickled = _bare(text_pair, tmp_path)
    torch.save({}, pickled / "pytorch_model.bin")

    complaint = _complaint(["generate", "hello", "--target", str(pickled)], capsys)

    assert f"{pickled} holds only pickled weights" in complaint
    assert "convert them to safetensors" in complaint


def test_an_empty_folder_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    complaint = _complaint(["generate", "hello", "--target", str(tmp_path)], capsys)

    assert f"{tmp_path} has no config.json" in complaint


def test_two_vocabularies_make_no_pair(
    text_pair: SavedPair, letter_pair: SavedPair, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = SavedPair(target=text_pair.target, draft=letter_pair.draft)

    complaint = _complaint(["generate", "hello", *mixed.options()], capsys)

    assert "has 0 of the 300 tokens of target" in complaint
    assert "choose a draft with the target's tokenizer" in complaint


def test_a_target_without_a_draft_runs_alone_or_not_at_all(
    text_pair: SavedPair, capsys: pytest.CaptureFixture[str]
) -> None:
    complaint = _complaint(["generate", "hello", "--target", str(text_pair.target)], capsys)

    assert "schedule is pearl without a draft; name one, or take ar" in complaint


@pytest.mark.parametrize("gpus", ["-1", "2", "3"])
def test_gpus_that_are_not_there_are_refused(
    gpus: str, text_pair: SavedPair, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(loading, "gpu_names", lambda: ["the only one"])

    complaint = _complaint(["generate", "hello", *text_pair.options(), "--gpus", gpus], capsys)

    assert gpus in complaint


def test_help_is_what_a_bare_command_gives(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "Commands:" in capsys.readouterr().err


def test_a_verb_that_does_not_exist_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "No such command 'dance'" in _complaint(["dance"], capsys)


def _bare(pair: SavedPair, folder: Path) -> Path:
    """A model's folder without its weights."""
    ignored = shutil.ignore_patterns("*.safetensors")
    return Path(shutil.copytree(pair.target, folder / "bare", ignore=ignored))
