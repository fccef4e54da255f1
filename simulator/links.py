"""What lies between the scheduler and a device: messages, latency, bandwidth, jitter.

Like TCP, a link keeps the order of its messages: none arrives before one that was sent earlier.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias, final

import msgspec
import numpy as np
from simpy import Environment

from pearl.decoding.messages import (
    Command,
    Event,
    Foresight,
    Judge,
    Judged,
    Order,
    Propose,
    Proposed,
)
from pearl.decoding.sampling import refuse_unless
from pearl.simulator.costs import LONGEST_S, SHORTEST_S

Message: TypeAlias = Order | Event
Deliver: TypeAlias = Callable[[int, Any], None]

MESSAGE_BYTES: Final = 64  # what a job or an answer takes without its tokens
TOKEN_BYTES: Final = 5
DELAYS: Final = f"seconds, 0 or from {SHORTEST_S:g} to {LONGEST_S:g}"


def is_delay(seconds: float) -> bool:
    """Whether a message can take so long: not at all, or what a clock can tell from that."""
    return seconds == 0 or SHORTEST_S <= seconds <= LONGEST_S


class Ways(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds that a device's messages take as they were measured, by what else happens then.

    Args:
        after_window, after_verdict: on the way out, of a command that follows a window, or a
            verdict (or the beginning of a request): the device has rested for longer then.
        alone, beside: on the way back, of an answer that leaves while the other device rests, or
            works.
    """

    after_window: float = 0.0
    after_verdict: float = 0.0
    alone: float = 0.0
    beside: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what would run backwards."""
        for name in self.__struct_fields__:
            refuse_unless(self, name, DELAYS, fine=is_delay(getattr(self, name)))

    def slowed(self, factor: float) -> Ways:
        """The same on a machine that is so many times as slow."""
        return Ways(**{name: factor * getattr(self, name) for name in self.__struct_fields__})


NO_WAYS: Final = Ways()


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """One device's connection, the same in both directions but for what was measured.

    Args:
        in_turns, at_once: seconds on top of everything else, by kind of message: where nothing is
            written beside the passes, and where something is.
        latency_s: seconds a message takes at least.
        jitter_s: mean of an exponential time on top of it.
        bandwidth: bytes per second of all requests together; 0 stands for more than they can fill.
        law_bytes: of one distribution, where the verifier needs those (rejection).
    """

    in_turns: Ways = NO_WAYS
    at_once: Ways = NO_WAYS
    latency_s: float = 0.0
    jitter_s: float = 0.0
    bandwidth: float = 0.0
    law_bytes: int = 0

    def __post_init__(self) -> None:
        """Refuse what would run backwards."""
        for name in ("latency_s", "jitter_s", "bandwidth", "law_bytes"):
            fine = 0 <= getattr(self, name) < float("inf")
            refuse_unless(self, name, "0 or more", fine=fine)
        for name in ("latency_s", "jitter_s"):
            fine = is_delay(getattr(self, name))
            refuse_unless(self, name, DELAYS, fine=fine)
        fine = self.bandwidth == 0 or self.bandwidth >= 1
        refuse_unless(self, "bandwidth", "0, or 1 byte a second and more", fine=fine)


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """The links of both devices, and the scheduler between them.

    Args:
        draft, target: the links.
        control_s: seconds the scheduler takes from an answer to each order that follows.
        foresight: whether the target begins a job that it knows without waiting for the command
            (`pearl.decoding.foresight`), as the real one does; otherwise it waits for every
            command, as the closed forms presume.
        onward_s: seconds it then takes at least from one pass to the next: the answer is sent,
            and what has come is read. (A target that waits for a command does that meanwhile.)
    """

    draft: Link = Link()
    target: Link = Link()
    control_s: float = 0.0
    foresight: bool = True
    onward_s: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what would run backwards."""
        for name in ("control_s", "onward_s"):
            refuse_unless(self, name, DELAYS, fine=is_delay(getattr(self, name)))

    def slowed(self, factor: float) -> Network:
        """The same with measured ways that take so many times as long."""
        draft, target = (
            msgspec.structs.replace(
                link, in_turns=link.in_turns.slowed(factor), at_once=link.at_once.slowed(factor)
            )
            for link in (self.draft, self.target)
        )
        onward_s = factor * self.onward_s
        return msgspec.structs.replace(self, draft=draft, target=target, onward_s=onward_s)


@final
class Line:
    """One direction of a link."""

    def __init__(self, env: Environment, link: Link, rng: np.random.Generator) -> None:
        self._env = env
        self._link = link
        self._rng = rng
        self._free = 0.0  # when the last message will have been put on the line
        self._latest = 0.0  # when it will arrive
        self._under_way: deque[Callable[[], None]] = deque()
        self._instant = link.latency_s == link.jitter_s == link.bandwidth == 0

    def carry(self, number: int, message: Message, deliver: Deliver, delay_s: float = 0.0) -> None:
        """Deliver a message of a request, so much later than the link alone would."""
        if self._instant and delay_s == 0:
            deliver(number, message)
            return
        now = self._env.now
        self._latest = max(self._sent(message, now + delay_s) + self._latency(), self._latest)
        # Each arrival delivers the oldest message: rounded, an arrival may come before another.
        self._under_way.append(partial(deliver, number, message))
        self._env.timeout(self._latest - now).callbacks.append(
            lambda _: self._under_way.popleft()()
        )

    def _sent(self, message: Message, ready: float) -> float:
        """When the last byte leaves: one message at a time."""
        if not self._link.bandwidth:
            return ready
        seconds = _size(message, self._link.law_bytes) / self._link.bandwidth
        self._free = max(ready, self._free) + seconds
        return self._free

    def _latency(self) -> float:
        link = self._link
        if not link.jitter_s:
            return link.latency_s
        return link.latency_s + link.jitter_s * self._rng.standard_exponential()


def _size(message: Message | Command | Foresight, law_bytes: int) -> int:
    """Bytes on the wire, about."""
    if isinstance(message, Order):
        ahead = _size(message.foresight, law_bytes) - MESSAGE_BYTES if message.foresight else 0
        return _size(message.command, law_bytes) + ahead
    match message:
        case Propose(pending=tokens) | Foresight(window=tokens):
            return MESSAGE_BYTES + TOKEN_BYTES * len(tokens or ())
        case Judge(pending=drafted) | Proposed(drafted=drafted):
            return MESSAGE_BYTES + (TOKEN_BYTES + law_bytes) * len(drafted)
        case Judged():
            return MESSAGE_BYTES + TOKEN_BYTES
        case _:
            return MESSAGE_BYTES
