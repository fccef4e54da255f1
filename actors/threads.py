"""Which processor cores each device computes on.

Two models that compute at the same time must not share cores: on two cores a pair whose threads
fight is ten times slower than one that does not. So each device of a pair has cores of its own, and
as many compute threads as cores. What is alone on its processor, such as a target without a draft,
has all of them.

A draft may rest, and its cores with it. The target's threads are then more than its share, and
those above the share are kept on the draft's cores (`pearl.actors.runners.teams`).

May import: the standard library, decoding.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import TYPE_CHECKING

from pearl.decoding.messages import Role

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """What a device may compute on: its `own` cores, and those that are `lent` while all rest."""

    own: list[int]
    lent: list[int]


def cores_of(device: Role, cores: list[int], *, shared: bool) -> Cores:
    """The cores of a device.

    Args:
        cores: that there are.
        shared: whether the other device computes on them too.
    """
    if not shared:
        return Cores(own=cores, lent=[])
    own = cores_for(device, cores)
    lent = [core for core in cores if core not in own] if device is Role.TARGET else []
    return Cores(own=own, lent=lent)


def cores_for(device: Role, cores: list[int]) -> list[int]:
    """This device's share of `cores`: a quarter to the draft, the rest to the target.

    A draft is a small model that reads one token at a time: it gains nothing from many threads.
    A single core is shared.
    """
    if len(cores) < len(Role):
        return cores
    draft = max(1, len(cores) // 4)
    return cores[:draft] if device is Role.DRAFT else cores[draft:]


def available_cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def stay_on(cores: list[int]) -> None:
    """Keep the calling thread, and the threads it starts, on these cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


@contextlib.contextmanager
def starting_on(cores: list[int]) -> Iterator[None]:
    """Have the threads that the calling one starts here stay on these cores; it goes back."""
    own = available_cores()
    stay_on(cores)
    try:
        yield
    finally:
        stay_on(own)
