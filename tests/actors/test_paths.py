"""A model is where its name was typed, wherever the device that loads it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pearl.actors.engine_settings import EngineSettings
from pearl.decoding.messages import Role


@pytest.mark.parametrize("typed", ["model", "./model", "../here/model", "~/model"])
def test_a_folder_is_named_in_full(
    typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "here"
    (home / "model").mkdir(parents=True)
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))

    models = EngineSettings(target=typed, draft=typed).models()

    assert models == dict.fromkeys((Role.DRAFT, Role.TARGET), str(home / "model"))


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-0.5B", "~nobody-here/model", "no such folder"])
def test_what_stands_in_no_folder_stays_as_it_was_typed(name: str) -> None:
    assert EngineSettings(target=name).models()[Role.TARGET] == name
