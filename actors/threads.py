"""Which processor cores each device computes on.

Two models that compute at the same time must not share cores: on two cores a pair whose threads
fight is ten times slower than one that does not. So each device is given its own cores, and as
many compute threads as cores.

May import: the standard library.
"""

from __future__ import annotations

import os

from pearl.decoding.messages import Role


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
