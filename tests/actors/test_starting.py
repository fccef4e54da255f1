"""Whoever waits for an engine is told what it does, and how far it is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from pearl.actors import pair
from pearl.actors.specs import DeviceSpec
from pearl.actors.starting import loading_of, tell_until
from pearl.decoding.errors import PeerError
from pearl.decoding.messages import TARGET, Device, Role

SPECS = (
    DeviceSpec(role=Role.DRAFT, model="/models/small", vocabulary=8),
    DeviceSpec(role=Role.TARGET, model="owner/large", place="cuda:0", vocabulary=8),
)


class Start:
    """A start that is over when it was asked for its shares so often."""

    def __init__(self, questions: int, error: Exception | None = None) -> None:
        self.left, self.error = questions, error
        self.over = asyncio.Event()
        self.told: list[tuple[str, float | None]] = []

    async def ready(self) -> None:
        await self.over.wait()
        if self.error:
            raise self.error

    async def shares(self) -> Mapping[Device, float]:
        self.left -= 1
        if not self.left:
            self.over.set()
        return {TARGET: 0.43}

    def tell(self, what: str, share: float | None) -> None:
        self.told.append((what, share))


def test_every_device_says_its_model_its_place_and_its_share() -> None:
    """At once, whatever is known by then; a device that has said nothing has read nothing."""

    async def run() -> Start:
        start = Start(questions=1)
        await tell_until(start.ready(), SPECS, start.shares, start.tell)
        return start

    assert asyncio.run(run()).told == [
        ("loading draft small on cpu", 0.0),
        ("loading target large on cuda:0", 0.43),
        ("loading draft small on cpu", 1.0),
        ("loading target large on cuda:0", 1.0),
    ]


def test_a_start_that_fails_fails_with_its_own_words() -> None:
    """And nothing is said to be complete."""

    async def run() -> Start:
        start = Start(questions=1, error=PeerError("the target did not start"))
        with pytest.raises(PeerError, match="the target did not start"):
            await tell_until(start.ready(), SPECS, start.shares, start.tell)
        return start

    assert ("loading draft small on cpu", 1.0) not in asyncio.run(run()).told


def test_the_embedded_pair_is_called_that() -> None:
    """Its folders are called draft and target."""
    spec = DeviceSpec(role=Role.TARGET, model=str(pair.TARGET), vocabulary=8)

    assert loading_of(spec) == "loading target of the embedded pair on cpu"
