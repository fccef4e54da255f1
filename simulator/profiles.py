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
from pearl.decoding.settings import Settings
from pearl.simulator.acceptance import Replay
from pearl.simulator.costs import AnyCost, Measured
from pearl.simulator.links import Network
from pearl.simulator.workload import ClosedLoop, Recorded, Workload
from pearl.simulator.world import Pair, Scenario

PROFILE_VERSION: Final = 2


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


class Beside(msgspec.Struct, frozen=True, kw_only=True):
    """Passes of the target while the draft writes `window` tokens beside them."""

    window: int
    target: Measured


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A pair on a machine.

    Args:
        machine: what it ran on: processors, versions.
        models: draft and target.
        settings: what ran while acceptance was measured.
        pair: seconds of a draft step, and of a target pass while the draft rests.
        beside: of a target pass while the draft writes, ascending by window. Two busy models
            share caches, memory and processors, so a pass takes longer, and how much longer depends
            on how long the draft is busy.
        network: control and links.
        luck: where draft and target agreed.
        prompts, outputs: tokens of each request.
    """

    version: int = PROFILE_VERSION
    machine: dict[str, str]
    models: dict[str, str]
    settings: Settings
    pair: Pair
    beside: tuple[Beside, ...] = ()
    network: Network
    luck: Luck
    prompts: tuple[int, ...]
    outputs: tuple[int, ...]

    def scenario(self, settings: Settings) -> Scenario:
        """The measured requests one after the other, under other settings."""
        return Scenario(
            settings=settings,
            pair=Pair(draft=self.pair.draft, target=self.target(settings)),
            acceptance=Replay(self.luck.texts),
            network=self.network,
            workload=Workload(
                requests=len(self.prompts),
                arrivals=ClosedLoop(1),
                prompt=Recorded(self.prompts),
                output=Recorded(self.outputs),
            ),
        )

    def target(self, settings: Settings) -> AnyCost:
        """The passes of a schedule: where windows are written beside them, between the measured."""
        alone = self.pair.target
        if not settings.kind.parallel or not self.beside:
            return alone
        windows = [beside.window for beside in self.beside]
        # The window of a policy wanders; the one in the middle stands for it.
        middle = windows[len(windows) // 2]
        gamma = settings.gamma if isinstance(settings.gamma, int) else middle
        above = next((b for b in self.beside if b.window >= gamma), self.beside[-1])
        below = next((b for b in reversed(self.beside) if b.window <= gamma), self.beside[0])
        apart = above.window - below.window
        share = (gamma - below.window) / apart if apart > 0 else 0.0
        single = _blended(below.target, above.target, share)
        return _crowded(single, alone) if isinstance(alone, Measured) else single


def _blended(one: Measured, other: Measured, share: float) -> Measured:
    """The table of single rows that lies so far on the way from one to the other."""

    def between(a: float, b: float) -> float:
        return (1 - share) * a + share * b

    tokens = tuple(sorted({*one.tokens, *other.tokens}))
    return Measured(
        tokens=tokens,
        batches=(1,),
        grid=(tuple(between(one.measured(n), other.measured(n)) for n in tokens),),
        context=between(one.context, other.context),
        per_position=between(one.per_position, other.per_position),
    )


def _crowded(single: Measured, known: Measured) -> Measured:
    """Several rows take as many times of one row as they are known to."""
    grid = tuple(
        tuple(
            single.measured(n) * known.measured(n, rows) / known.measured(n) for n in single.tokens
        )
        for rows in known.batches
    )
    return msgspec.structs.replace(single, batches=known.batches, grid=grid)


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
        message = (
            f"{path} has {said}; this program reads version {PROFILE_VERSION}: "
            "measure it again with pearl profile"
        )
        raise SettingError(message)
