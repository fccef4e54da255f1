"""What the tests of the command line share: tiny models, saved once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from pearl import progress
from tests.actors.pairs import SavedPair, save_letter_pair, save_text_pair

POSITIONS = 4096
"""Room for a run that is long enough to be interrupted."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No start in this process is so slow that it says what it does, on however busy a machine."""
    monkeypatch.setattr(progress, "PATIENCE_S", 1e6)


@pytest.fixture(scope="session")
def text_pair(tmp_path_factory: pytest.TempPathFactory) -> SavedPair:
    return save_text_pair(tmp_path_factory.mktemp("text"), POSITIONS)


@pytest.fixture(scope="session")
def letter_pair(tmp_path_factory: pytest.TempPathFactory) -> SavedPair:
    return save_letter_pair(tmp_path_factory.mktemp("letters"))


@pytest.fixture(scope="session")
def prompt_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompt") / "prompt.txt"
    path.write_text("def f(x):\n", encoding="utf-8")
    return path


def without_stages(said: str) -> str:
    """Standard error without what a slow start says of itself."""
    stages = ("checking the models\n", "starting Ray\n", "loading ")
    return "".join(line for line in said.splitlines(keepends=True) if not line.startswith(stages))
