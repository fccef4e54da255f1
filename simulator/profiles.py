"""What was measured of a real pair on a real machine: the file that `--profile` reads.

`pearl profile` writes it, `Scenario`s are made from it. It is JSON with a version, so that a file
of another one is refused in words and not by a wrong forecast.
"""

from __future__ import annotations

import codecs
import pathlib
from typing import Final

import msgspec

from pearl.decoding import files
from pearl.decoding.errors import SettingError
from pearl.decoding.sampling import refuse_unless
from pearl.decoding.settings import Settings
from pearl.simulator.acceptance import Replay
from pearl.simulator.costs import AnyCost, Measured
from pearl.simulator.links import Network
from pearl.simulator.workload import ClosedLoop, Recorded, Workload
from pearl.simulator.world import Pair, Scenario

PROFILE_VERSION: Final = 3


class Luck(msgspec.Struct, frozen=True, kw_only=True):
    """Where draft and target agreed, as a profile stores it.

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


class BlockLevel(msgspec.Struct, frozen=True, kw_only=True):
    """How many times as long as in the whole measurement everything took in a part of it."""

    draft: float
    target: float
    messages: float


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A pair on a machine.

    Args:
        machine: what it ran on: processors, versions.
        models: draft and target.
        settings: what ran while acceptance was measured.
        pair: seconds of a draft step and of a target pass.
        network: control and links.
        levels: how both drifted from block to block of the measurement.
        luck: where draft and target agreed.
        prompts, outputs: tokens of each request.
    """

    version: int = PROFILE_VERSION
    machine: dict[str, str]
    models: dict[str, str]
    settings: Settings
    pair: Pair
    network: Network
    levels: tuple[BlockLevel, ...]
    luck: Luck
    prompts: tuple[int, ...]
    outputs: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse a measurement of nothing."""
        refuse_unless(self, "levels", "one block or more", fine=len(self.levels) > 0)

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

    def at(self, level: BlockLevel) -> Profile:
        """The same on a machine that is always as slow as it was in one block."""
        draft = _slowed(self.pair.draft, level.draft)
        target = _slowed(self.pair.target, level.target)
        network = self.network.slowed(level.messages)
        return msgspec.structs.replace(self, pair=Pair(draft=draft, target=target), network=network)


def _slowed(cost: AnyCost, factor: float) -> AnyCost:
    return cost.slowed(factor) if isinstance(cost, Measured) else cost


def write(path: pathlib.Path, profile: Profile) -> None:
    """One JSON object, indented for people."""
    files.write(path, msgspec.json.format(msgspec.json.encode(profile), indent=1))


def read(path: pathlib.Path) -> Profile:
    """The profile in a file.

    Raises:
        SettingError: there is none, it is of another version, or something is missing in it.
    """
    try:
        text = files.read(path)
    except OSError as error:
        message = f"the profile cannot be read from {path}: {files.reason(error)}"
        raise SettingError(message) from None
    _check_version(path, text)
    try:
        return msgspec.json.decode(text.removeprefix(codecs.BOM_UTF8), type=Profile)
    except (msgspec.DecodeError, SettingError) as error:
        message = f"{path} is not a whole profile: {error}; measure it again with pearl profile"
        raise SettingError(message) from None


def _check_version(path: pathlib.Path, text: bytes) -> None:
    try:
        found = files.parsed(text)
    except ValueError as error:
        raise SettingError(f"{path} is not a profile: {error}") from None
    version = found.get("version") if isinstance(found, dict) else None
    if version != PROFILE_VERSION:
        said = "no version" if version is None else f"version {version}"
        whose = "an earlier" if version in range(1, PROFILE_VERSION) else "another"
        message = (
            f"{path} has {said}, this program reads version {PROFILE_VERSION}: it was made by "
            f"{whose} version of pearl; measure again with pearl profile"
        )
        raise SettingError(message)
