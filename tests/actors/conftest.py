"""What the tests of real execution share: tiny pairs, saved once a session."""

from __future__ import annotations

import pytest

from tests.actors.pairs import SavedPair, save_letter_pair, save_text_pair


@pytest.fixture(scope="session")
def text_pair(tmp_path_factory: pytest.TempPathFactory) -> SavedPair:
    return save_text_pair(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def letter_pair(tmp_path_factory: pytest.TempPathFactory) -> SavedPair:
    return save_letter_pair(tmp_path_factory.mktemp("letters"))
