"""What an engine is made of: checked by kind where it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pearl.actors.deadlines import Patience
from pearl.actors.engine_settings import Devices, EngineSettings
from pearl.decoding.errors import SettingError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("target", 5),
        ("target", ""),
        ("draft", b"model"),
        ("target", "a\0b"),
        ("devices", "tpu"),
        ("dtype", None),
        ("gpus", 1.0),
        ("gpus", True),
        ("startup_s", 0),
        ("placement_s", float("nan")),
        ("patience", 3.0),
        ("trust_remote_code", 1),
    ],
)
def test_settings_of_an_engine_of_another_kind_are_named(name: str, value: object) -> None:
    asked: dict[str, Any] = {name: value}

    with pytest.raises(SettingError, match=f"^{name.replace('_', '-')} is "):
        EngineSettings(**asked)


def test_settings_of_an_engine_take_paths_and_names() -> None:
    asked: dict[str, Any] = {"target": Path("models/one"), "devices": "local"}

    found = EngineSettings(**asked)

    assert found.target == "models/one"
    assert found.devices is Devices.LOCAL


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), "1", True, None])
def test_patience_is_measured_in_seconds(seconds: object) -> None:
    asked: dict[str, Any] = {"draft": seconds}

    with pytest.raises(SettingError, match="it must be seconds, more than 0"):
        Patience(**asked)
