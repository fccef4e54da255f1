"""`pearl doctor` says of a pair what starting it would say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pearl.__main__ import run
from tests.actors.pairs import SavedPair
from tests.actors.swapped import swap

METHODS = ["gptq", "awq", "compressed-tensors", "bitsandbytes", "hqq", "aqlm", "quanto"]


def doctor(pair: SavedPair, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """The exit code, and what is said of the pair."""
    code = run(["doctor", *pair.options(), "--devices", "local", "--json"])
    return code, json.loads(capsys.readouterr().out)["pair"]


def other_draft(pair: SavedPair, at: Path) -> SavedPair:
    """The pair with a draft of its own, to be changed."""
    return SavedPair(target=pair.target, draft=Path(shutil.copytree(pair.draft, at / "draft")))


def test_a_sound_pair_fits_together(
    text_pair: SavedPair, capsys: pytest.CaptureFixture[str]
) -> None:
    """And has nothing to add."""
    code, said = doctor(text_pair, capsys)

    assert (code, said["verdict"]) == (0, "draft and target fit together")
    assert "never drafted" not in said


def test_tokens_that_are_never_drafted_are_counted(
    text_pair: SavedPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such a pair is right and may be slow, so it should be known."""
    pair = other_draft(text_pair, tmp_path)
    swap(pair.draft, (60, 61))

    code, said = doctor(pair, capsys)

    assert (code, said["verdict"]) == (0, "draft and target fit together")
    assert said["never drafted"] == "2 tokens, '\\\\' among them"


@pytest.mark.parametrize("method", METHODS)
def test_a_quantised_model_is_refused_with_its_method(
    method: str, text_pair: SavedPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where what reads it is not installed; running it says the same."""
    pair = other_draft(text_pair, tmp_path)
    path = pair.draft / "config.json"
    quantised = {"quantization_config": {"quant_method": method, "load_in_4bit": method[0] == "b"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | quantised))

    code, said = doctor(pair, capsys)
    running = run(["generate", "x", *pair.options(), "--devices", "local"])

    assert (code, running) == (2, 2)
    assert said["problem"].startswith(f"{pair.draft} is quantised with {method}, which cannot be")
    assert said["problem"] in capsys.readouterr().err
