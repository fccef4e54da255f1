"""What lies between the scheduler and a device: latency, bandwidth, jitter.

Like TCP, a link keeps the order of its messages: none arrives before one that was sent earlier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

import msgspec

from decoding.messages import Command, Event, Judge, Judged, Propose, Proposed
from decoding.sampling import refuse_unless

if TYPE_CHECKING:
    import numpy as np
    from simpy import Environment

MESSAGE_BYTES: Final = 64  # what a job or an answer takes without its tokens
TOKEN_BYTES: Final = 5


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """One device's connection, the same in both directions.

    Args:
        latency_s: seconds a message takes at least.
        jitter_s: mean of an exponential time on top of it.
        bandwidth: bytes per second; 0 stands for more than anybody can fill.
        law_bytes: of one distribution, where the verifier needs those (rejection).
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    bandwidth: float = 0.0
    law_bytes: int = 0

    def __post_init__(self) -> None:
        """Refuse what would run backwards."""
        for name in self.__struct_fields__:
            refuse_unless(self, name, "0 or more", fine=0 <= getattr(self, name) < float("inf"))

    @property
    def mean_s(self) -> float:
        """Seconds of a short message, on average."""
        return self.latency_s + self.jitter_s


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """The links of both devices, and the scheduler between them.

    Args:
        draft, target: the links.
        control_s: seconds the scheduler takes from an answer to each command that follows.
    """

    draft: Link = Link()
    target: Link = Link()
    control_s: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what would run backwards."""
        fine = 0 <= self.control_s < float("inf")
        refuse_unless(self, "control_s", "seconds, 0 or more", fine=fine)


@final
class Line:
    """One direction of a link."""

    def __init__(self, env: Environment, link: Link, rng: np.random.Generator) -> None:
        self._env = env
        self._link = link
        self._rng = rng
        self._latest = 0.0  # arrival of the last message
        self._instant = link.latency_s == link.jitter_s == link.bandwidth == 0

    def carry(
        self, message: Command | Event, deliver: Callable[[], None], delay_s: float = 0.0
    ) -> None:
        """Deliver a message, so much later than the link alone would."""
        if self._instant and delay_s == 0:
            deliver()
            return
        now = self._env.now
        arrival = max(now + delay_s + self._seconds(message), self._latest)
        self._latest = arrival
        self._env.timeout(arrival - now).callbacks.append(lambda _: deliver())

    def _seconds(self, message: Command | Event) -> float:
        link = self._link
        seconds = link.latency_s
        if link.jitter_s:
            seconds += link.jitter_s * self._rng.standard_exponential()
        if link.bandwidth:
            seconds += _size(message, link.law_bytes) / link.bandwidth
        return seconds


def _size(message: Command | Event, law_bytes: int) -> int:
    """Bytes on the wire, about."""
    match message:
        case Propose():
            return MESSAGE_BYTES + TOKEN_BYTES * len(message.pending)
        case Judge():
            return MESSAGE_BYTES + (TOKEN_BYTES + law_bytes) * len(message.pending)
        case Proposed():
            return MESSAGE_BYTES + (TOKEN_BYTES + law_bytes) * len(message.drafted)
        case Judged():
            return MESSAGE_BYTES + TOKEN_BYTES
        case _:
            return MESSAGE_BYTES
