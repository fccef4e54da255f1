"""What was measured of a real pair on a real machine: the file that `--profile` reads.

`pearl profile` writes it, `Scenario`s are made from it. It is JSON with a version, so that a file
of another one is refused in words and not by a wrong forecast.
"""

from __future__ import annotations

import pathlib
from typing import Final

import msgspec

from decoding.errors import SettingError
from decoding.settings import Settings
from simulator.acceptance import Replay
from simulator.links import Network
from simulator.workload import ClosedLoop, Recorded, Workload
from simulator.world import Pair, Scenario

PROFILE_VERSION: Final = 1


class Luck(msgspec.Struct, frozen=True, kw_only=True):
    """How often, and how, draft and target agreed.

    Args:
        rate: agreed of compared.
        by_position: the same for each position of a window, given that all before it were kept.
        correlation: of neighbouring positions, over all prompts.
        correlation_within: the same with each prompt's own rate taken out: bursts in a text,
            not prompts that differ.
        texts: one a prompt, as `Replay` reads them.
    """

    rate: float
    by_position: tuple[float, ...]
    correlation: float
    correlation_within: float
    texts: tuple[str, ...]


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A pair on a machine.

    Args:
        machine: what it ran on: processors, versions.
        models: draft and target.
        settings: what ran while acceptance was measured.
        pair: seconds of a draft step and a target pass.
        network: control and links.
        luck: acceptance.
        prompts, outputs: tokens of each request.
    """

    version: int = PROFILE_VERSION
    machine: dict[str, str]
    models: dict[str, str]
    settings: Settings
    pair: Pair
    network: Network
    luck: Luck
    prompts: tuple[int, ...]
    outputs: tuple[int, ...]

    def scenario(self, settings: Settings) -> Scenario:
        """The measured requests one after the other, under other settings."""
        return Scenario(
            settings=settings,
            pair=self.pair,
            acceptance=Replay(self.luck.texts),
            network=self.network,
            workload=Workload(
                requests=len(self.prompts),
                arrivals=ClosedLoop(1),
                prompt=Recorded(self.prompts),
                output=Recorded(self.outputs),
            ),
        )


def write(path: pathlib.Path, profile: Profile) -> None:
    """One JSON object, indented for people."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(profile), indent=1))


def read(path: pathlib.Path) -> Profile:
    """The profile in a file.

    Raises:
        SettingError: there is none, it is of another version, or something is missing in it.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        message = f"the profile cannot be read from {path}: {error.strerror}"
        raise SettingError(message) from None
    _check_version(path, text)
    try:
        return msgspec.json.decode(text, type=Profile)
    except msgspec.ValidationError as error:
        message = f"{path} is not a whole profile: {error}; measure it again with pearl profile"
        raise SettingError(message) from None


def _check_version(path: pathlib.Path, text: bytes) -> None:
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        message = f"{path} is not a profile: {error}"
        raise SettingError(message) from None
    version = found.get("version") if isinstance(found, dict) else None
    if version != PROFILE_VERSION:
        said = "no version" if version is None else f"version {version}"
        message = (
            f"{path} has {said}; this program reads version {PROFILE_VERSION}: "
            "measure it again with pearl profile"
        )
        raise SettingError(message)
