"""Which device worked and which was idle: the account that makes mutual waiting visible.

At every moment the pair is in one joint state (draft at work or not, target at work or not,
devices down or not, a request being served or not). The ledger adds up the time in each of them, so
the accounts of a device sum to the length of the run by construction.
"""

from __future__ import annotations

import math
from typing import Final, final

import msgspec
from simpy import Environment

from pearl.decoding.messages import DEVICES, DRAFT, TARGET, Device

DRAFT_WORKS: Final = 1
TARGET_WORKS: Final = 2
DRAFT_DOWN: Final = 4
TARGET_DOWN: Final = 8
SERVING: Final = 16
WORKS: Final = {DRAFT: DRAFT_WORKS, TARGET: TARGET_WORKS}
DOWN: Final = {DRAFT: DRAFT_DOWN, TARGET: TARGET_DOWN}


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """How a device spent the run, in seconds; the six parts sum to its length.

    Args:
        useful: at work on what was kept.
        wasted: at work on what was thrown away: draft tokens that no text has, and forwards that
            a crash cut short.
        waiting_for_other: idle while the other device worked.
        waiting_for_messages: idle while neither worked: links and control.
        down: crashed.
        without_work: idle because no request was there.
    """

    useful: float
    wasted: float
    waiting_for_other: float
    waiting_for_messages: float
    down: float
    without_work: float

    @property
    def busy(self) -> float:
        """At work on anything."""
        return self.useful + self.wasted

    @property
    def total(self) -> float:
        """The length of the run."""
        return math.fsum(getattr(self, name) for name in self.__struct_fields__)


@final
class Ledger:
    """Adds up time by joint state."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._state = 0
        self._since = env.now
        self._spent = [0.0] * 32
        self._cut_short = dict.fromkeys(DEVICES, 0.0)

    def set(self, bit: int) -> None:
        """From now on this is so."""
        self._turn_to(self._state | bit)

    def clear(self, bit: int) -> None:
        """From now on it is not."""
        self._turn_to(self._state & ~bit)

    def works(self, device: Device) -> bool:
        """Whether it is at work now."""
        return bool(self._state & WORKS[device])

    def _turn_to(self, state: int) -> None:
        now = self._env.now
        self._spent[self._state] += now - self._since
        self._state, self._since = state, now

    def cut_short(self, device: Device, seconds: float) -> None:
        """A crash ended a forward after so long."""
        self._cut_short[device] += seconds

    def account(self, device: Device, wasted_share: float = 0.0) -> Account:
        """The account so far; so much of the work that was finished was thrown away."""
        self._turn_to(self._state)
        busy = self._sum(WORKS[device])
        lost = self._cut_short[device]
        wasted = lost + wasted_share * (busy - lost)
        other = WORKS[TARGET if device == DRAFT else DRAFT]
        idle = WORKS[device] | DOWN[device]
        return Account(
            useful=busy - wasted,
            wasted=wasted,
            waiting_for_other=self._sum(other, without=idle),
            waiting_for_messages=self._sum(SERVING, without=idle | other),
            down=self._sum(DOWN[device], without=WORKS[device]),
            without_work=self._sum(0, without=idle | other | SERVING),
        )

    def _sum(self, within: int, *, without: int = 0) -> float:
        """The time in all states with these bits and without those."""
        return sum(
            seconds
            for state, seconds in enumerate(self._spent)
            if state & within == within and not state & without
        )
