"""What can go wrong with a device, and when."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Sequence
from typing import Final

import msgspec

from pearl.decoding.errors import SettingError
from pearl.decoding.messages import DEVICES, Device
from pearl.decoding.sampling import refuse_unless
from pearl.simulator.costs import LONGEST_S

MOST_FACTOR: Final = 1e6


class FaultKind(enum.StrEnum):
    """Three ways."""

    STALL = "stall"  # it stands still, and goes on where it was
    SLOW = "slow"  # every forward takes `factor` times as long
    CRASH = "crash"  # it forgets everything, and is back after so many seconds


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One device, out of order from `at` for so many seconds."""

    device: Device
    kind: FaultKind
    at: float
    seconds: float
    factor: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot happen."""
        refuse_unless(
            self, "at", f"seconds, from 0 to {LONGEST_S:g}", fine=0 <= self.at <= LONGEST_S
        )
        fine = 0 < self.seconds <= LONGEST_S
        refuse_unless(self, "seconds", f"more than 0, at most {LONGEST_S:g}", fine=fine)
        slows = self.kind is FaultKind.SLOW
        fine = (1 / MOST_FACTOR <= self.factor <= MOST_FACTOR) if slows else self.factor == 1
        allowed = (
            f"from {1 / MOST_FACTOR:g} to {MOST_FACTOR:g}"
            if slows
            else f"left out with {self.kind}"
        )
        refuse_unless(self, "factor", allowed, fine=fine)


def check_apart(faults: Sequence[Fault]) -> None:
    """A device can have one fault at a time.

    Raises:
        SettingError: two of one device overlap.
    """
    for device in DEVICES:
        own = sorted((fault for fault in faults if fault.device == device), key=lambda f: f.at)
        for first, second in itertools.pairwise(own):
            if second.at < first.at + first.seconds:
                message = (
                    f"the {device} has a fault at {second.at:g} s, "
                    f"before the one at {first.at:g} s is over; keep them apart"
                )
                raise SettingError(message)
