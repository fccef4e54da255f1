"""What the tests of both clocks share: a tiny pair, saved once a session."""

from __future__ import annotations

import pytest

from tests.actors.pairs import SavedPair, save_text_pair


@pytest.fixture(scope="session")
def text_pair(tmp_path_factory: pytest.TempPathFactory) -> SavedPair:
    return save_text_pair(tmp_path_factory.mktemp("text"))
